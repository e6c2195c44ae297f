"""What a flag is: a doubt about a cell, declared once with what it means, what raises it and what to do about it.

`flag_registry/` holds the declarations, a file each; nothing else lists flags. From them follow the thresholds that a
study's `validity:` may set, docs/flags.md, and what the report and the terminal say of a flag.

A flag is raised by its own `check`, which is given a *case*: what is known of a measured cell (`CellCase`), of a server
that runs (`ServerCase`), of two cells that should have answered alike (`TextsCase`), or of a launch's servers
(`ServersCase`). `flags.raised` asks every flag of a case's kind. What was raised is kept as {"flag", "value",
"threshold", "detail"}: the value crossed the threshold, and `detail` says so in words. Nothing is ever dropped for a
flag.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

    from servegauge.contract.formulas import Requests
    from servegauge.contract.spec import Cell

UNFIT, UNFIT_LATENCY, DOUBT, SAMPLE = "unfit", "unfit for latency", "doubt", "sample"
SEVERITIES: Mapping[str, str] = {
    UNFIT: "something else was measured than was asked for: no verdict on any number of the cell",
    UNFIT_LATENCY: "latencies depend on how long the window was: no verdict on them; rates are still judged",
    DOUBT: "the numbers may be off: the verdict stands, with the flag beside it",
    SAMPLE: "how many requests there were, not how they were measured: marks the quantile that they do not carry",
}
"""How bad a flag is for what may be concluded from the cell."""


@dataclass(frozen=True)
class Threshold:
    """A limit that a study may set by its name; `description` ends where the limit stands."""

    name: str
    default: float
    description: str


@dataclass(frozen=True)
class Doubt:
    """What a check found: the value that crossed the threshold, and words for a person."""

    value: Any
    threshold: Any
    detail: str


@dataclass(frozen=True)
class CellCase:
    """A measured cell: its window's requests, its cell.json so far, the GPUs' samples if there were any."""

    window: Requests
    cell: Cell
    record: Mapping[str, Any]
    thresholds: Mapping[str, float]
    gpu: pa.Table | None = None
    load: Requests | None = None  # the requests of ramp, window and tail; None: the window's are all there are

    @property
    def around(self) -> Requests:
        """The requests of ramp, window and tail."""
        return self.load or self.window

    @property
    def window_ns(self) -> int | None:
        """Length of the window, ns; None where it is not known."""
        seconds = (self.record.get("window") or {}).get("duration_s")
        return None if not seconds else int(seconds * 1e9)

    @property
    def instrument(self) -> Mapping[str, Any]:
        return self.record.get("instrument") or {}


@dataclass(frozen=True)
class ServerCase:
    """A server that runs: options that it reports otherwise than asked, and the tokens that its KV cache holds."""

    differences: Sequence[tuple[str, Any, Any]]  # (option, asked, reported)
    kv_blocks: int | None
    kv_block_tokens: int | None
    context_tokens: int | None  # asked for
    thresholds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TextsCase:
    """A cell beside the one of the same server, load and workload on another platform, at temperature 0."""

    differ: int  # answers with another text
    both: int  # answers of both
    reference: str  # the other platform
    thresholds: Mapping[str, float]


@dataclass(frozen=True)
class ServersCase:
    """A cell whose launch had `servers` lifetimes of its server, begun `apart` of each other; its own is `server`."""

    server: int
    servers: int
    apart: str | None
    thresholds: Mapping[str, float] = field(default_factory=dict)


Case = CellCase | ServerCase | TextsCase | ServersCase


@dataclass(frozen=True)
class Flag:
    """One flag. `check` is given a case of the kind `about` and yields what it doubts."""

    name: str
    meaning: str
    remedy: str
    severity: str
    about: type
    check: Callable[[Any], Iterable[Doubt]]
    thresholds: tuple[Threshold, ...] = ()
    position: int = 1000

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise ValueError(f"flag {self.name!r}: severity {self.severity!r}; there are {', '.join(SEVERITIES)}")
        for word in ("meaning", "remedy"):
            if not getattr(self, word).endswith("."):
                raise ValueError(f"flag {self.name!r}: {word} is a sentence and ends with a full stop")


def above(case: Case, threshold: str, value: float | None, detail: str) -> Iterator[Doubt]:
    """A doubt where `value` is defined and above the threshold of this name."""
    most = case.thresholds[threshold]
    if value is not None and value > most:
        yield Doubt(float(value), float(most), detail)


def below(case: Case, threshold: str, value: float | None, detail: str) -> Iterator[Doubt]:
    """A doubt where `value` is defined and below the threshold of this name."""
    least = case.thresholds[threshold]
    if value is not None and value < least:
        yield Doubt(float(value), float(least), detail)


def ms(seconds: float | None) -> str:
    """Seconds as a person reads them in a flag's detail."""
    return "an unknown time" if seconds is None else f"{seconds * 1e3:.2f} ms"
