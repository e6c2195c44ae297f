"""Studies whose truth is known, drawn in memory: what `compare()` says of thousands of them shows whether it is right.

A study has two platforms, six conditions and the six metrics of the report's table: 36 cells. A launch's luck is half
its own and half of each metric, and every cell adds noise of its requests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np

from servegauge.compare.compare import compare
from servegauge.compare.looks import widths_of
from servegauge.compare.results import Comparison
from servegauge.compare.verdicts import DIFFERENT, EQUAL, FASTER, FASTER_WITHIN, SLOWER, SLOWER_WITHIN
from servegauge.contract.metric import PRIMARY
from servegauge.contract.records.looks import Look
from servegauge.dataset.study_view import METRICS, Metric, Study

NAMES = ("ttft_p50", "ttft_p99", "tpot_p50", "e2e_p50", "e2e_p99", "output_tokens_per_s")
WANTED = [next(metric for metric in METRICS if metric.name == name) for name in NAMES]
CONDITIONS = 6
REQUEST_NOISE = 0.004  # of the logarithm of a cell's statistic
UNEQUAL = (0.3, 0.6, 1.0, 1.0, 1.5, 2.5)  # times the deviation, by condition


@dataclass(frozen=True)
class Setting:
    """How studies are drawn. `truth`: the ratio of every metric. `deviation`: between launches, of the logarithm.

    `unequal`: the other platform deviates twice as much, and conditions differ (where they have their own launches).
    `distinct`: each condition has launches of its own. `paired`: both sides have the same repeats.
    """

    repeats: int = 5
    deviation: float = 0.03
    truth: float = 1.0
    unequal: bool = False
    distinct: bool = False
    paired: bool = True

    def words(self) -> str:
        """`5 repeats, 3 %, truth 1.05, unequal variances`."""
        said = [f"{self.repeats} repeats", f"{100 * self.deviation:g} %", f"truth {self.truth:g}"]
        said += ["unequal variances"] if self.unequal else []
        said += ["launches distinct"] if self.distinct else []
        return ", ".join([*said, *([] if self.paired else ["unpaired"])])


@dataclass
class SimulatedStudy(Study):
    """A `Study` whose rows were drawn; `drawn` holds the sorted answers of cells that had failures."""

    cells: list[dict[str, Any]]
    axes: list[str]
    name: str = "simulated"
    row: dict[str, Any] = field(default_factory=lambda: {"compare_factor": "platform", "compare_baseline": "base"})
    matrix: dict[str, Any] = field(default_factory=lambda: {"platform": ["base", "other"]})
    slos: dict[str, Any] = field(default_factory=dict)
    drawn: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    again: list[dict[str, Any]] = field(default_factory=list)
    quality: list[dict[str, Any]] = field(default_factory=list)

    wanted: list[Metric] = field(default_factory=lambda: WANTED)

    @property
    def metrics(self) -> list[Metric]:
        return self.wanted

    def node_of(self, row: Mapping[str, Any]) -> str | None:
        return None

    def place_of(self, row: Mapping[str, Any]) -> str | None:
        return None

    def samples(self, row: Mapping[str, Any], family: str) -> np.ndarray:
        return self.drawn[row["cell"]][family]


def simulated(rng: np.random.Generator, setting: Setting) -> SimulatedStudy:
    """One study of this setting."""
    cells = []
    for side, platform in enumerate(("base", "other")):
        first = 1 if setting.paired or not side else 101
        for repeat in range(first, first + setting.repeats):
            luck = _luck(rng, setting, side)
            noise = rng.normal(0, REQUEST_NOISE, (CONDITIONS, len(WANTED)))
            logs = luck + noise + (math.log(setting.truth) if side else 0.0)
            for condition in range(CONDITIONS):
                cells.append(_row(setting, platform, repeat, condition, np.exp(logs[condition])))
    return SimulatedStudy(cells, ["framework", "platform"] if setting.distinct else ["prompts", "platform"])


def _luck(rng: np.random.Generator, setting: Setting, side: int) -> np.ndarray:
    """What a launch adds to each condition and metric, shape (conditions, metrics)."""
    launches = CONDITIONS if setting.distinct else 1
    own, metric = rng.normal(size=(launches, 1)), rng.normal(size=(launches, len(WANTED)))
    luck = np.sqrt(0.5) * (own + metric) * setting.deviation * (2 if setting.unequal and side else 1)
    if setting.unequal and setting.distinct:
        luck = luck * np.array(UNEQUAL)[:, None]
    return luck


def _row(setting: Setting, platform: str, repeat: int, condition: int, values: np.ndarray) -> dict[str, Any]:
    framework = f"server{condition}" if setting.distinct else "server"
    prompts = "chat" if setting.distinct else f"prompts{condition}"
    configuration = f"{framework}-{platform}"
    launch = f"{configuration}-r{repeat}"
    varied = {"framework": framework} if setting.distinct else {"prompts": prompts}
    return {
        "axes": {**varied, "platform": platform},
        "framework": framework,
        "platform": platform,
        "prompts": prompts,
        "configuration": configuration,
        "launch": launch,
        "cell": f"{launch}-{prompts}",
        "repeat": repeat,
        "attempt": 0,
        "status": "ok",
        "flags": [],
        "rate_rps": 4.0,
        "arrival": "poisson",
        "achieved_rps": 4.0,
        "requests": 400,
        "requests_ok": 400,
        **{metric.column: float(value) for metric, value in zip(WANTED, values, strict=True)},
    }


@dataclass
class Found:
    """What was said of many studies: counts of studies, of cells of their tables, and of overall ratios."""

    studies: int = 0
    cells: int = 0
    cells_covered: int = 0
    overall: int = 0
    overall_covered: int = 0
    coloured_cell: int = 0  # studies with any cell that is called different
    coloured_overall: int = 0  # studies with any primary ratio that is called different
    equal_cell: int = 0  # studies with any cell that is called equal, or smaller than the margin
    equal_cells: int = 0
    seen_cells: int = 0
    seen_overall: int = 0

    @property
    def coverage(self) -> float:
        return self.cells_covered / self.cells

    @property
    def coverage_overall(self) -> float:
        return self.overall_covered / self.overall

    def add(self, comparison: Comparison, truth: float) -> None:
        """Count one study."""
        self.studies += 1
        self.cells += len(comparison.ratios)
        self.overall += len(comparison.overall)
        self.cells_covered += sum(one.low <= truth <= one.high for one in comparison.ratios)
        self.overall_covered += sum(one.low <= truth <= one.high for one in comparison.overall)
        primary = [one for one in comparison.overall if one.metric.name in comparison.primary]
        self.coloured_cell += any(one.verdict in DIFFERENT for one in comparison.ratios)
        self.coloured_overall += any(one.verdict in DIFFERENT for one in primary)
        said = [one.verdict in (EQUAL, SLOWER_WITHIN, FASTER_WITHIN) for one in comparison.ratios]
        self.equal_cell += any(said)
        self.equal_cells += sum(said)
        self.seen_cells += sum(one.verdict in (SLOWER, FASTER) for one in comparison.ratios)
        self.seen_overall += sum(one.verdict in (SLOWER, FASTER) for one in primary) / len(primary)


@cache
def judge(setting: Setting, studies: int, seed: int) -> Found:
    """What `compare` says of `studies` studies of a setting; settings with as many repeats share their draws."""
    rng, found = np.random.default_rng([seed, setting.repeats]), Found()
    for _ in range(studies):
        comparison = compare(simulated(rng, setting))
        assert comparison
        found.add(comparison, setting.truth)
    return found


@dataclass
class Stopped:
    """What studies that stopped by `job.stop` said: primary intervals, and repeats."""

    intervals: int = 0
    covered: int = 0
    repeats: int = 0

    @property
    def coverage(self) -> float:
        return self.covered / self.intervals


def stop(setting: Setting, half_width: float, at_most: int, metrics: int, studies: int, seed: int) -> Stopped:
    """Studies of `metrics` metrics that add repeats to those of `setting` until their primary intervals are narrow."""
    rng, found = np.random.default_rng([seed, setting.repeats, metrics]), Stopped()
    primary = [metric for metric in WANTED if PRIMARY in metric.views][:metrics]
    for _ in range(studies):
        whole = simulated(rng, replace(setting, repeats=at_most))
        whole.wanted = primary
        for after in range(setting.repeats, at_most + 1):
            study = replace(whole, cells=[row for row in whole.cells if row["repeat"] <= after])
            comparison = compare(study)
            assert comparison
            if Look(after=after, utc="", widths=widths_of(comparison)).narrow(half_width):
                break
        found.repeats += after
        found.intervals += len(comparison.overall)
        found.covered += sum(one.low <= setting.truth <= one.high for one in comparison.overall)
    return found


def losing(rng: np.random.Generator, setting: Setting, share: float, slowest: bool) -> SimulatedStudy:
    """A study whose other platform fails `share` of its requests, at random or the slowest; the truth is else `truth`.

    A platform that sheds has less to do: what it does answer comes 5 % sooner.
    """
    study = simulated(rng, setting)
    drawn: dict[str, dict[str, np.ndarray]] = {}
    for row in study.cells:
        lost = round(share * row["requests"]) if row["platform"] == "other" else 0
        row["requests_ok"] = row["requests"] - lost
        spread = np.exp(rng.normal(0, 0.3, row["requests"]))
        drawn[row["cell"]] = {}
        for family in ("ttft", "tpot", "e2e"):
            answered = np.sort(row[f"{family}_p50_s"] * spread)
            if lost:
                kept = slice(0, -lost) if slowest else np.sort(rng.permutation(len(answered))[lost:])
                answered = answered[kept] * (1.0 if slowest else 0.95)
            drawn[row["cell"]][family] = answered
            for quantile in (0.5, 0.99):
                row[f"{family}_p{100 * quantile:.0f}_s"] = float(np.quantile(answered, quantile))
        row["output_tokens_per_s"] *= row["requests_ok"] / row["requests"]
        row["achieved_rps"] *= row["requests_ok"] / row["requests"]
    study.drawn = drawn
    return study
