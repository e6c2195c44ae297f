"""How the paced mock server answers: its pace, and the faults it can be asked for."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from servegauge.base.errors import UserError, did_you_mean

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
    """How the server answers. Times in seconds; `slots` None means every request starts at once."""

    first_s: float = 0.05
    gap_s: float = 0.01
    prefill_s_per_token: float = 0.0
    tokens_per_chunk: int = 1
    slots: int | None = None
    early_headers: bool = False
    prefix_cache: bool = False
    faults: tuple[Fault, ...] = ()

    @classmethod
    def of(cls, given: argparse.Namespace) -> Pace:
        """The pace that a command line of `parser()` asks for."""
        names = [name for name in cls.__dataclass_fields__ if name != "faults"]
        return cls(**{name: getattr(given, name) for name in names}, faults=tuple(map(Fault.parse, given.fault)))

    def fault(self, number: int) -> Fault | None:
        """The fault of the `number`-th request (counted from 1), or None."""
        per_request = (fault for fault in self.faults if fault.kind not in ("slow_start", "refused_reset"))
        return next((fault for fault in per_request if number % fault.every == 0), None)

    def has(self, kind: str) -> Fault | None:
        """The configured fault of this kind, or None."""
        return next((fault for fault in self.faults if fault.kind == kind), None)


class _Parser(argparse.ArgumentParser):
    """Mistakes are UserErrors, so that a launch's arguments can be checked while planning."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m servegauge.inputs.engines.paced.server`."""
    faults = "\n".join(f"  {kind:14}{text}" for kind, text in FAULTS.items())
    options = _Parser(
        prog="python -m servegauge.inputs.engines.paced.server",
        description="A mock OpenAI-compatible server whose truth is known.",
        epilog=f"faults, as --fault KIND[:every=N,key=value]:\n{faults}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--host", default="127.0.0.1")
    options.add_argument("--port", type=int, default=8001, help="0 takes a free one; see --port-file")
    options.add_argument("--port-file", type=Path, help="write the port here once listening")
    options.add_argument("--first-s", type=float, default=0.05, help="first token after this many seconds")
    options.add_argument("--gap-s", type=float, default=0.01, help="seconds between two tokens")
    options.add_argument("--prefill-s-per-token", type=float, default=0.0, help="added to --first-s per prompt token")
    options.add_argument("--tokens-per-chunk", type=int, default=1)
    options.add_argument("--slots", type=int, help="most requests answered at once; the others queue")
    options.add_argument("--early-headers", action="store_true", help="send the response's head at once")
    options.add_argument("--prefix-cache", action="store_true", help="repeat prompts count as cached until a reset")
    options.add_argument("--fault", action="append", default=[], metavar="KIND[:..]", help="misbehave, see below")
    options.add_argument("--cpu", type=int, help="pin to this CPU")
    options.add_argument("--parent", type=int, metavar="PID", help="end when this process, which started it, ends")
    return options
