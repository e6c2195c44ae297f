"""Every metric: files of declarations, found by looking into this folder. `contract/metric.py` says what one is."""

from __future__ import annotations

import sys
from functools import cache

from servegauge.base.registry import instances
from servegauge.contract.metric import LOAD, Metric, Statistic


@cache
def metrics() -> dict[str, Metric]:
    """Every metric by name, in the order in which tables and pages show them."""
    found = instances(sys.modules[__name__], Metric)
    return dict(sorted(found.items(), key=lambda item: (item[1].position, item[0])))


def distributions() -> list[Metric]:
    """Metrics of which a cell has quantiles."""
    return [metric for metric in metrics().values() if metric.is_distribution]


def stored() -> list[Metric]:
    """Metrics that are a column of `requests`."""
    return [metric for metric in metrics().values() if metric.per_request]


def per_cell() -> list[Metric]:
    """Metrics that are one number of a cell."""
    return [metric for metric in metrics().values() if metric.per_cell]


def per_slo() -> list[Metric]:
    """Metrics that are one number of a cell under an SLO."""
    return [metric for metric in metrics().values() if metric.per_slo]


def calibrated() -> list[tuple[Metric, str]]:
    """(metric, quantile) of which a calibration measures the instrument's own error; each once."""
    own = [metric for metric in metrics().values() if not metric.calibrated_as]
    return [(metric, which) for metric in own for which in metric.calibrated]


def shown(view: str) -> list[Statistic]:
    """The statistics that a view shows, in order."""
    return [one for one in _statistics() if view in one.views]


def compared() -> list[Statistic]:
    """Every statistic of a cell that is compared: whatever any view but that of the load generator shows."""
    return [one for one in _statistics() if one.views - {LOAD}]


def shown_per_slo(view: str) -> list[Statistic]:
    """The statistics per SLO that a view shows; with an empty view, all that are compared."""
    found = [one for metric in per_slo() for one in metric.statistics]
    return [one for one in found if (view in one.views if view else one.views - {LOAD})]


def _statistics() -> list[Statistic]:
    """All of a cell that are shown anywhere: latencies first, then what stands for the whole window."""
    return [one for metric in (*distributions(), *per_cell()) for one in metric.statistics]
