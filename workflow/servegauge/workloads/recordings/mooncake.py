"""Mooncake's traces: a JSON object a line, with the blocks of the prompt's KV cache (`hash_ids`).

`timestamp` and `delay` are in milliseconds. What others add to the format is read, too: `session_id` joins requests to
a session, whose next request comes `delay` after the answer to the one before it; and the names `input_tokens`,
`output_tokens`, `created_time` and `delay_ms`. Of a session without blocks, `input_length` is what a request adds to
those before it; with blocks it is the whole prompt's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from servegauge.base.errors import UserError
from servegauge.contract.config_types import Prompts
from servegauge.workloads.data_sets import json_lines
from servegauge.workloads.recording import Format, Recorded, seconds, whole

_NAMES = {
    "timestamp": ("timestamp", "created_time"),
    "input_length": ("input_length", "input_tokens"),
    "output_length": ("output_length", "output_tokens"),
    "delay": ("delay", "delay_ms"),
}


def _read(path: Path, spec: Prompts) -> Iterator[Recorded]:
    begun: dict[str, float] = {}
    pause_s: Any = spec.get("pause_s")  # seconds: the schema lets a recording have no distribution
    for line, item in json_lines(path):
        if all(item.get(name) == value for name, value in (spec.get("where") or {}).items()):
            yield _request(item, path, line, begun, pause_s)


def _request(item: dict[str, Any], path: Path, line: int, begun: dict[str, float], pause_s: float | None) -> Recorded:
    def given(name: str) -> Any:
        return next((item[one] for one in _NAMES[name] if item.get(one) is not None), None)

    def needed(name: str) -> Any:
        if (value := given(name)) is None:
            raise UserError(f"{path}:{line}: `{name}` is missing; it has: {', '.join(item) or 'nothing'}")
        return value

    session = item.get("session_id")
    session = None if session is None else str(session)
    follows = session is not None and session in begun
    pause = seconds(given("delay"), path, line, "delay", 1e-3) if given("delay") is not None else pause_s
    if follows and (pause is None or pause < 0):
        raise UserError(
            f"{path}:{line}: a further request of session {session!r} has no `delay` (milliseconds after the answer "
            "before it); add it, or give the prompt set `pause_s`"
        )
    # A further request comes after an answer; its own time, if it has one, only says in which order.
    at_s = begun[session] if follows and session else seconds(needed("timestamp"), path, line, "timestamp", 1e-3)
    if session is not None:
        begun.setdefault(session, at_s)
    blocks = item.get("hash_ids") or []
    wrong = [one for one in blocks if not isinstance(one, int)][:1] if isinstance(blocks, list) else [blocks]
    if wrong:  # the first alone: a prompt can have thousands
        raise UserError(f"{path}:{line}: `hash_ids` has {wrong[0]!r}, expected a list of whole numbers")
    asked, answer = (whole(needed(name), path, line, name) for name in ("input_length", "output_length"))
    return Recorded(at_s, asked, answer, tuple(blocks), session, pause if follows else None)


MOONCAKE = Format("mooncake", "Mooncake trace", _read, ("pause_s", "block_tokens"))
