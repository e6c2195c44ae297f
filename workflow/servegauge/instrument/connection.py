"""The hot path: one connection that sends prebuilt bytes and stamps every read; it parses no more than framing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic_ns
from typing import Any, Protocol

from servegauge.instrument.http_stream import Framing, MalformedResponse


@dataclass(slots=True, eq=False)
class InFlight:
    """One request on its way, with its raw stamps (ns, CLOCK_MONOTONIC; 0 where not reached) and its raw reads."""

    row: int  # place in the worker's share of the workload
    payload: bytes
    instance: int
    scheduled_ns: int
    stream: int = -1  # closed loop: the stream that it belongs to
    issued_ns: int = 0  # handed to a connection, or began to wait for one
    sent_ns: int = 0
    end_ns: int = 0
    reads: list[bytes] = field(default_factory=list)
    stamps: list[int] = field(default_factory=list)
    outcome: str | None = None  # None: a whole response came
    error: str | None = None
    reused: bool = False
    retried: bool = False
    partial: bool = False  # the kernel did not take all of it at once
    closed: bool = False  # the server closed the connection after the last read
    answer: Any = None  # what the reads hold, once understood


class Due(Protocol):
    """What is to be sent at its time; the first of it at `next_ns`."""

    next_ns: int

    def fire(self, now: int) -> None: ...


class Owner(Protocol):
    """What a connection needs of its worker."""

    closes: list[bool]  # by instance: it closes after each answer

    @property
    def due(self) -> Due: ...

    def landed(self, flight: InFlight, connection: Connection, now: int) -> None: ...

    def lost(self, connection: Connection, soon: bool = False) -> None: ...

    def stale(self, flight: InFlight, soon: bool = False) -> None: ...


class Connection(asyncio.Protocol):
    """One keep-alive connection to one instance. At most one request is on it at any time."""

    SOON_NS = 100_000_000  # a close within this time after an answer is the server's habit, not its keep-alive limit;
    # within this time after a request it crossed the request on its way, and the server never read it

    def __init__(self, owner: Owner, instance: int) -> None:
        self.owner = owner
        self.due = owner.due
        self.instance = instance
        self.framing = Framing()
        self._feed = self.framing.feed
        self.flight: InFlight | None = None
        self.carried = 0
        self.alive = False
        self.free_ns = 0
        self.transport: Any = None
        self.add_read: Callable[[bytes], None]
        self.add_stamp: Callable[[int], None]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        # Without room for buffering, resume_writing tells when the kernel took the last byte of a large request.
        self.transport.set_write_buffer_limits(high=0)
        self.alive = True
        self.free_ns = monotonic_ns()

    def send(self, flight: InFlight) -> None:
        """Send a request; `sent_ns` is when its last byte was handed to the kernel."""
        self.flight = flight
        flight.reused = self.carried > 0
        self.carried += 1
        self.add_read = flight.reads.append
        self.add_stamp = flight.stamps.append
        self.transport.write(flight.payload)
        if self.transport.get_write_buffer_size():
            flight.partial = True
        else:
            flight.sent_ns = monotonic_ns()

    def pause_writing(self) -> None:
        """A write that the kernel did not take whole; see `resume_writing`."""

    def resume_writing(self) -> None:
        flight = self.flight
        if flight is not None and not flight.sent_ns:
            flight.sent_ns = monotonic_ns()

    def data_received(self, data: bytes) -> None:
        now = monotonic_ns()
        flight = self.flight
        if flight is None:  # bytes that were not asked for: the connection cannot be trusted
            self.drop()
            return
        self.add_stamp(now)
        self.add_read(data)
        try:
            self._feed(data)
        except MalformedResponse as error:
            flight.outcome = "invalid"
            flight.error = f"not HTTP: {error}"
            self._land(flight, now, reusable=False)
        else:
            if self.framing.complete:
                if not self.framing.keep_alive and self.framing.status == 200:
                    self.owner.closes[self.instance] = True
                self._land(flight, now, reusable=self.framing.keep_alive)
        if now >= self.due.next_ns:  # do not let a burst of reads delay a request that is due
            self.due.fire(now)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        by_server, self.alive = self.alive, False
        flight = self.flight
        now = monotonic_ns()
        if flight is None:
            self.owner.lost(self, soon=by_server and self.carried > 0 and now - self.free_ns < self.SOON_NS)
            return
        flight.closed = True
        why = f": {error}" if error else ""
        if self.framing.ends_with_connection and error is None:
            self.owner.closes[self.instance] = True
            self._land(flight, now, reusable=False)
        elif flight.reads:
            flight.outcome = "truncated"
            flight.error = f"the server closed the connection inside its answer{why}"
            self._land(flight, now, reusable=False)
        elif flight.reused and not flight.retried and now - flight.issued_ns < self.SOON_NS:
            # Closed before a byte of the answer: the server was done with this connection, whatever it promised of
            # keeping it alive, and never read the request. A server that died refuses the new connection.
            self.flight = None
            flight.retried = True
            self.owner.stale(flight, soon=flight.issued_ns - self.free_ns < self.SOON_NS)
        else:
            flight.outcome = "connection_error"
            flight.error = f"the server closed the connection without an answer{why}"
            self._land(flight, now, reusable=False)

    def abandon(self, outcome: str, error: str) -> None:
        """Give up the request on this connection, for a timeout or a cancellation."""
        flight = self.flight
        if flight is not None:
            flight.outcome = outcome
            flight.error = error
            self._land(flight, monotonic_ns(), reusable=False)

    def drop(self) -> None:
        """Close at once; the owner learns of it by `lost`."""
        if self.alive:
            self.alive = False
            self.transport.abort()

    def _land(self, flight: InFlight, now: int, reusable: bool) -> None:
        self.flight = None
        flight.end_ns = now
        self.free_ns = now
        if reusable and self.alive and not self.transport.get_write_buffer_size():
            self.framing.next()
        else:
            self.drop()
        self.owner.landed(flight, self, now)
