"""Conditions: which cells stand against which, what number each gives, and what forbids a verdict on them.

Assumption: the sides of a condition differ in the compared factor alone. Where what was carried differs, or a flag says
that something else was measured than was asked for, that does not hold, and the reason stands where a verdict would.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from servegauge.compare.censored import quantile
from servegauge.compare.effect import FEWEST_FOR_VERDICT
from servegauge.contract import flag_registry
from servegauge.contract.columns import Row
from servegauge.contract.flag import UNFIT, UNFIT_LATENCY
from servegauge.contract.metric_registry.capacity import CAPACITY
from servegauge.dataset.study_view import Metric, Study, doubts

MOST_SUCCESS_DIFFERENCE = 0.005
"""Shares of requests answered may differ by half a point; beyond it, latencies are of different requests."""

MOST_RATE_RATIO = 1.02
"""Achieved rates of an open loop may differ by 2 %; beyond it, the sides did not carry the same load."""


@dataclass
class Condition:
    """Cells of one level and of the baseline under otherwise the same axes. Paired: the r-th of both are a repeat."""

    key: str
    axes: Mapping[str, Any]
    level: Any
    base: list[Row]
    other: list[Row]
    paired: bool
    unpaired: int  # measured cells without a partner, left out
    success: float | None = None
    base_success: float | None = None
    unlike: str | None = None  # why latencies are not comparable
    flags: dict[str, int] = field(default_factory=dict)  # doubts of either side -> cells

    @property
    def rows(self) -> list[Row]:
        return [*self.base, *self.other]

    @property
    def pairs(self) -> list[tuple[Row, Row]]:
        """The baseline's and the level's cell of each repeat; none where they are not paired."""
        return list(zip(self.base, self.other, strict=True)) if self.paired else []

    @property
    def open_loop(self) -> bool:
        return self.base[0].get("rate_rps") is not None

    @property
    def search(self) -> bool:
        """Its cells searched a capacity: their requests are of rates that differ."""
        return self.base[0].get("capacity") is not None

    @property
    def block(self) -> tuple[Any, Any]:
        """Conditions with the same block were served by the same launches."""
        return tuple(side[0].get("configuration") or side[0]["launch"] for side in (self.base, self.other))

    def refused(self, metric: Metric) -> tuple[str, str] | None:
        """`not comparable` or `not judged`, and why, for a metric; None where there is no reason against a verdict."""
        latency = metric.family is not None
        if len(protocols := {row.get("protocol") for row in self.rows}) > 1:
            named = " and ".join(sorted(map(str, protocols)))
            return "not comparable", f"measured by different protocols, {named}: the numbers mean different things"
        if self.unlike and (latency or not self.open_loop):
            return "not comparable", self.unlike
        unfit = flag_registry.of_severity(*((UNFIT, UNFIT_LATENCY) if latency else (UNFIT,)))
        forbidding = [flag for flag in self.flags if flag in unfit]
        if forbidding:
            raised = ", ".join(f"{flag} in {self.flags[flag]} of {len(self.rows)} cells" for flag in forbidding)
            return "not judged", raised
        return None


def unbracketed(rows: Sequence[Row]) -> str | None:
    """What is known of a capacity that the searches of `rows` did not bracket, in words; None where all did."""
    over = [row for row in rows if row.get("capacity_high_rps") is None]
    under = [row for row in rows if row.get("capacity_low_rps") is None]
    for found, words, column, remedy in (
        (over, "at least", "capacity_low_rps", "raise capacity.most_rps"),
        (under, "below", "capacity_high_rps", "lower capacity.first_rps, or ask less of the SLO"),
    ):
        if found:
            ends = [row[column] for row in found if row[column] is not None]
            rate = f"{words} {min(ends):.4g} requests/s" if ends else "not known"
            return f"in {len(found)} of {len(rows)} launches the capacity is {rate}, where no rate was tried: {remedy}"
    return None


def condition(key: str, axes: Mapping[str, Any], level: Any, base: Sequence[Row], other: Sequence[Row]) -> Condition:
    """The condition of these cells: paired over the repeats that both sides have, unless too few are common."""
    common = {row["repeat"] for row in base} & {row["repeat"] for row in other}
    enough = min(len(base), len(other)) >= FEWEST_FOR_VERDICT
    paired = bool(common) and not (enough and len(common) < FEWEST_FOR_VERDICT)
    unpaired = 0
    if paired:
        unpaired = sum(row["repeat"] not in common for row in (*base, *other))
        base, other = ([row for row in side if row["repeat"] in common] for side in (base, other))
    base, other = (sorted(side, key=lambda row: row["repeat"]) for side in (base, other))
    made = Condition(key, axes, level, base, other, paired, unpaired)
    made.base_success, made.success = success_share(base), success_share(other)
    made.unlike = _unlike(made)
    for row in made.rows:
        for flag in doubts(row):
            made.flags[flag] = made.flags.get(flag, 0) + 1
    return made


def lifetime(row: Row) -> tuple[Any, Any]:
    """The server that measured a cell. A launch that went on in another attempt had several, which share no luck."""
    server = row.get("server")  # None in a dataset of an older version: its attempts are what is known
    return row["launch"], row.get("attempt") if server is None else server


def success_share(rows: Iterable[Row]) -> float | None:
    """Requests answered in full / requests of the windows; None without any request."""
    counts = [(row.get("requests_ok") or 0, row.get("requests") or 0) for row in rows]
    total = sum(count for _, count in counts)
    return sum(ok for ok, _ in counts) / total if total else None


def gives(row: Row, metric: Metric) -> bool:
    """A search gives the capacity and nothing else: what it kept is of one of its rates, another on each side."""
    return (metric.name == CAPACITY.name) == (row.get("capacity") is not None)


def statistic(study: Study, row: Row, metric: Metric) -> float | None:
    """The metric of one cell. In a quantile a failed request is +infinity; infinite where that makes the quantile so.

    Gaps (ITL) of a failed request: as many as an answered one has. Rows of a dataset that counts failed requests in its
    columns say so by `censored`.
    """
    if not gives(row, metric):
        return None
    value = row.get(metric.column)
    if metric.name == CAPACITY.name and value is None:
        return 0.0 if row.get("capacity_low_rps") is None else math.inf
    if (censored := row.get("censored")) is not None:  # the column counts failed requests already
        return math.inf if metric.name in censored else value
    failed = (row.get("requests") or 0) - (row.get("requests_ok") or 0)
    if metric.family is None or not failed:
        return value
    if not row.get("requests_ok"):
        return math.inf
    ordered = study.samples(row, metric.family)
    if not len(ordered):
        return None
    if metric.family == "itl":
        failed = round(failed * len(ordered) / row["requests_ok"])
    return quantile(ordered, failed, 0.5 if metric.quantile is None else metric.quantile)


def _unlike(one: Condition) -> str | None:
    """Why the sides did not carry the same load; None where they did."""
    if one.search:
        return None  # how much each carries is what was asked
    own, base = one.success, one.base_success
    if own is not None and base is not None and abs(own - base) > MOST_SUCCESS_DIFFERENCE:
        return f"{100 * own:.1f} % of requests were answered, {100 * base:.1f} % on the baseline"
    if not one.open_loop or one.base[0].get("arrival") == "burst":
        return None  # there the rate follows from the latencies
    rates: list[list[float]] = [[row.get("achieved_rps") or 0.0 for row in side] for side in (one.base, one.other)]
    if all(rate for side in rates for rate in side):
        below, above = (statistics.geometric_mean(side) for side in rates)
        if max(above / below, below / above) > MOST_RATE_RATIO:
            return f"{above:.3g} requests/s were achieved, {below:.3g} on the baseline"
    return None
