"""What a comparison finds: a ratio in a condition, a ratio over conditions, and all of them together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from servegauge.compare.conditions import Condition
from servegauge.compare.effect import FEWEST_FOR_VERDICT
from servegauge.compare.quality import Canary
from servegauge.contract.metric import PRIMARY, TABLE
from servegauge.dataset.study_view import Metric, Study, label

MARGIN = 0.02
EXPLORATORY, PROBES = "exploratory", "probes"
LEVELS = {PRIMARY: 0.05, TABLE: 0.05, EXPLORATORY: 0.1, PROBES: 0.05}
"""Families, and at which adjusted p value a member of each is judged."""

METHODS = {PRIMARY: "Holm", TABLE: "Holm", EXPLORATORY: "Benjamini-Hochberg", PROBES: "Holm"}


@dataclass(frozen=True)
class Judged:
    """What ratios in a condition and ratios over all conditions have in common. None where it is not defined."""

    metric: Metric
    level: Any
    ratio: float | None
    low: float | None
    high: float | None
    p: float | None
    p_equal: float | None
    p_exact: float | None
    pairs: int  # launches of the smaller side
    paired: bool
    deviation: float | None  # between launches of a side, of the logarithm
    verdict: str
    reason: str | None = None  # why not judged, not comparable or below the instrument
    repeats_needed: int | None = None  # in all, to decide what is undecided
    family: str | None = None
    family_size: int | None = None
    p_adjusted: float | None = None
    p_equal_adjusted: float | None = None
    instrument: float | None = None  # the instrument's error / the baseline's value
    instrument_s: float | None = None  # largest error of the instrument among the cells
    warnings: tuple[str, ...] = ()
    repeated: ClassVar[str] = "repeats"  # what there would have to be more of
    measured_by: ClassVar[tuple[str, str]] = ("launch", "launches")

    @property
    def more_repeats(self) -> int | None:
        """About how many more repeats would tell; None unless undecided."""
        return None if self.repeats_needed is None else max(1, self.repeats_needed - self.pairs)

    @property
    def within_instrument(self) -> bool:
        """The difference is not larger than the instrument's own error."""
        return self.instrument is not None and self.ratio is not None and abs(self.ratio - 1) <= self.instrument


@dataclass(frozen=True)
class Ratio(Judged):
    """One metric of one level against the baseline, in one condition."""

    condition: str = ""  # key of Comparison.conditions
    value: float | None = None  # geometric mean over launches
    base_value: float | None = None
    launches: int = 0
    base_launches: int = 0
    unpaired: int = 0  # measured cells that have no partner in their repeat and are left out
    requests: int = 0  # ok, in the smallest cell
    success: float | None = None
    base_success: float | None = None
    flagged: int = 0  # cells with a doubt, see study_view.doubts
    base_flagged: int = 0
    flags: tuple[str, ...] = ()
    supported: bool = True  # the smallest cell carries a 95 % interval of this quantile


@dataclass(frozen=True)
class Overall(Judged):
    """One metric of one level against the baseline over all conditions that may be judged: their geometric mean."""

    conditions: int = 0
    smallest: Ratio | None = None
    largest: Ratio | None = None
    left_out: tuple[str, ...] = ()  # keys of conditions that are not judged


@dataclass
class Comparison:
    """All ratios of a study. `conditions`: key -> the axes that vary and their values; `label` writes them."""

    study: Study
    factor: str
    baseline: Any
    levels: list[Any]  # the baseline first
    margin: float
    primary: list[str]
    conditions: dict[str, dict[str, Any]] = field(default_factory=dict)
    ratios: list[Ratio] = field(default_factory=list)
    overall: list[Overall] = field(default_factory=list)
    again: Comparison | None = None  # the baseline against itself under its second name
    sides: list[Condition] = field(default_factory=list)  # the cells that stand against each other
    families: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    quality: list[Canary] = field(default_factory=list)  # how the levels answered graded questions

    def of(self, metric: str, condition: str | None = None, level: Any = None) -> list[Ratio]:
        """The ratios of a metric, of one condition and level where given."""
        return [
            ratio
            for ratio in self.ratios
            if ratio.metric.name == metric
            and condition in (None, ratio.condition)
            and (level is None or ratio.level == level)
        ]

    def answers(self, level: Any) -> list[Judged]:
        """The answer of each primary metric: over all conditions, or of the first where none of them has a ratio."""
        overall = {one.metric.name: one for one in self.overall if one.level == level}
        found = (overall.get(name) or next(iter(self.of(name, level=level)), None) for name in self.primary)
        return [one for one in found if one is not None]

    @property
    def demonstration(self) -> bool:
        """Too few repeats for any verdict in some condition."""
        return any(one.pairs < FEWEST_FOR_VERDICT for one in self.ratios)

    def label(self, condition: str) -> str:
        """`chat, rate 4`; `everything` where nothing else varies."""
        return label(self.conditions[condition])
