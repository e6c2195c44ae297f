"""The parts of a request's time to first token, on the clock of the requests: a timeline without holes or overlaps.

From its sending to the head of the answer (`client`: sending, HTTP, the server's front end), until a step with its
prefill begins (`queue`), then what the GPU does until the last operation of its last prefill step has ended: forward
operations (`kernels`), sampling and the wait for it (`sampling`), idle because the host had not called for the next one
or waited for the GPU (`cpu`), or because it was being launched (`launch_gap`). From there until the token is at the
client it is `return`, the engine's next step included where it hands out tokens only then.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from servegauge.traces.attribution import NONE
from servegauge.traces.gaps import split
from servegauge.traces.intervals import Cover, group_sum, merge
from servegauge.traces.membership import Member, Prefill, members
from servegauge.traces.requests import Requests, Sent
from servegauge.traces.step_rows import sampling_ranges, sampling_told
from servegauge.traces.view import PHASES, View, last_call

PARTS = (
    "client_ns", "queue_ns", "cpu_ns", "launch_gap_ns", "kernels_ns", "sampling_ns", "unattributed_ns", "return_ns",
)  # fmt: skip
_PREFILLS = (PHASES.index("prefill"), PHASES.index("mixed"))


def request_ttft_rows(view: View, shift: int, requests: Requests, clock_error_ns: int | None) -> list[dict[str, Any]]:
    """Rows of REQUEST_TTFT: the window's requests whose first token the capture saw on its way."""
    out = []
    for process, rank in view.ranks.items():
        bounds = [b for step, b in zip(view.steps, view.bounds, strict=True) if step.process == process]
        if not bounds:
            continue
        begin, end = min(start for start, _ in bounds) + shift, max(last for _, last in bounds) + shift
        steps = _prefills(view, process, shift)
        found = members(steps, requests.traffic, begin, end, clock_error_ns or 0)
        own = [
            (one, member)
            for one, member in zip(requests.traffic, found, strict=True)
            if one.counted and one.first_token is not None and one.first_token >= begin and one.sent <= end
        ]
        out += _rows({"trace": view.trace, "rank": rank}, view, process, shift, own)
    return out


def _prefills(view: View, process: int, shift: int) -> list[Prefill]:
    """Steps of a process with prefill, by start; their work ends with the last GPU operation, else with the host's."""
    last = last_call(view.capture, view.steps, view.joined)
    rows = np.nonzero(view.joined.step_of != NONE)[0]
    ended = np.full(len(view.steps), np.iinfo(np.int64).min)
    np.maximum.at(ended, view.joined.step_of[rows], view.capture.operations.end[rows])
    on_device = bool((view.capture.operations.process == process).any())
    found, number = [], -1
    for index, step in enumerate(view.steps):
        if step.process != process:
            continue
        number += 1
        if view.step_phase[index] in _PREFILLS:
            worked = ended[index] > step.start
            until = int(ended[index]) if worked else max(step.label_end, int(last[index]))
            about = step.label
            counts = (about.context_requests, about.context_tokens) if about else (None, None)
            lacks = "the capture cut a step of its prefill" if step.cut else None
            if on_device and not worked:
                lacks = lacks or "the capture holds no GPU work of a step of its prefill"
            found.append(Prefill(number, step.start + shift, until + shift, *counts, lacks))
    return sorted(found, key=lambda one: one.start)


def _rows(
    place: dict[str, Any], view: View, process: int, shift: int, own: list[tuple[Sent, Member | str]]
) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    known: list[dict[str, Any]] = []
    spans: list[tuple[int, int]] = []
    for one, member in own:
        token = one.first_token or 0
        row: dict[str, Any] = place | dict.fromkeys(PARTS) | {"request": one.request, "ttft_ns": token - one.sent}
        row |= {"membership": None, "prefill_steps": None, "reason": None}
        out.append(row)
        if isinstance(member, str):
            row["reason"] = member
            continue
        row |= {"membership": member.how, "prefill_steps": len(member.steps)}
        if lacks := next((step.lacks for step in member.steps if step.lacks), None):
            row["reason"] = lacks
            continue
        start, end = member.steps[0].start, member.steps[-1].end
        if start < one.sent or token < end:
            row["reason"] = (
                "the clocks are too far apart: its prefill began before it was sent, or ended after its token"
            )
            continue
        row |= {"queue_ns": start - one.sent, "return_ns": token - end}
        if one.first_byte is not None and one.sent <= one.first_byte <= start:
            row |= {"client_ns": one.first_byte - one.sent, "queue_ns": start - one.first_byte}
        else:
            row["reason"] = "client is part of queue: the head of the answer came no sooner than the prefill"
        known.append(row)
        spans.append((start - shift, end - shift))
    if known:
        parts = _on_device if (view.capture.operations.process == process).any() else _on_host
        for row, found in zip(known, parts(view, process, np.array(spans, dtype=np.int64)), strict=True):
            reason = found.pop("reason", None)
            row |= found | {"reason": "; ".join(filter(None, (row["reason"], reason))) or None}
            if sum(row[name] or 0 for name in PARTS) != row["ttft_ns"]:
                raise ValueError(f"request {row['request']}: the parts of its TTFT do not add up: {row}")
    return out


def _on_device(view: View, process: int, spans: np.ndarray) -> list[dict[str, Any]]:
    """What the GPU did in each of `spans` (n, 2); the parts of one add up to its length."""
    operations = view.capture.operations
    own = np.nonzero(operations.process == process)[0]
    start, end, first = merge(operations.start[own], operations.end[own])
    first = own[first]
    sampled = own[view.joined.after[own]]
    busy = Cover(start, end).covered(spans[:, 0], spans[:, 1])
    sampling = Cover(operations.start[sampled], operations.end[sampled]).covered(spans[:, 0], spans[:, 1])
    # Every stretch of a span before an operation in it: empty where one runs already.
    low = np.searchsorted(end, spans[:, 0], side="right")
    high = np.searchsorted(start, spans[:, 1], side="left")
    of = np.repeat(np.arange(len(spans)), high - low)
    at = np.concatenate([np.arange(a, b) for a, b in zip(low, high, strict=True)])
    before = np.where(at > 0, end[np.maximum(at, 1) - 1], spans[of, 0])
    until = np.maximum(start[at], spans[of, 0])
    parts = split(view, process, np.minimum(np.maximum(before, spans[of, 0]), until), until, first[at])
    waits = view.joined.after[first[at]]

    def total(values: np.ndarray) -> list[int]:
        return group_sum(of, values, len(spans)).tolist()

    idle = {
        "cpu_ns": total(np.where(waits, 0, parts["host_late"] + parts["synchronisation"])),
        "launch_gap_ns": total(np.where(waits, 0, parts["launch_call"] + parts["device"])),
        "unattributed_ns": total(parts["unattributed"]),
        "sampling_ns": total(np.where(waits, sum(parts.values()) - parts["unattributed"], 0)),
    }
    known = process in sampling_told(view)
    rows = []
    for index in range(len(spans)):
        row: dict[str, Any] = {name: values[index] for name, values in idle.items()}
        row["kernels_ns"] = int(busy[index] - sampling[index])
        row["sampling_ns"] += int(sampling[index])
        rows.append(
            row if known else row | {"sampling_ns": None, "reason": "nothing tells sampling from the forward pass"}
        )
    return rows


def _on_host(view: View, process: int, spans: np.ndarray) -> list[dict[str, Any]]:
    """The same of a rank without GPU work: what its host did. Sampling is known from ranges that are named after it."""
    ranges = sampling_ranges(view, process)
    sampling = ranges.covered(spans[:, 0], spans[:, 1]).tolist()
    missing = "no GPU work: no kernels, no launch gap"
    if not len(ranges.start):
        missing += "; nothing tells sampling from the forward pass"
    return [
        {"cpu_ns": end - begin - inside, "sampling_ns": inside if len(ranges.start) else None, "reason": missing}
        for (begin, end), inside in zip(spans.tolist(), sampling, strict=True)
    ]
