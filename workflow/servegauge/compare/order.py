"""What really happened: when and where the sides were measured, read back from start times and nodes.

Assumption: time and node act on a measurement until shown otherwise; what the order cannot separate from the compared
factor stands beside the verdict.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtr

from servegauge.base.progress import seconds_between
from servegauge.compare.conditions import Condition, lifetime
from servegauge.contract.columns import Row

FAR_APART_S = 6 * 3600.0
FEWEST_FOR_DRIFT = 5
DRIFT_LEVEL = 0.01  # one of a hundred ratios is found to drift by chance


Where = Callable[[Mapping[str, Any]], str | None]  # what a cell's row says of where it was measured


def warnings(conditions: Sequence[Condition], node_of: Where, place_of: Where, factor: str) -> tuple[str, ...]:
    """Sentences without a full stop, on one level's conditions; none where there is nothing to report."""
    texts = (
        _joined(conditions, place_of),
        _apart(conditions),
        _nodes(conditions, node_of, factor),
        _first(conditions),
    )
    return tuple(text for text in texts if text is not None)


@dataclass(frozen=True)
class Pair:
    """Cells of one repeat that stand against each other, measured by one server on either side."""

    level: Any
    repeat: int
    cells: int  # of either side
    base_started_utc: str
    started_utc: str
    base_node: str | None
    node: str | None
    base_server: int  # which of its launch's servers
    server: int

    @property
    def apart_s(self) -> float:
        """Start on the level - start on the baseline; negative: the level was first."""
        return seconds_between(self.base_started_utc, self.started_utc) or 0.0


def pairs(conditions: Sequence[Condition], node_of: Callable[[Row], str | None]) -> list[Pair]:
    """Pairs in the order in which they were measured; those whose start is not known are left out.

    Of several cells that the same two servers measured, the first of either side says when.
    """
    found: dict[tuple[Any, ...], list[tuple[Row, Row]]] = defaultdict(list)
    for one in conditions:
        for base, other in one.pairs:
            if base.get("started_utc") and other.get("started_utc"):
                found[str(one.level), lifetime(base), lifetime(other)].append((base, other))
    levels = {str(one.level): one.level for one in conditions}
    measured = []
    for (level, *_), members in found.items():
        base, other = (min((pair[side] for pair in members), key=lambda row: row["started_utc"]) for side in (0, 1))
        measured.append(
            Pair(
                levels[level], base["repeat"], len(members), base["started_utc"], other["started_utc"], node_of(base),
                node_of(other), base.get("server") or 0, other.get("server") or 0,
            )
        )  # fmt: skip
    return sorted(measured, key=lambda one: min(one.base_started_utc, one.started_utc))


def drifts(blocks: Sequence[Sequence[tuple[float, float]]]) -> str | None:
    """A sentence where ratios change with time. `blocks`: start and logarithm, less its mean, by launch."""
    points = [point for block in blocks for point in block]
    p = drift([log for _, log in points], [start for start, _ in points])
    return f"the ratio drifts with time (p = {p:.2g})" if p is not None and p < DRIFT_LEVEL else None


def drift(logs: Sequence[float], starts: Sequence[float]) -> float | None:
    """p value of "the logarithm of the ratio does not change with time", shapes (R,); None below 5 repeats."""
    if len(logs) < FEWEST_FOR_DRIFT or len(set(starts)) < 3 or float(np.std(logs)) == 0:
        return None
    correlation = float(np.corrcoef(logs, starts)[0, 1])
    degrees = len(logs) - 2
    rest = 1 - correlation**2
    return 0.0 if rest <= 1e-12 else float(2 * stdtr(degrees, -abs(correlation) * math.sqrt(degrees / rest)))


def _pairs(conditions: Sequence[Condition]) -> list[tuple[Row, Row, float]]:
    """Both sides of every pair whose start times are known, and how much later the other began, in seconds."""
    return [
        (base, other, later)
        for one in conditions
        for base, other in one.pairs
        if (later := seconds_between(base.get("started_utc"), other.get("started_utc"))) is not None
    ]


def _joined(conditions: Sequence[Condition], place_of: Where) -> str | None:
    """Sides that come from two results folders: other nodes, another network, another time."""
    base, other = (
        {f"in {place}" if (place := place_of(row)) else "here" for one in conditions for row in getattr(one, side)}
        for side in ("base", "other")
    )
    if base == other:
        return None
    places = f"one side {', '.join(sorted(base))}, the other {', '.join(sorted(other))}"
    apart = sorted(abs(later) / 3600 for _, _, later in _pairs(conditions))
    far = f"; their pairs lie {apart[len(apart) // 2]:.1f} hours apart, the farthest {apart[-1]:.1f}" if apart else ""
    return f"the sides were measured apart and joined, {places}{far}"


def _apart(conditions: Sequence[Condition]) -> str | None:
    pairs = _pairs(conditions)
    far = [abs(later) for _, _, later in pairs if abs(later) > FAR_APART_S]
    if not far:
        return None
    return f"{len(far)} of {len(pairs)} pairs were measured more than 6 hours apart, the farthest {max(far) / 3600:.0f}"


def _nodes(conditions: Sequence[Condition], node_of: Where, factor: str) -> str | None:
    base, other = (
        {node for one in conditions for row in getattr(one, side) if (node := node_of(row))}
        for side in ("base", "other")
    )
    if not base or not other or base & other or min(len(base), len(other)) > 1:
        return None
    return (
        f"one side ran on {', '.join(sorted(base))}, the other on {', '.join(sorted(other))}: node and {factor} "
        "cannot be distinguished"
    )


def _first(conditions: Sequence[Condition]) -> str | None:
    """One side always first."""
    launches = {
        (lifetime(base), lifetime(other)): later > 0
        for base, other, later in _pairs(conditions)
        if base["launch"] != other["launch"]
    }
    if len(launches) >= 3 and len(set(launches.values())) == 1:
        return (
            f"{'the baseline' if next(iter(launches.values())) else 'the other side'} was measured first in every pair"
        )
    return None
