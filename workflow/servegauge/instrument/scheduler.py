"""The scheduler of one generator process: which request goes when, on which connection. Runs on uvloop."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import heapq
import os
import socket
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic_ns
from typing import Any

from servegauge.instrument.connection import Connection, Flight
from servegauge.instrument.openai_api import Target, get_bytes

FAR = 1 << 62  # a time that never comes
_SPARE_LOW = 8  # idle connections of an instance below which an open loop opens more, ahead of need
_SWEEP_S = 0.05  # how often timeouts are looked for
_WARM_TIMEOUT_S = 5.0
_CLOCK_MONOTONIC, _TFD_NONBLOCK, _TFD_CLOEXEC, _TFD_TIMER_ABSTIME = 1, 0o4000, 0o2000000, 1  # linux/timerfd.h
_libc = ctypes.CDLL(None, use_errno=True)


class Alarm:
    """A timerfd: wakes the event loop at an absolute monotonic time, to microseconds (libuv's timers round to ms)."""

    def __init__(self) -> None:
        self.fd: int = _libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK | _TFD_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        self._spec = (ctypes.c_int64 * 4)()  # interval s, ns, value s, ns

    def at(self, when_ns: int) -> None:
        """Ring once at `when_ns`; 0 disarms."""
        self._spec[2], self._spec[3] = divmod(when_ns, 1_000_000_000)
        _libc.timerfd_settime(self.fd, _TFD_TIMER_ABSTIME, self._spec, None)

    def quiet(self) -> None:
        """Take note that it rang."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 8)

    def close(self) -> None:
        os.close(self.fd)


@dataclass(frozen=True)
class Row:
    """One request to be sent: its place in the worker's share, its bytes, its instance, its time in the phase in ns."""

    place: int
    payload: bytes
    instance: int
    scheduled_ns: int = 0


@dataclass(frozen=True)
class Phase:
    """What to send: an open loop by each row's time, or a closed loop of `streams` streams.

    `stream_instances` gives the instance of each stream; `limit` is the most requests in flight, null for none.
    """

    rows: Sequence[Row]
    stream_instances: Sequence[int] = ()
    think_ns: int = 0
    duration_ns: int = FAR
    limit: int | None = None
    timeout_ns: int = 300_000_000_000

    @property
    def closed_loop(self) -> bool:
        return bool(self.stream_instances)


class Engine:
    """Sends phases and collects their flights. One instance for all phases of a process, so that connections stay."""

    def __init__(
        self,
        targets: Sequence[Target],
        tls: ssl.SSLContext | None = None,
        on_landed: Callable[[Flight], None] = lambda flight: None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.targets = targets
        self.tls = tls
        self.on_landed = on_landed
        self.idle: list[list[Connection]] = [[] for _ in targets]
        self.addresses: list[tuple[Any, ...] | None] = [None for _ in targets]
        self.connections: set[Connection] = set()
        self.opened_in_window = 0
        self.next_due_ns = FAR
        self.done: list[Flight] = []
        self.flying: dict[Flight, Connection | None] = {}
        self._due: list[tuple[int, int, Flight]] = []
        self._waiting: deque[Flight] = deque()
        self._rows: list[deque[Row]] = []  # closed loop: what is left for each instance
        self._order = 0
        self._phase = Phase(())
        self._start_ns = 0
        self._finished: asyncio.Future[None] | None = None
        self._stopped = False
        self._warming: dict[Flight, asyncio.Future[bool]] = {}
        self._opening = [False for _ in targets]
        # Instances that close after each answer, though they promise to keep the connection (llama.cpp after a stream):
        # each request then gets a connection of its own, opened ahead of need.
        self.closes = [False for _ in targets]
        self._tasks: set[asyncio.Task[None]] = set()
        self._alarm = Alarm()
        self.loop.add_reader(self._alarm.fd, self._rang)

    # Connections -----------------------------------------------------------------------------------------------------

    async def connect(self, instance: int) -> Connection:
        """A new connection to an instance. OSError where there is none to be had."""
        target = self.targets[instance]
        known = self.addresses[instance]
        if known is None:
            known_all = await self.loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
            addresses = [address for *_, address in known_all]
        else:
            addresses = [known]
        failure: OSError | None = None
        for address in addresses:
            try:
                _, connection = await self.loop.create_connection(
                    lambda: Connection(self, instance),
                    address[0],
                    address[1],
                    ssl=self.tls if target.tls else None,
                    server_hostname=target.host if target.tls else None,
                )
            except OSError as error:
                failure = failure or error
                continue
            self.addresses[instance] = address
            self.connections.add(connection)
            return connection
        raise failure or OSError(f"{target.host} has no address")

    async def open(self, instance: int, count: int, warm_path: str | None, api_key: str = "") -> int:
        """Open connections until `count` are idle, each warmed by one GET of `warm_path`; returns how many are idle.

        Any answer warms; a connection that gives none within 5 s is closed. OSError if not even one can be opened.
        """
        idle = self.idle[instance]
        while len(idle) < count:
            batch = []
            for _ in range(min(64, count - len(idle))):
                batch.append(await self.connect(instance))
            if warm_path is None:
                idle.extend(batch)
                continue
            payload = get_bytes(self.targets[instance], warm_path, api_key)
            futures = []
            for connection in batch:
                flight = Flight(-1, payload, instance, 0)
                futures.append(self._warming.setdefault(flight, self.loop.create_future()))
                connection.send(flight)
            await asyncio.wait(futures, timeout=_WARM_TIMEOUT_S)
            for connection in batch:
                connection.abandon("timeout", "no answer while warming")
            if not any(future.result() for future in futures):
                warm_path = None  # an instance that closes after each answer cannot be warmed
        return len(idle)

    def lost(self, connection: Connection, soon: bool = False) -> None:
        """An idle connection was closed by its server, `soon` after an answer or long after."""
        if soon:
            self.closes[connection.instance] = True
        self.connections.discard(connection)
        idle = self.idle[connection.instance]
        if connection in idle:
            idle.remove(connection)

    def stale(self, flight: Flight, soon: bool = False) -> None:
        """A kept-alive connection was closed just as it was used: send once more, on a new one."""
        if soon:
            self.closes[flight.instance] = True
        self.flying[flight] = None
        self._spawn(self._send_on_new(flight))

    # Phases ----------------------------------------------------------------------------------------------------------

    async def run(self, phase: Phase, start_ns: int) -> list[Flight]:
        """Send a phase whose time 0 is `start_ns`; returns its flights when all have landed or `stop()` was called."""
        self._phase, self._start_ns = phase, start_ns
        self.done = []
        self.opened_in_window = 0
        self._finished = self.loop.create_future()
        if phase.closed_loop:
            self._rows = [deque() for _ in self.targets]
            for row in phase.rows:
                self._rows[row.instance].append(row)
            first = [self._next_flight(stream, start_ns) for stream in range(len(phase.stream_instances))]
            self._due = [(start_ns, stream, flight) for stream, flight in enumerate(first) if flight is not None]
        else:
            flights = [Flight(row.place, row.payload, row.instance, start_ns + row.scheduled_ns) for row in phase.rows]
            self._due = [(flight.scheduled_ns, place, flight) for place, flight in enumerate(flights)]
        self._order = len(self._due)
        heapq.heapify(self._due)
        self._arm()
        sweep = self.loop.call_later(_SWEEP_S, self._sweep)
        self._finish_if_done()
        try:
            await self._finished
        finally:
            sweep.cancel()
            self.next_due_ns = FAR
            self._alarm.at(0)
        return self.done

    def stop(self, why: str = "stopped by the user") -> None:
        """End the phase now: nothing more is sent, what is in flight is recorded as cancelled."""
        self._stopped = True
        self._rows = []
        now = monotonic_ns()
        due = [flight for _, _, flight in self._due if flight.scheduled_ns <= now]
        self._due.clear()
        for flight in [*self._waiting, *due]:
            flight.outcome, flight.error, flight.end_ns = "cancelled", f"{why} before it was sent", now
            self.done.append(flight)
        self._waiting.clear()
        for flight, connection in list(self.flying.items()):
            self._give_up(flight, connection, "cancelled", why)
        self._finish_if_done()

    def fire(self, now: int) -> None:
        """Issue every request that is due."""
        due = self._due
        while due and due[0][0] <= now:
            self._issue(heapq.heappop(due)[2], now)
        self._arm()

    def landed(self, flight: Flight, connection: Connection | None, now: int) -> None:
        """A flight ended, well or not. A closed loop sends the stream's next request at once."""
        usable = connection is not None and connection.alive
        if usable and self.closes[flight.instance] and flight.row >= 0:
            connection.drop()
            usable = False
        if connection is not None and not usable:
            self.connections.discard(connection)
        if flight.row < 0:
            if usable:
                self.idle[flight.instance].append(connection)
            waiting = self._warming.pop(flight)
            if not waiting.done():
                waiting.set_result(usable)
            return
        self.flying.pop(flight, None)
        self.done.append(flight)
        following = self._next_flight(flight.stream, now + self._phase.think_ns) if flight.stream >= 0 else None
        if following is not None and usable and following.scheduled_ns <= now and not self._waiting:
            following.issued_ns = now
            self.flying[following] = connection
            connection.send(following)
        else:
            if usable:
                self.idle[flight.instance].append(connection)
            if self._waiting:
                self._issue(self._waiting.popleft(), now)
            if following is not None and following.scheduled_ns > now:
                heapq.heappush(self._due, (following.scheduled_ns, self._order, following))
                self._order += 1
                self._arm()
            elif following is not None:
                self._issue(following, now)
        self.on_landed(flight)
        if not self.flying:
            self._finish_if_done()

    def _next_flight(self, stream: int, scheduled: int) -> Flight | None:
        """The next request of a closed-loop stream that is free from `scheduled` on, or null if there is none."""
        instance = self._phase.stream_instances[stream]
        over = self._stopped or scheduled - self._start_ns >= self._phase.duration_ns
        if over or not self._rows[instance]:
            return None
        row = self._rows[instance].popleft()
        return Flight(row.place, row.payload, instance, scheduled, stream)

    def _issue(self, flight: Flight, now: int) -> None:
        limit = self._phase.limit
        if limit is not None and len(self.flying) >= limit:
            self._waiting.append(flight)
            return
        flight.issued_ns = now
        idle = self.idle[flight.instance]
        while idle:
            connection = idle.pop()
            if connection.alive:
                self.flying[flight] = connection
                connection.send(flight)
                break
        else:
            self.flying[flight] = None
            self._spawn(self._send_on_new(flight))
        needs_new = not self._phase.closed_loop or self.closes[flight.instance]
        if needs_new and len(idle) < self._spares(flight.instance) // 2 and not self._opening[flight.instance]:
            self._opening[flight.instance] = True
            self._spawn(self._open_spares(flight.instance))

    def _spares(self, instance: int) -> int:
        """Idle connections to hold ready; streams of a closed loop may need one each at the same moment."""
        return max(2 * _SPARE_LOW, self._phase.stream_instances.count(instance))

    async def _send_on_new(self, flight: Flight) -> None:
        try:
            connection = await self.connect(flight.instance)
        except OSError as error:
            if flight in self.flying:
                flight.outcome, flight.error = "connection_error", f"cannot connect: {error}"
                flight.end_ns = monotonic_ns()
                self.landed(flight, None, flight.end_ns)
            return
        self.opened_in_window += 1
        if flight in self.flying:
            self.flying[flight] = connection
            connection.send(flight)
        else:
            self.idle[flight.instance].append(connection)

    async def _open_spares(self, instance: int) -> None:
        """Keep connections ready ahead of need; a server that refuses is heard of when one is needed."""

        def more_to_send() -> bool:
            return bool(self._due or self._waiting or (self._rows and self._rows[instance]))

        try:
            while len(self.idle[instance]) < self._spares(instance) and not self._stopped and more_to_send():
                self.idle[instance].append(await self.connect(instance))
                self.opened_in_window += 1
        except OSError:
            pass
        finally:
            self._opening[instance] = False

    def _sweep(self) -> None:
        """Give up flights that are out of time. They are in order of issue, so the first young one ends the search."""
        now = monotonic_ns()
        timeout = self._phase.timeout_ns
        for flight, connection in list(self.flying.items()):
            if now - flight.issued_ns < timeout:
                break
            self._give_up(flight, connection, "timeout", f"no complete answer within {timeout / 1e9:g} s")
        if self._finished is not None and not self._finished.done():
            self.loop.call_later(_SWEEP_S, self._sweep)

    def _give_up(self, flight: Flight, connection: Connection | None, outcome: str, error: str) -> None:
        if connection is not None and connection.flight is flight:
            connection.abandon(outcome, error)
        else:
            flight.outcome, flight.error, flight.end_ns = outcome, error, monotonic_ns()
            self.landed(flight, None, flight.end_ns)

    def _arm(self) -> None:
        due = self._due[0][0] if self._due else FAR
        if due != self.next_due_ns:
            self.next_due_ns = due
            self._alarm.at(0 if due == FAR else due)

    def _rang(self) -> None:
        self._alarm.quiet()
        self.fire(monotonic_ns())

    def _finish_if_done(self) -> None:
        left = self.flying or self._due or self._waiting
        if not left and self._finished is not None and not self._finished.done():
            self._finished.set_result(None)

    def _spawn(self, work: Any) -> None:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Close every connection."""
        self.loop.remove_reader(self._alarm.fd)
        self._alarm.close()
        for connection in list(self.connections):
            connection.drop()
