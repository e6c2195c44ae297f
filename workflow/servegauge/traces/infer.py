"""Steps without labels, from the work itself; always marked as inferred.

An engine ends a step by sampling. The kernel of sampling that ran least often marks the steps; what was called for up
to it, since the one before, is a step. Its tokens are the blocks of its norms, one a token in the libraries in use.
Decode steps are the many of about one size, those far larger hold prefill; a mixed step counts as prefill.
"""

from __future__ import annotations

import numpy as np

from servegauge.traces import names, tally
from servegauge.traces.attribution import NONE, calls_of_operations, is_kernel
from servegauge.traces.capture import Capture
from servegauge.traces.steps import Step, bounded

DECODE_TOKENS = 1024
"""A step of more tokens is no decode, however common its size: engines run fewer sequences at once."""


def inferred(capture: Capture) -> list[Step]:
    """Steps of each process, by the work; none where no kernel of sampling repeats."""
    operations, calls = capture.operations, capture.calls
    if not len(operations) or not len(calls):
        return []
    call_of = calls_of_operations(capture)
    kernels = is_kernel(capture)
    kinds = np.array([names.kernel_kind(name) for name in capture.names])[operations.name]
    steps: list[Step] = []
    for process in range(len(capture.processes)):
        own = kernels & (operations.process == process) & (call_of != NONE)
        anchors = _anchors(operations.name, own & (kinds == "sampling"))
        rows = np.nonzero(own)[0]
        if not len(anchors):
            continue
        called = calls.start[call_of[rows]]
        order = np.argsort(called, kind="stable")
        rows, called = rows[order], called[order]
        marks = np.sort(calls.start[call_of[anchors]])
        # The kernels up to and including the first mark are step 0.
        step = np.searchsorted(marks, called, side="left")
        sizes = _tokens(capture, rows[kinds[rows] == "norm"], step[kinds[rows] == "norm"], len(marks))
        phases = _phases(sizes)
        ends = np.sort(calls.end[call_of[anchors]])
        firsts = called[np.searchsorted(step, np.arange(len(marks)))]
        steps += bounded(
            [
                Step(process, None, int(first), int(end), phase)
                for first, end, phase in zip(firsts, ends, phases, strict=True)
            ]
        )
    return steps


def _anchors(name: np.ndarray, sampling: np.ndarray) -> np.ndarray:
    """Rows of the sampling kernel that ran least often, if it ran twice or more; of several the last in a step."""
    rows = np.nonzero(sampling)[0]
    _, of, counts = np.unique(name[rows], return_inverse=True, return_counts=True)
    if not (counts > 1).any():
        return np.empty(0, dtype=np.int64)
    rare = np.nonzero(counts == counts[counts > 1].min())[0]
    first = [rows[of == index][0] for index in rare]
    return rows[of == rare[int(np.argmax(first))]]


def _tokens(capture: Capture, rows: np.ndarray, step: np.ndarray, steps: int) -> list[int | None]:
    """Tokens of each step: the median number of blocks of its norms; None where no norm's shape is known."""
    shape = capture.operations.shape[rows]
    known = (shape >= 0) & (step < steps)
    sizes: list[int | None] = [None] * steps
    if known.any():
        blocks = np.array([shape.blocks for shape in capture.shapes], dtype=np.int64)[shape[known]]
        found = tally.groups(step[known])
        for index, size in zip(found.keys[:, 0].tolist(), found.quantiles(blocks, (0.5,))[0].tolist(), strict=True):
            sizes[index] = size
    return sizes


def _phases(sizes: list[int | None]) -> list[str | None]:
    known = [size for size in sizes if size is not None]
    if not known:
        return [None] * len(sizes)
    common = float(np.median(known))
    limit = 2 * common if common <= DECODE_TOKENS else 0.0
    return [None if size is None else "decode" if size <= limit else "prefill" for size in sizes]
