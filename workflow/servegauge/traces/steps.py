"""Steps of an engine, from the labels around them.

A step begins where its label begins and lasts until the next one begins on the same thread: engines sample after the
label has ended. Before a pause, and at the end of the capture, it lasts until its own last call and its last operation
have ended; how long after its label a call can still belong to it follows from the steps before another one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from servegauge.traces import labels
from servegauge.traces.capture import Capture
from servegauge.traces.labels import Label

PAUSE_RATIO = 20
PAUSE_NS = 5_000_000
"""The host paused after a step if the next label is later than 5 ms and than 20 times the median of such waits."""

FOREVER = np.iinfo(np.int64).max // 4


@dataclass(frozen=True)
class Step:
    """One step of one process. Times in ns; `reach` is the last time at which a call can belong to it.

    `bounded` tells `end`, `reach` and `ends_itself` of the steps of a lane.
    """

    process: int
    thread: int | None  # None: calls of every thread of the process belong to it
    start: int
    label_end: int
    phase: str | None
    label: Label | None = None
    text: str | None = None
    cut: bool = False
    end: int = 0
    reach: int = 0
    ends_itself: bool = False  # no step follows directly: it ends with its own last call


def annotated(capture: Capture) -> list[Step]:
    """Steps by the capture's labels, by process and start; none where it has no label that can be read."""
    ranges = capture.ranges
    found = {int(i): labels.parse(capture.names[i]) for i in np.unique(ranges.name)} if len(ranges) else {}
    parsed = {name: label for name, label in found.items() if label is not None}
    lanes: dict[tuple[int, int], list[int]] = {}
    for row in range(len(ranges)):
        if int(ranges.name[row]) in parsed:
            lanes.setdefault((int(ranges.process[row]), int(ranges.thread[row])), []).append(row)
    steps: list[Step] = []
    for (process, thread), rows in sorted(lanes.items()):
        alone = sum(other == process for other, _ in lanes) == 1
        outer = _outermost(ranges.start[rows], ranges.end[rows])
        made = [
            Step(
                process=process,
                thread=None if alone else thread,
                start=int(ranges.start[row]),
                label_end=int(ranges.end[row]),
                label=(label := parsed[int(ranges.name[row])]),
                text=capture.names[ranges.name[row]],
                cut=bool(ranges.open[row]) or int(ranges.start[row]) < 0,
                phase=label.phase,
            )
            for row in np.asarray(rows)[outer]
        ]
        steps += bounded(made)
    return steps


def bounded(steps: list[Step]) -> list[Step]:
    """The steps of one lane, in order, with their ends and reaches."""
    if not steps:
        return []
    starts = np.array([step.start for step in steps], dtype=np.int64)
    ends = np.array([step.label_end for step in steps], dtype=np.int64)
    tails = starts[1:] - ends[:-1]
    pause = max(PAUSE_RATIO * float(np.median(tails)), PAUSE_NS) if len(tails) else 0.0
    ordinary = tails[tails <= pause]
    reach = max(10 * int(ordinary.max()), PAUSE_NS) if len(ordinary) else FOREVER
    out = []
    for index, step in enumerate(steps):
        following = int(starts[index + 1]) if index + 1 < len(steps) else None
        if following is not None and following - step.label_end <= pause:
            out.append(replace(step, end=following, reach=following - 1))
        else:
            until = step.label_end + reach
            reached = min(until, following - 1) if following else until
            out.append(replace(step, end=step.label_end, reach=reached, ends_itself=True))
    return out


def _outermost(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Positions of the ranges that lie in no other one: two labels around one step are one step. By start."""
    order = np.lexsort((-end, start))
    reach = np.concatenate(([np.iinfo(np.int64).min], np.maximum.accumulate(end[order])[:-1]))
    return order[end[order] > reach]
