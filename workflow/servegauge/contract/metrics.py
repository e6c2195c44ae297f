"""The metrics of the registry, computed: per request (`derive`), per cell (`summarise`) and per SLO (`goodput`).

What each metric is stands in its declaration in `metric_registry/`; docs/data-dictionary.md prints them all. A quantile
is numpy's (linear between order statistics), its interval that of `quantiles.py`; an end is None where the sample is
too small for it (`required_sample`: 6 requests for a median, 36 for p90, 72 for p95, 368 for p99).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from servegauge.base.errors import UserError, did_you_mean
from servegauge.contract import metric_registry
from servegauge.contract.cell_tables import DERIVED
from servegauge.contract.formulas import Attained, Requests, Window
from servegauge.contract.metric import required_sample
from servegauge.contract.quantiles import interval_ranks, is_censored, quantile
from servegauge.contract.spec import digest

__all__ = [
    "cached_share", "derive", "formulas_version", "goodput", "in_load", "in_window", "interval_ranks", "itl_s",
    "quantile", "required_sample", "summarise", "values_of", "window_s",
]  # fmt: skip


def formulas_version() -> str:
    """Digest of every metric's name, unit and version: another one means that numbers must be computed again."""
    return digest(
        [[one.name, one.unit, one.version, dict(one.quantiles)] for one in metric_registry.metrics().values()], 12
    )


def derive(requests: pa.Table) -> pa.Table:
    """`requests` (REQUESTS_RAW) with the columns of `cell_tables.DERIVED` added, float64."""
    given = Requests(requests)
    columns = (metric.per_request(given) for metric in metric_registry.stored() if metric.per_request)
    for column, field in zip(columns, DERIVED, strict=True):
        if field.name in requests.column_names:
            requests = requests.set_column(requests.column_names.index(field.name), field, column)
        else:
            requests = requests.append_column(field, column)
    return requests


def in_window(requests: pa.Table) -> pa.ChunkedArray:
    """Boolean mask of the rows of the measured window."""
    return pc.equal(requests["phase"], "window")


def window_s(requests: pa.Table) -> float | None:
    """Seconds from the start of the window to the end of its last answer; None where nothing ended."""
    last = pc.max(requests.filter(in_window(requests))["end_ns"]).as_py()
    return None if last is None else last / 1e9


def in_load(requests: pa.Table) -> pa.ChunkedArray:
    """Boolean mask of what can have events in the window: the requests of the ramp and of the window."""
    return pc.is_in(pc.cast(requests["phase"], pa.string()), pa.array(["ramp", "window"]))


def itl_s(requests: pa.Table) -> np.ndarray:
    """Every gap between two chunks of the requests that are ok, pooled; shape (gaps,), seconds."""
    return Requests(requests).ok.gaps_s()


def values_of(requests: pa.Table, name: str) -> np.ndarray:
    """Defined values of a distribution in a derived table; shape (values,), in its unit."""
    metric = metric_registry.metrics()[name]
    return metric.values(Requests(requests)) if metric.values else Requests(requests).values(metric.column)


def summarise(
    requests: pa.Table,
    duration_s: float | None,
    loop: str = "open",
    to_last_answer: bool = False,
    joules: float | None = None,
    acceptance_length: float | None = None,
    capacity: float | None = None,
) -> dict[str, Any]:
    """The columns of `tables.SUMMARY` for a window that lasted `duration_s`, and `censored`. Undefined is None.

    `requests` are those of the window and, for the rates, of the ramp. `loop` is "open", "closed" or "burst";
    `to_last_answer` is how measuring protocol 1 counted; `joules` is what the launch's GPUs used in the window,
    `acceptance_length` what the server reported of speculative decoding, `capacity` what `capacity_of` says.
    `censored` names the statistics that are None because more requests failed than they leave out: with a failed
    request as +infinity, they are infinite.
    """
    finite = None if capacity is None or math.isinf(capacity) or not capacity else capacity
    given = replace(_window(requests, duration_s, loop, to_last_answer), joules=joules, capacity_rps=finite)
    given = replace(given, acceptance_length=acceptance_length)
    summary = {metric.column: metric.per_cell(given) for metric in metric_registry.per_cell() if metric.per_cell}
    censored = [CAPACITY] if capacity is not None and finite is None else []
    failed, ok = given.count - given.ok.count, given.ok.count
    for metric in metric_registry.distributions():
        values = np.sort(values_of(given.table, metric.name))
        infinite = metric.failed(given) if metric.failed else failed if metric.failed_is_infinite else 0
        if infinite and metric.values and ok:  # as many values as an answered request has
            infinite = round(failed * len(values) / ok)
        summary[metric.column_of("mean")] = float(values.mean()) if len(values) else None
        for name, share in metric.quantiles.items():
            ends = zip((name, f"{name}_low", f"{name}_high"), quantile(values, share, infinite), strict=True)
            summary |= {metric.column_of(which): value for which, value in ends}
            if is_censored(len(values), share, infinite):
                censored.append(f"{metric.name}_{name}")
    return {**summary, "censored": censored}


CAPACITY = "capacity_rps"


def capacity_of(found: Mapping[str, Any] | None) -> float | None:
    """The capacity of a cell that searched it: infinite where no rate failed, 0 where none attained; else null."""
    if found is None:
        return None
    if found["high_rps"] is None:
        return math.inf
    return float(found["low_rps"] or 0.0)


def goodput(
    requests: pa.Table, limits: Mapping[str, float], duration_s: float | None, loop: str = "open"
) -> dict[str, Any]:
    """The metrics per SLO of a window under `limits` (column of a metric -> most, in its unit).

    A request with a metric that is undefined for it (TPOT of one token) meets that limit.
    """
    requests = _derived(requests)
    known = [field.name for field in DERIVED]
    good = pc.equal(requests["status"], "ok")
    for name, most in limits.items():
        if name not in known:
            raise UserError(f"SLO limit {name!r}: there are {', '.join(known)}.{did_you_mean(name, known)}")
        good = pc.and_(good, pc.fill_null(pc.less_equal(requests[name], most), True))
    given = _window(requests, duration_s, loop)
    inside = pc.and_(good, given.inside(requests["last_ns"]))
    own = pc.and_(good, in_window(requests))
    attained = Attained(pc.sum(own).as_py() or 0, pc.sum(inside).as_py() or 0)
    return {metric.column: metric.per_slo(given, attained) for metric in metric_registry.per_slo() if metric.per_slo}


def _window(requests: pa.Table, duration_s: float | None, loop: str, to_last_answer: bool = False) -> Window:
    requests = _derived(requests)
    requests = requests.filter(in_load(requests))
    return Window(requests.filter(in_window(requests)), duration_s, Requests(requests), loop, to_last_answer)


def cached_share(requests: pa.Table) -> float | None:
    """Prompt tokens from a prefix cache / prompt tokens, over requests whose server tells; None if none does."""
    return Requests(requests).cached_share


def _derived(requests: pa.Table) -> pa.Table:
    return requests if all(field.name in requests.column_names for field in DERIVED) else derive(requests)
