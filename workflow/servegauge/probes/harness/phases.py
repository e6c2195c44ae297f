"""Phases of serving that a probe's number explains, in words: for `Probe.explains`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

DECODE, PREFILL = "every decoded token (TPOT)", "every prefill (TTFT)"
DECODE_TOKENS = 64  # rows of a matrix product up to which it is decode's, read from memory rather than computed
DECODE_BYTES = 1 << 20  # of a collective: hidden size x tokens of a decode step x 2 bytes stays below
AXES: Mapping[str, tuple[str, ...]] = {
    "all_reduce": ("tp",),
    "all_gather": ("tp", "dp"),
    "reduce_scatter": ("tp", "dp"),
    "all_to_all": ("ep",),
    "send_recv": ("pp",),
}
"""Megatron's layout: all_reduce twice a layer for TP, all_to_all for experts (EP), send/recv for stages (PP)."""


def parallelism(operation: str, size: int, cells: Sequence[Mapping[str, Any]]) -> str | None:
    """The layouts among `cells` that use a collective of `size` bytes, and in which phase; None where none does."""
    axes = AXES.get(operation, ())
    sizes = {axis: sorted({int(cell.get(axis) or 1) for cell in cells} - {1}) for axis in axes}
    named = [f"{axis.upper()}={size}" for axis, known in sizes.items() for size in known]
    if not named:
        return None
    phase = "decode (TPOT)" if 0 < size <= DECODE_BYTES else "prefill (TTFT)"
    return f"{' and '.join(named)} in {phase}" if size else " and ".join(named)
