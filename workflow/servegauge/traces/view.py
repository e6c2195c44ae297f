"""A capture with everything that its tables need: steps, attribution, phases, ranks, and the time that is 0."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from servegauge.traces import steps as annotated_steps
from servegauge.traces.attribution import NONE, Attribution, attribute, is_kernel
from servegauge.traces.capture import Capture
from servegauge.traces.infer import inferred
from servegauge.traces.steps import Step

PHASES = ("prefill", "mixed", "decode", "idle")
PARTS = ("forward", "sampling")
COVERAGE = 0.70
"""Below this share of kernels that a step launched, phases say more about the labels than about the server."""


@dataclass(frozen=True)
class View:
    """Columns beside the capture's own; phases are indices into PHASES, -1 where a row is of no step."""

    trace: str
    capture: Capture
    steps: list[Step]
    bounds: list[tuple[int, int]]  # start and end; its own last call and operation included where nothing follows
    joined: Attribution
    phase: np.ndarray  # int8 (operations,)
    call_phase: np.ndarray  # int8 (calls,)
    step_phase: np.ndarray  # int8 (steps,)
    ranks: dict[int, int]  # process -> rank
    devices: dict[int, list[int]]  # process -> devices that it used
    phase_source: str
    reasons: dict[int, list[str]]  # process -> what cannot be answered, and why

    def device_of(self, process: int) -> int | None:
        """The process's device, None where it used none or several."""
        used = self.devices.get(process, [])
        return used[0] if len(used) == 1 else None


def view(trace: str, capture: Capture) -> View:
    """Find the steps, give operations to them, and say for each process what is unknown."""
    steps, source = annotated_steps.annotated(capture), "annotated"
    if not steps:
        steps, source = inferred(capture), "inferred"
    if not steps:
        source = "none"
    joined = attribute(capture, steps)
    kernels = is_kernel(capture)
    processes = capture.operations.process
    used = sorted({int(p) for p in np.unique(processes)})
    stepping = sorted({step.process for step in steps})
    members = used or stepping or ([0] if capture.processes else [])
    reasons: dict[int, list[str]] = {process: list(capture.notes) for process in members}
    phase_of = np.array([PHASES.index(step.phase) if step.phase else NONE for step in steps], dtype=np.int8)
    for process in members:
        own = kernels & (processes == process)
        attributed = int((own & (joined.step_of != NONE)).sum())
        reason = _reason(source, process in stepping, int(own.sum()), attributed)
        if reason:
            reasons[process].append(reason)
        if own.any() and attributed < COVERAGE * own.sum():
            phase_of = np.where([step.process == process for step in steps], NONE, phase_of).astype(np.int8)
    padded = np.append(phase_of, np.int8(NONE))
    devices = {
        process: [int(d) for d in np.unique(capture.operations.device[processes == process])] for process in members
    }
    return View(
        trace=trace,
        capture=capture,
        steps=steps,
        bounds=_bounds(capture, steps, joined),
        joined=joined,
        phase=padded[joined.step_of],
        call_phase=padded[joined.step_of_call],
        step_phase=phase_of,
        ranks=_ranks(capture, members),
        devices=devices,
        phase_source=source,
        reasons=reasons,
    )


def _bounds(capture: Capture, steps: list[Step], joined: Attribution) -> list[tuple[int, int]]:
    last = last_call(capture, steps, joined)
    rows = np.nonzero(joined.step_of != NONE)[0]
    np.maximum.at(last, joined.step_of[rows], capture.operations.end[rows])
    return [
        (step.start, max(step.label_end, int(end)) if step.ends_itself else step.end)
        for step, end in zip(steps, last, strict=True)
    ]


def last_call(capture: Capture, steps: list[Step], joined: Attribution) -> np.ndarray:
    """End of the last API call of each step, int64 (steps,); the least of all numbers where it has none."""
    last = np.full(len(steps), np.iinfo(np.int64).min)
    rows = np.nonzero((joined.step_of_call != NONE) & (capture.calls.correlation != -1))[0]
    np.maximum.at(last, joined.step_of_call[rows], capture.calls.end[rows])
    return last


def _reason(source: str, stepping: bool, kernels: int, attributed: int) -> str | None:
    if source == "none":
        return "no phases: no label of a step, and no kernel of sampling that repeats, by which steps could be inferred"
    if not stepping:
        return "no phases: no label of a step in this process"
    if kernels and attributed < COVERAGE * kernels:
        return (
            f"no phases: only {attributed:,} of {kernels:,} kernels ({attributed / kernels:.0%}) belong to a step, "
            f"fewer than {COVERAGE:.0%}"
        )
    if source == "inferred":
        return "phases are inferred from the work: no labels; a mixed step counts as prefill"
    return None


def _ranks(capture: Capture, members: list[int]) -> dict[int, int]:
    """Ranks as the files say them, where each says one and no two the same; else by order of process."""
    known = [rank for process in members if (rank := capture.processes[process].rank) is not None]
    if len(set(known)) == len(members):
        return dict(zip(members, known, strict=True))
    return {process: index for index, process in enumerate(members)}
