"""How much the launches of a study scatter: as parts for a reader, as one deviation for planning.

Assumption: that of variance.py; statistics of cells enter by their logarithm.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from servegauge.base.progress import seconds_of
from servegauge.compare.conditions import lifetime, statistic
from servegauge.compare.variance import Component, components
from servegauge.contract.columns import Row
from servegauge.contract.spec import canonical_json
from servegauge.dataset.study_view import Metric, Study

NORMAL = 1.959963984540054  # half of a 95 % interval in standard errors


def launch_deviations(study: Study) -> dict[str, tuple[float, int]]:
    """Metric -> deviation of the logarithm between launches of one configuration, and how many launches it rests on.

    Pooled over every condition that was repeated; metrics of which nothing was repeated are absent.
    """
    found = {}
    for metric in study.metrics:
        groups: dict[str, list[float]] = defaultdict(list)
        for row, log in _logs(study, metric):
            groups[_fixed(row)].append(log)
        squares = [float(np.sum((np.array(one) - np.mean(one)) ** 2)) for one in groups.values()]
        degrees = sum(len(one) - 1 for one in groups.values())
        if degrees:
            found[metric.name] = (math.sqrt(math.fsum(squares) / degrees), max(map(len, groups.values())))
    return found


def parts(study: Study, metric: Metric) -> list[Component]:
    """The scatter of one metric in its parts; empty where nothing was measured."""
    rows = _logs(study, metric)
    if not rows:
        return []
    cells = [row for row, _ in rows]
    groups: dict[str, list[Any]] = {
        "launch": [lifetime(row) for row in cells],
        "order": _positions(cells),
        "node": [study.node_of(row) for row in cells],
        "day": [(row.get("started_utc") or "")[:10] for row in cells],
    }
    sampling = [_sampling(row, metric) for row in cells]
    known = None if any(one is None for one in sampling) else sampling
    return components([log for _, log in rows], [_fixed(row) for row in cells], groups, known)


def _logs(study: Study, metric: Metric) -> list[tuple[Row, float]]:
    found: list[tuple[Row, float]] = []
    for row in study.ok:
        value = statistic(study, row, metric)
        if value is not None and value > 0 and math.isfinite(value):
            found.append((row, math.log(value)))
    return found


def _fixed(row: Row) -> str:
    """What a cell measures: the axes that the study varies, the repeat aside."""
    return canonical_json(row["axes"])


def _sampling(row: Row, metric: Metric) -> float | None:
    """Variance of the logarithm of a quantile that the requests of its cell explain, from its 95 % interval."""
    if metric.family is None:
        return None
    low, high = (row.get(metric.column.removesuffix("_s") + end) for end in ("_low_s", "_high_s"))
    return (math.log(high / low) / (2 * NORMAL)) ** 2 if low and high else None


def _positions(rows: Sequence[Row]) -> list[int | None]:
    """Place of each cell's server, by its start, among the servers of the same repeat that ran the same load."""
    blocks: dict[str, list[tuple[float, tuple[Any, Any]]]] = defaultdict(list)
    for row in rows:
        blocks[_block(row)].append((seconds_of(row.get("started_utc")) or 0.0, lifetime(row)))
    # A server is counted once, however many of the block's cells it measured: searches of two SLOs, two samplings.
    order = {key: list(dict.fromkeys(server for _, server in sorted(members))) for key, members in blocks.items()}
    return [order[_block(row)].index(lifetime(row)) for row in rows]


def _block(row: Row) -> str:
    load = ("framework", "model", "prompts", "rate_rps", "concurrency", "burst", "cache", "repeat")
    return json.dumps([row.get(name) for name in load])
