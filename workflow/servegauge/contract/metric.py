"""What a metric is: one declaration says all of it. `metric_registry/` holds them; nothing else lists metrics.

From these declarations follow the columns of `requests`, `cells` and `cell_slos`, the data dictionary, the limits that
a study's SLO may name, what is compared, and what the report, the terminal and `servegauge load` show.

A metric is one of three kinds:

- a *distribution*: a value per request (`per_request`, stored in `requests`) or several (`values`, not stored), of
  which each cell has the mean and the quantiles, with their intervals;
- a number *per cell* (`per_cell`) of the whole window;
- a number *per SLO* (`per_slo`) of the window and of its requests that meet every limit.

The formulas are given a `formulas.Requests` or `formulas.Window`, whose methods do the arithmetic; a declaration
imports neither pyarrow nor numpy, so that reading a study costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from servegauge.contract.formulas import Attained, Requests, Window

CONFIDENCE = 0.95

QUANTILES: Mapping[str, float] = {"p50": 0.50, "p90": 0.90, "p99": 0.99}
"""Quantiles that a cell has of a distribution, unless its declaration says otherwise."""

COMPARED, PRIMARY, CARD, TABLE, TERMINAL, LOAD = "compared", "primary", "card", "table", "terminal", "load"
VIEWS: Mapping[str, str] = {
    COMPARED: "the comparison: every ratio, `comparison.csv`",
    PRIMARY: "the first verdicts, where a study has no `compare.primary`",
    CARD: "the cards at the top of the report and the figure of ratios",
    TABLE: "the report's tables of ratios and of cells",
    TERMINAL: "the table at the end of a run",
    LOAD: "what `servegauge load` prints",
}
"""Where a metric can be shown. Whatever is shown in the report or in the terminal is compared, too."""

SUFFIXES: Mapping[str, str] = {
    "s": "_s", "1/s": "_rps", "tokens": "_tokens", "J": "_j", "W": "_w", "GB/s": "_gb_s", "bytes": "_bytes",
}  # fmt: skip
"""Unit -> ending of a distribution's columns."""

LESS, MORE = "less", "more"


@dataclass(frozen=True)
class Metric:
    """One metric. `formula` says in words what it is; `position` orders columns and tables (then the name does)."""

    name: str
    title: str
    formula: str
    unit: str
    position: int = 1000
    better: str | None = None  # LESS | MORE; None: neither, it describes the load
    per_request: Callable[[Requests], Any] | None = None
    values: Callable[[Requests], Any] | None = None
    needs: tuple[str, ...] = ()  # columns of REQUESTS that `values` or `per_cell` reads beside status and phase
    per_cell: Callable[[Window], Any] | None = None
    per_slo: Callable[[Window, Attained], Any] | None = None  # the window, and what of it meets every limit
    failed: Callable[[Requests], int] | None = None  # how many values are larger than all, where not one per request
    failed_is_infinite: bool = False  # a distribution in whose quantiles a failed request is larger than all others
    pooled: str = ""  # over what a cell's number is taken, in words
    stamps: str = ""  # the formula in columns of `requests`, for a metric that is stored there
    note: str = ""  # how it differs from what others mean by the word
    limit: str = ""  # what it means as a limit of an SLO; empty: it is none
    quantiles: Mapping[str, float] = field(default_factory=lambda: QUANTILES)
    views: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # quantile ("" for a single number) -> VIEWS
    heading: str = ""  # shorter than the title, for the terminal
    calibrated: tuple[str, ...] = ()  # quantiles of which the calibration measures the instrument's own error
    calibrated_as: str = ""  # another metric whose error is this one's, too
    whole: bool = False  # a count
    version: int = 1  # raise it with the formula: the dataset's parts are then made again

    def __post_init__(self) -> None:
        kinds = (self.per_request, self.values, self.per_cell, self.per_slo)
        if sum(kind is not None for kind in kinds) != 1:
            raise ValueError(f"metric {self.name!r}: give one of per_request, values, per_cell and per_slo")
        known = self.quantiles if self.is_distribution else {"": None}
        for statistic, views in self.views.items():
            if statistic not in known or set(views) - set(VIEWS):
                raise ValueError(
                    f"metric {self.name!r}: views of {statistic!r} are {views}; "
                    f"there are {', '.join(map(repr, known))} with {', '.join(VIEWS)}"
                )

    @property
    def is_distribution(self) -> bool:
        return self.per_request is not None or self.values is not None

    @property
    def suffix(self) -> str:
        """Ending of the columns: units stand in names."""
        return SUFFIXES.get(self.unit, "")

    @property
    def column(self) -> str:
        """Its column in `requests`, or, of a number per cell or SLO, in `cells` or `cell_slos`."""
        return f"{self.name}{self.suffix}" if self.is_distribution else self.name

    def column_of(self, statistic: str) -> str:
        """Column of CELLS: `ttft_p99_s` for "p99", `ttft_p99_low_s` for "p99_low"."""
        return f"{self.name}_{statistic}{self.suffix}" if statistic else self.name

    def statistic(self, which: str) -> Statistic:
        """A quantile of it ("p99"), or, with "", the number itself, as it is compared and shown."""
        one = Statistic(
            name=f"{self.name}_{which}" if which else self.name,
            title=f"{self.title} {which}" if which else self.title,
            unit=self.unit,
            column=self.column_of(which),
            more_is_better=self.better == MORE,
            heading=" ".join(filter(None, (self.heading or self.title, which))),
            views=frozenset(self.views.get(which, ())),
        )
        if not self.is_distribution:
            return one
        column = self.error_column(which) if which in self.calibrated else None
        return replace(one, family=self.name, quantile=self.quantiles[which], error_column=column)

    def error_column(self, which: str) -> str:
        """Column of CELLS with the instrument's own error of this quantile."""
        return f"instrument_{self.calibrated_as or self.name}_{which}_error{self.suffix}"

    @property
    def statistics(self) -> list[Statistic]:
        """Those that are shown anywhere, in order."""
        return [self.statistic(which) for which in (self.quantiles if self.is_distribution else ("",)) if
                self.views.get(which)]  # fmt: skip


@dataclass(frozen=True)
class Statistic:
    """One number of a cell that is compared: its column in CELLS, and how to draw it again from requests."""

    name: str
    title: str
    unit: str
    column: str
    family: str | None = None  # distribution whose quantile it is; None: one number a cell
    quantile: float | None = None
    more_is_better: bool = False
    error_column: str | None = None  # the instrument's own error of this statistic
    heading: str = ""
    slo: str | None = None  # the SLO under which it is taken
    views: frozenset[str] = frozenset()


@lru_cache
def required_sample(share: float) -> int:
    """Fewest values whose interval of the `share` quantile has both ends: 368 for 0.99, 72 for 0.95, 6 for 0.5."""
    extreme = max(share, 1 - share)
    return math.ceil(math.log((1 - CONFIDENCE) / 2) / math.log(extreme))
