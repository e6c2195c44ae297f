"""How much a level of the compared factor costs: each metric's ratio to the baseline, condition by condition.

A *condition* is everything else that a study varies (framework, model, layout, options, prompts, rate, ...): inside it
only the factor differs. The value of a level is the mean, over its launches, of the cell's statistic; the ratio is that
mean over the baseline's. Where both sides have the same repeat (the same frozen workload), repeats are paired and
unpaired ones are left out.

The interval is a hierarchical bootstrap: launches are drawn with replacement (pairs of them where paired), and inside
each drawn launch its requests are (bootstrap.py). Gaps between chunks of one request depend on each other, so ITL is
drawn as if a cell had as many gaps as requests: wider, never too narrow. Rates have one number a cell, so only their
launches are drawn.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from servegauge.compare.bootstrap import interval, resample_quantile, seed
from servegauge.contract import metrics
from servegauge.contract.spec import canonical_json
from servegauge.dataset.study_view import Metric, Study, axis_value, doubts, label

REPLICATES = 2000
FEW_REPEATS = 5  # below it the bootstrap cannot know how much launches differ


@dataclass(frozen=True)
class Ratio:
    """One metric of one level against the baseline, in one condition. Null where it is not defined."""

    metric: Metric
    condition: str  # key of Comparison.conditions
    level: Any
    value: float
    base_value: float
    ratio: float | None
    low: float | None
    high: float | None
    launches: int
    base_launches: int
    paired: bool
    unpaired: int  # measured cells that have no partner in their repeat and are left out
    requests: int  # ok, in the smallest cell
    flagged: int  # cells with a doubt, see study_view.doubts
    base_flagged: int
    supported: bool  # the smallest cell carries a 95 % interval of this quantile
    instrument_s: float | None  # largest error of the instrument among the cells

    @property
    def clear(self) -> bool:
        """The interval leaves out 1."""
        return self.low is not None and self.high is not None and not self.low <= 1 <= self.high

    @property
    def within_instrument(self) -> bool:
        """The difference is not larger than the instrument's own error."""
        return self.instrument_s is not None and abs(self.value - self.base_value) <= abs(self.instrument_s)


@dataclass(frozen=True)
class Overall:
    """One metric of one level against the baseline over all conditions: geometric mean, and the farthest of them."""

    metric: Metric
    level: Any
    ratio: float
    low: float | None
    high: float | None
    conditions: int
    smallest: Ratio
    largest: Ratio


@dataclass
class Comparison:
    """All ratios of a study. `conditions`: key -> the axes that vary and their values; `label` writes them."""

    study: Study
    factor: str
    baseline: Any
    levels: list[Any]  # the baseline first
    conditions: dict[str, dict[str, Any]] = field(default_factory=dict)
    ratios: list[Ratio] = field(default_factory=list)
    overall: list[Overall] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def of(self, metric: str, condition: str | None = None, level: Any = None) -> list[Ratio]:
        """The ratios of a metric, of one condition and level where given."""
        return [
            ratio
            for ratio in self.ratios
            if ratio.metric.name == metric
            and condition in (None, ratio.condition)
            and (level is None or ratio.level == level)
        ]

    def label(self, condition: str) -> str:
        """`chat, rate 4`; `everything` where nothing else varies."""
        return label(self.conditions[condition])


def compare(study: Study, wanted: Sequence[Metric] | None = None, replicates: int = REPLICATES) -> Comparison | None:
    """Every ratio of `study`; null where nothing is compared. The same data give the same numbers."""
    factor, baseline = study.factor()
    if factor is None:
        return None
    levels = [baseline, *(level for level in study.levels(factor) if level != baseline)]
    result = Comparison(study, factor, baseline, levels)
    wanted = list(wanted or study.metrics)
    groups: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in study.ok:
        axes = {axis: value for axis, value in row["axes"].items() if axis != factor}
        condition = canonical_json(axes)
        result.conditions[condition] = axes
        groups[condition][canonical_json(axis_value(row, factor))].append(row)
    sums = _Sums(replicates)
    for condition, by_level in groups.items():
        base = by_level.get(canonical_json(baseline), [])
        for level in levels[1:]:
            other = by_level.get(canonical_json(level), [])
            if base and other:
                for ratio, drawn in _ratios(study, condition, level, base, other, wanted, replicates):
                    result.ratios.append(ratio)
                    sums.add(ratio, drawn)
    result.overall = sums.overall()
    result.notes = _notes(result, groups)
    return result


def _ratios(
    study: Study,
    condition: str,
    level: Any,
    base: list[dict[str, Any]],
    other: list[dict[str, Any]],
    wanted: Sequence[Metric],
    replicates: int,
) -> Iterable[tuple[Ratio, np.ndarray | None]]:
    """The ratios of one level in one condition, with their replicates."""
    common = sorted({row["repeat"] for row in base} & {row["repeat"] for row in other})
    unpaired = len({row["repeat"] for row in base} ^ {row["repeat"] for row in other}) if common else 0
    if common:
        base, other = (
            sorted((row for row in rows if row["repeat"] in common), key=lambda row: row["repeat"])
            for rows in (base, other)
        )
    families = {metric.family for metric in wanted if metric.family}
    samples = [[study.samples(row, families) for row in rows] for rows in (base, other)]
    # Launches serve several conditions: they are drawn alike in all, so that the mean over conditions is right.
    choose = np.random.default_rng(seed("launches", level, [row["repeat"] for row in (*base, *other)]))
    drawn_base = choose.integers(len(base), size=(replicates, len(base)))
    drawn_other = drawn_base if common else choose.integers(len(other), size=(replicates, len(other)))
    for metric in wanted:
        values = [[row.get(metric.column) for row in rows] for rows in (base, other)]
        if any(value is None for side in values for value in side):
            continue
        rng = np.random.default_rng(seed(metric.name, condition, level))
        base_value, value = (math.fsum(side) / len(side) for side in values)
        counted = [row["requests_ok"] for row in (*base, *other)]
        drawn = None
        if base_value and (metric.family or len(base) > 1 or len(other) > 1):
            below = _resampled(metric, values[0], samples[0], base, drawn_base, rng)
            above = _resampled(metric, values[1], samples[1], other, drawn_other, rng)
            drawn = np.divide(above, below, out=np.full(replicates, np.nan), where=below != 0)
        errors = [
            abs(row[metric.error_column])
            for row in (*base, *other)
            if metric.error_column and row[metric.error_column] is not None
        ]
        low, high = interval(drawn)
        yield (
            Ratio(
                metric=metric,
                condition=condition,
                level=level,
                value=value,
                base_value=base_value,
                ratio=value / base_value if base_value else None,
                low=low,
                high=high,
                launches=len(other),
                base_launches=len(base),
                paired=bool(common),
                unpaired=unpaired,
                requests=min(counted),
                flagged=sum(bool(doubts(row)) for row in other),
                base_flagged=sum(bool(doubts(row)) for row in base),
                supported=metric.quantile is None or min(counted) >= metrics.required_sample(metric.quantile),
                instrument_s=max(errors) if errors else None,
            ),
            drawn,
        )


def _resampled(
    metric: Metric,
    values: Sequence[float],
    samples: Sequence[Mapping[str, np.ndarray]],
    rows: Sequence[Mapping[str, Any]],
    chosen: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Replicates of a level's value: `chosen` (replicates x launches) says which launch each slot draws."""
    drawn = np.empty(chosen.shape)
    for index, row in enumerate(rows):
        slots = chosen == index
        if metric.family is None:
            drawn[slots] = values[index]
        else:
            ordered = samples[index][metric.family]
            count = row["requests_ok"] if metric.family == "itl" else None
            drawn[slots] = resample_quantile(ordered, metric.quantile or 0.5, int(slots.sum()), rng, count)
    return drawn.mean(axis=1)


class _Sums:
    """Geometric means over conditions, replicate by replicate."""

    def __init__(self, replicates: int) -> None:
        self.replicates = replicates
        self.ratios: dict[tuple[str, str], list[Ratio]] = defaultdict(list)
        self.logs: dict[tuple[str, str], np.ndarray | None] = {}

    def add(self, ratio: Ratio, drawn: np.ndarray | None) -> None:
        if not ratio.ratio:
            return
        key = (ratio.metric.name, canonical_json(ratio.level))
        self.ratios[key].append(ratio)
        before = self.logs.get(key, np.zeros(self.replicates))
        usable = drawn is not None and bool((drawn > 0).all()) and before is not None
        self.logs[key] = before + np.log(drawn) if usable else None

    def overall(self) -> list[Overall]:
        found = []
        for key, ratios in self.ratios.items():
            logs = self.logs[key]
            low, high = interval(None if logs is None else np.exp(logs / len(ratios)))
            mean = math.exp(math.fsum(math.log(ratio.ratio) for ratio in ratios) / len(ratios))
            by_size = sorted(ratios, key=lambda ratio: ratio.ratio)
            found.append(
                Overall(ratios[0].metric, ratios[0].level, mean, low, high, len(ratios), by_size[0], by_size[-1])
            )
        return found


def _notes(result: Comparison, groups: Mapping[str, Mapping[str, list[Any]]]) -> list[str]:
    """What limits the comparison, in sentences."""
    notes = []
    if result.ratios:
        fewest = min(min(ratio.launches, ratio.base_launches) for ratio in result.ratios)
        if fewest == 1:
            notes.append(
                "Some sides have a single launch: their intervals hold only the spread between requests, not between "
                "launches, and are too narrow. Set the study's repeat to 5 or more for a claim."
            )
        elif fewest < FEW_REPEATS:
            notes.append(
                f"With {fewest} repeats the intervals know little of how much launches differ and are likely too "
                f"narrow; set the study's repeat to {FEW_REPEATS} or more for a claim."
            )
        if unsupported := sum(not ratio.supported for ratio in result.ratios):
            need = metrics.required_sample(0.99)
            notes.append(
                f"{unsupported} of {len(result.ratios)} ratios are of a quantile that their smallest cell does not "
                f"carry (a p99 needs {need} answered requests); they are marked."
            )
        if flagged := len(
            {row["cell"] for levels in groups.values() for rows in levels.values() for row in rows if doubts(row)}
        ):
            verb = "is flagged; it is" if flagged == 1 else "are flagged; they are"
            notes.append(f"{flagged} of the compared cells {verb} in the ratios and marked.")
    if unpaired := sum({(one.condition, canonical_json(one.level)): one.unpaired for one in result.ratios}.values()):
        notes.append(
            f"{unpaired} measured cell{'s have' if unpaired > 1 else ' has'} no partner of the same repeat on the "
            f"other side and stay{'s' * (unpaired == 1)} out of the ratios."
        )
    base, compared = (
        canonical_json(result.baseline),
        {(ratio.condition, canonical_json(ratio.level)) for ratio in result.ratios},
    )
    wanted = [(condition, canonical_json(level)) for condition in groups for level in result.levels[1:]]
    if lost := [pair for pair in wanted if pair not in compared]:
        without = sum(base not in groups[condition] for condition, _ in lost)
        which = f", in {without} of them the baseline" if without else ""
        count = f"{len(lost)} comparisons are" if len(lost) > 1 else "1 comparison is"
        notes.append(f"{count} missing because a side was not measured{which}.")
    return notes
