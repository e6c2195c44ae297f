"""What searches for the capacity found, launch by launch: for a table, and for the figures that mark it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from servegauge.base.text import quantity
from servegauge.compare.knee import Knee, knee
from servegauge.contract.capacity import scatter
from servegauge.contract.columns import Row
from servegauge.dataset.study_view import Study


@dataclass(frozen=True)
class Search:
    """One search: its row of CELLS, the rates that it tried, and where goodput stops to follow."""

    row: Row
    steps: Sequence[Row]
    knee: Knee | None

    @property
    def by_chance(self) -> float | None:
        """How far, as a share, arrivals and answers alone may have moved it: 95 % of searches are nearer."""
        requests = min((step["requests"] for step in self.steps), default=0)
        return 2 * scatter(requests) if requests else None

    @property
    def words(self) -> str:
        return capacity_words([self.row])


def searches(study: Study) -> list[Search]:
    """Every search of the study, in the order of its cells."""
    found = []
    for row in study.searches:
        steps = study.steps(row)
        known = [one for one in steps if one["attained_share"] is not None]
        bend = knee([one["rate_rps"] for one in known], [one["attained_share"] for one in known])
        found.append(Search(row, steps, bend))
    return found


def capacity_words(rows: Sequence[Row]) -> str:
    """`31.2 req/s`, the geometric mean over launches; `≥ 40 req/s` or `< 0.5 req/s` where one is not bracketed."""
    if over := [row["capacity_low_rps"] for row in rows if row["capacity_high_rps"] is None]:
        return f"≥ {quantity(min(over), '1/s')}"
    if under := [row["capacity_high_rps"] for row in rows if row["capacity_low_rps"] is None]:
        return f"< {quantity(max(under), '1/s')}"
    return quantity(capacity(rows), "1/s")


def capacity(rows: Sequence[Row]) -> float | None:
    """Geometric mean over launches; None where one of them is not bracketed, or there is none."""
    values = [row["capacity_rps"] for row in rows]
    if not values or any(value is None for value in values):
        return None
    return statistics.geometric_mean(values)
