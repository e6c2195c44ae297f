"""What each side costs, as numbers with intervals: of each condition and level, over its launches.

Assumption: that of effect.py; the logarithm of a launch's number is drawn from one normal distribution. Ratios between
levels are in the comparison, like those of every other metric.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from servegauge.compare.student import estimate
from servegauge.contract.spec import canonical_json
from servegauge.dataset.study_view import Metric, Study, without

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Cost:
    """One number of one level in one condition: geometric mean over `launches`, ends of its 95 % interval.

    None where it is not defined: `reason` says why; ends are None for a single launch.
    """

    condition: dict[str, Any]
    level: Any
    metric: Metric
    value: float | None
    low: float | None
    high: float | None
    launches: int
    reason: str | None = None


def costs(study: Study, metrics: Sequence[Metric], reasons: dict[str, dict[str, str]]) -> list[Cost]:
    """Every metric of every condition and level. `reasons`: cell -> column -> why it is null."""
    factor, _ = study.factor()
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in study.ok:
        groups[canonical_json([without(row, factor), row["axes"].get(factor)])].append(row)
    return [
        Cost(without(rows[0], factor), rows[0]["axes"].get(factor), metric, *_over(rows, metric, reasons))
        for rows in groups.values()
        for metric in metrics
    ]


def _over(
    rows: Sequence[dict[str, Any]], metric: Metric, reasons: dict[str, dict[str, str]]
) -> tuple[float | None, float | None, float | None, int, str | None]:
    values = [row.get(metric.column) for row in rows]
    known = [value for value in values if value is not None]
    if len(known) < len(rows):
        missing = next(row for row, value in zip(rows, values, strict=True) if value is None)
        return None, None, None, len(known), reasons.get(missing["cell"], {}).get(metric.column, "not known")
    if any(value <= 0 for value in known):
        return math.fsum(known) / len(known), None, None, len(known), "a launch has a value that is not above 0"
    logs = [math.log(value) for value in known]
    mean = math.exp(math.fsum(logs) / len(logs))
    if len(known) < 2:
        return mean, None, None, 1, "1 launch: how much launches differ is not known"
    low, high = estimate(logs).interval(CONFIDENCE)
    return mean, low, high, len(known), None
