"""How the paced mock server answers: its pace, and the faults it can be asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from servegauge.errors import UserError, did_you_mean

FAULTS = {
    "http_error": "answer `status` (500) instead of tokens",
    "drop": "close the connection without a byte",
    "cut": "close the connection after `after` (3) tokens",
    "stall": "wait `stall_s` (1) more seconds after `after` (3) tokens",
    "zero_tokens": "a complete answer without a token",
    "short": "stop after `after` (3) tokens, whatever was asked",
    "garbage": "send an event that is not JSON after `after` (3) tokens",
    "slow_start": "answer 503 on /health for the first `start_s` (5) seconds",
    "refused_reset": 'answer a cache reset with 200 and {"success": false}',
}


@dataclass(frozen=True)
class Fault:
    """One kind of misbehaviour, on every `every`-th request (1 = all of them)."""

    kind: str
    every: int = 1
    status: int = 500
    after: int = 3
    stall_s: float = 1.0
    start_s: float = 5.0

    @classmethod
    def parse(cls, text: str) -> Fault:
        """`KIND[:key=value,...]`, such as `cut:every=7,after=3`. UserError lists what there is."""
        kind, _, rest = text.partition(":")
        if kind not in FAULTS:
            raise UserError(
                f"--fault {text}: no fault {kind!r}; there are {', '.join(FAULTS)}.{did_you_mean(kind, FAULTS)}"
            )
        kinds = {"every": int, "status": int, "after": int, "stall_s": float, "start_s": float}
        values: dict[str, Any] = {}
        for pair in filter(None, rest.split(",")):
            key, _, value = pair.partition("=")
            try:
                values[key] = kinds[key](value)
            except (KeyError, ValueError):
                allowed = ", ".join(f"{name}=<{kind.__name__}>" for name, kind in kinds.items())
                raise UserError(f"--fault {text}: {pair!r} is not one of {allowed}") from None
        if values.get("every", 1) < 1:
            raise UserError(f"--fault {text}: every must be at least 1")
        return cls(kind, **values)


@dataclass(frozen=True)
class Pace:
    """How the server answers. Times in seconds; `slots` null means every request starts at once."""

    first_s: float = 0.05
    gap_s: float = 0.01
    prefill_s_per_token: float = 0.0
    tokens_per_chunk: int = 1
    slots: int | None = None
    early_headers: bool = False
    prefix_cache: bool = False
    faults: tuple[Fault, ...] = ()

    def fault(self, number: int) -> Fault | None:
        """The fault of the `number`-th request (counted from 1), or null."""
        per_request = (fault for fault in self.faults if fault.kind not in ("slow_start", "refused_reset"))
        return next((fault for fault in per_request if number % fault.every == 0), None)

    def has(self, kind: str) -> Fault | None:
        """The configured fault of this kind, or null."""
        return next((fault for fault in self.faults if fault.kind == kind), None)
