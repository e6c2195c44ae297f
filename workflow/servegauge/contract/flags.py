"""The flags of the registry, raised: the one place where a doubt becomes a flag."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from servegauge.base.errors import UserError, did_you_mean
from servegauge.contract.flag import Case, CellCase
from servegauge.contract.flag_registry import flags, thresholds

if TYPE_CHECKING:
    import pyarrow as pa

    from servegauge.contract.spec import Cell

Raised = dict[str, Any]  # {"flag", "value", "threshold", "detail"}


def thresholds_of(own: Mapping[str, float] | None = None) -> dict[str, float]:
    """Defaults with a study's `own` values over them. UserError for a name that does not exist."""
    known = thresholds()
    for name in own or {}:
        if name not in known:
            near = did_you_mean(name, known)
            raise UserError(f"validity threshold {name!r} does not exist; there are {', '.join(known)}.{near}")
    return {name: threshold.default for name, threshold in known.items()} | dict(own or {})


def raised(case: Case) -> list[Raised]:
    """Every flag that `case` raises, in the registry's order."""
    return [
        {"flag": flag.name, "value": doubt.value, "threshold": doubt.threshold, "detail": doubt.detail}
        for flag in flags().values()
        if flag.about is type(case)
        for doubt in flag.check(case)
    ]


def cell_flags(
    requests: pa.Table,
    cell: Cell,
    record: Mapping[str, Any],
    own_thresholds: Mapping[str, float] | None = None,
    gpu: pa.Table | None = None,
) -> list[Raised]:
    """Every flag of a measured cell.

    `requests` is its table (REQUESTS_RAW), `record` its cell.json so far (`instrument`, `cache_reset`,
    `metrics_before`, `metrics_after`), `gpu` its samples (GPU_RAW) if there were any.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from servegauge.contract.formulas import Requests
    from servegauge.contract.metrics import in_window

    window = Requests(requests.filter(in_window(requests)))
    load = Requests(requests.filter(pc.not_equal(pc.cast(requests["phase"], pa.string()), "warmup")))
    return raised(CellCase(window, cell, record, thresholds_of(own_thresholds), gpu, load))
