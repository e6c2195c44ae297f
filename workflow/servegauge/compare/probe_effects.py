"""Platforms by their probes: each number's ratio to the baseline's, judged as ratios of cells are.

Assumption: the process is the unit. What a probe repeats inside one process shares its memory, placement and clocks, so
a process gives one number, and the processes of the two sides have nothing to do with each other (Welch on logarithms).
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import geometric_mean, median
from typing import Any, ClassVar

from servegauge.compare.effect import unpaired_effect
from servegauge.compare.judging import judged_together
from servegauge.compare.results import MARGIN, PROBES, Judged
from servegauge.compare.sentences import basis, words
from servegauge.compare.verdicts import DIFFERENT, NOT_JUDGED, SLOWER
from servegauge.contract.columns import Row
from servegauge.contract.metric import Statistic
from servegauge.contract.spec import canonical_json
from servegauge.dataset.study_view import Study
from servegauge.probes import registry

FEWEST_PROCESSES = 5
"""Of either side for a verdict. Numbers of one process scatter by less than processes differ."""

LESS_IS_BETTER = ("us", "s")
UNITS = {
    "size_bytes": "bytes", "threads": "threads", "ranks": "ranks", "nodes": "nodes", "tokens": "tokens",
    "batch": "sequences", "context_tokens": "tokens of context", "block_tokens": "tokens a block",
}  # fmt: skip


@dataclass(frozen=True)
class ProbeRatio(Judged):
    """One number of a platform (`level`) over the same of the baseline; `pairs`: processes of the smaller side."""

    baseline: str = ""
    probe: str = ""
    variant: Mapping[str, Any] = field(default_factory=dict)
    value: float | None = None  # geometric mean over processes
    base_value: float | None = None
    processes: int = 0
    base_processes: int = 0
    pays: str | None = None
    repeated: ClassVar[str] = "processes"
    measured_by: ClassVar[tuple[str, str]] = ("process", "processes")

    @property
    def worse(self) -> bool:
        """It was found to be, by more than the margin."""
        return self.verdict == SLOWER

    @property
    def what(self) -> str:
        """The variant in words: `all_reduce, 1048576 bytes, 2 ranks`."""
        parts = []
        for key, value in self.variant.items():
            if key == "tp":
                parts.append(f"TP={value}")
            elif key == "in_place":
                parts.append("in place" if value else "out of place")
            elif key not in ("backend", "device"):
                parts.append(f"{value} {UNITS[key]}" if key in UNITS else str(value))
        return ", ".join(parts)

    def sentence(self, margin: float) -> str:
        """`collectives, all_reduce, ... (time_us) on vgpu: 8.1 % slower (95 % interval ...), and TP=2 pays it`."""
        what = ", ".join(filter(None, (self.probe, self.what)))
        text = f"{what} ({self.metric.name}) on {self.level}: {words(self, margin)}"
        if self.family:
            text += f" ({basis(self, self.verdict in DIFFERENT)})"
        return f"{text}, and {self.pays} pays it" if self.pays and self.worse else text


def variant_of(row: Row) -> dict[str, Any]:
    """A probe row's variant as a dict; the dataset keeps it as JSON."""
    variant = row["variant"]
    return dict(json.loads(variant or "{}") if isinstance(variant, str) or variant is None else variant)


def latest(rows: Iterable[Row]) -> dict[tuple[str, str, str, str], list[Row]]:
    """Rows of each (platform, probe, variant, metric), one per process: the one that was measured last."""
    found: dict[tuple[str, str, str, str], dict[int, Row]] = defaultdict(dict)
    for row in sorted(rows, key=lambda row: row.get("started_utc") or ""):
        key = (row["platform"], row["probe"], canonical_json(variant_of(row)), row["metric"])
        found[key][row.get("process") or 0] = row
    return {key: [one for _, one in sorted(processes.items())] for key, processes in found.items()}


def one_each(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """One row for each number of a platform: the median over its processes; what no process measured stays as it is."""
    found = []
    for processes in latest(rows).values():
        measured = [row for row in processes if row["status"] == "ok" and row["value"] is not None]
        middle = {"value": median(row["value"] for row in measured)} if measured else {}
        found.append({**(measured or processes)[0], **middle})
    return found


def probe_ratios(
    rows: Iterable[Row],
    baseline: str,
    cells: Iterable[Row] = (),
    margin: float | None = None,
) -> list[ProbeRatio]:
    """Every number of every platform over the baseline's, corrected together (Holm), the farthest from 1 first.

    `rows`: of the probes table. `cells`: of the cells table, to say which of their phases depends on each probe. What
    was skipped or failed on either side has no ratio. Of metrics that follow from each other one is compared.
    """
    margin, numbers, cells = margin or MARGIN, latest(rows), list(cells)
    found = []
    for (platform, probe, variant, metric), mine in numbers.items():
        known = registry().get(probe)
        if platform == baseline or (known and metric in known.units and metric not in known.primary):
            continue
        values, base = _values(mine), _values(numbers.get((baseline, probe, variant, metric), ()))
        if values and base:
            about = variant_of(mine[0])
            pays = payer(probe, about, [cell for cell in cells if cell["platform"] in (platform, baseline)])
            found.append(_ratio(mine[0], platform, baseline, values, base, pays, margin))
    judged, _ = judged_together(found, PROBES, margin)
    return sorted(judged, key=lambda one: (-abs(math.log(one.ratio or 1.0)), one.level, one.probe, one.what))


def study_probes(study: Study) -> list[ProbeRatio]:
    """What the probes say of a study's platforms; empty where it does not compare them or nothing was probed."""
    factor, baseline = study.factor()
    return probe_ratios(study.probes, baseline, study.ok, study.margin) if factor == "platform" else []


def _values(rows: Iterable[Row]) -> list[float]:
    """One number per process that measured it; a rate or a time of 0 is none."""
    return [row["value"] for row in rows if row["status"] == "ok" and (row["value"] or 0) > 0]


def _ratio(
    row: Row, platform: str, baseline: str, values: list[float], base: list[float], pays: str | None,
    margin: float,
) -> ProbeRatio:  # fmt: skip
    more = row["unit"] not in LESS_IS_BETTER
    effect = unpaired_effect(base, values, margin, more_is_better=more)
    verdict, reason = effect.verdict or NOT_JUDGED, None
    if effect.pairs < FEWEST_PROCESSES:
        verdict = NOT_JUDGED
        reason = f"{effect.pairs} process{'es' * (effect.pairs != 1)} a side, a verdict takes {FEWEST_PROCESSES}"
    elif effect.verdict is None:
        reason = next(iter(effect.warnings), None)
    return ProbeRatio(
        metric=Statistic(row["metric"], row["metric"], row["unit"], "value", more_is_better=more),
        level=platform,
        **{name: getattr(effect, name) for name in ("ratio", "low", "high", "p", "p_equal", "p_exact", "pairs")},
        paired=False,
        deviation=effect.deviation,
        verdict=verdict,
        reason=reason,
        baseline=baseline,
        probe=row["probe"],
        variant=variant_of(row),
        value=geometric_mean(values),
        base_value=geometric_mean(base),
        processes=len(values),
        base_processes=len(base),
        pays=pays,
    )


def payer(probe: str, variant: Mapping[str, Any], cells: list[Row]) -> str | None:
    """Which phase of which of `cells` depends on this number, by the probe's own word; None where none does."""
    known = registry().get(probe)
    return known.explains(variant, cells) if known and cells else None


def sentences(ratios: Iterable[ProbeRatio], margin: float, most: int = 6) -> list[str]:
    """The losses that were found and that a phase pays, one for each probe, payer and platform, the worst first."""
    found: dict[tuple[str, str, str], ProbeRatio] = {}
    for one in ratios:
        if one.worse and one.pays:
            found.setdefault((one.level, one.probe, one.pays), one)
    return [one.sentence(margin) for one in list(found.values())[:most]]


def probe_rows(study: str, ratios: Iterable[ProbeRatio], margin: float) -> Iterator[dict[str, Any]]:
    """Rows of PROBE_COMPARISON."""
    names = (
        *("baseline", "probe", "value", "base_value", "processes", "base_processes", "pays", "ratio", "low", "high"),
        *("p", "p_equal", "p_adjusted", "p_equal_adjusted", "family_size", "verdict", "reason", "deviation"),
        "repeats_needed",
    )
    for one in ratios:
        yield {
            "study": study,
            "platform": one.level,
            "variant": canonical_json(one.variant),
            "metric": one.metric.name,
            "unit": one.metric.unit,
            "more_is_better": one.metric.more_is_better,
            "margin": margin,
            "sentence": one.sentence(margin),
            **{name: getattr(one, name) for name in names},
        }
