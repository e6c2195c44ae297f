"""The scheduler of one generator process: which request goes when, on which connection. Runs on uvloop."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from time import monotonic_ns
from typing import Any

from servegauge.instrument.connection import Connection, InFlight
from servegauge.instrument.openai_api import Target
from servegauge.instrument.phases import FAR, Phase, Row
from servegauge.instrument.pool import Pool
from servegauge.instrument.ramp import ClosedRamp, OpenRamp
from servegauge.instrument.streams import Streams
from servegauge.instrument.timetable import Alarm, Timetable

_SPARE_LOW = 8  # idle connections of an instance below which an open loop opens more, ahead of need
_SWEEP_NS = 50_000_000  # how often timeouts are looked for


class Engine:
    """Sends phases and collects their flights. One instance for all phases of a process, so that connections stay."""

    def __init__(
        self,
        targets: Sequence[Target],
        tls: ssl.SSLContext | None = None,
        on_landed: Callable[[InFlight], None] = lambda flight: None,
        on_event: Callable[[str], None] = lambda event: None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.targets = targets
        self.due = Timetable(self._issue)
        self.pool = Pool(self, targets, tls)
        self.on_landed = on_landed
        # Of a held phase: "steady" (the ramp is over), "sent" (closed loop: every request of the window was sent),
        # "drained" (every request of the window has ended).
        self.on_event = on_event
        self.done: list[InFlight] = []
        self.flying: dict[InFlight, Connection | None] = {}
        self._waiting: deque[InFlight] = deque()
        self._streams = Streams(Phase(()), 0)
        self._ramp: OpenRamp | ClosedRamp | None = None
        self._window_ns = [FAR, FAR]  # start and end of the window, as far as they are known
        self._steady = False  # the ramp is over, and this was reported
        self._awaited = False  # the window is over, and its last request is waited for
        self._holding = False
        self.exhausted_ns = 0  # when the load ran out before every request of the window had ended; 0: it did not
        # Sessions that go on: place of the row that is sent, or waits for its pause to end -> start of the session, ns.
        self._sessions: dict[int, int] = {}
        self._phase = Phase(())
        self._start_ns = 0
        self._finished: asyncio.Future[None] | None = None
        self._stopped = False
        # Instances that close after each answer, though they promise to keep the connection (llama.cpp after a stream):
        # each request then gets a connection of its own, opened ahead of need.
        self.closes = [False for _ in targets]
        self._tasks: set[asyncio.Task[None]] = set()
        self.wakeups: list[tuple[int, int]] = []  # of each sweep: when it was, and how late, ns
        self._sweep_due_ns = 0
        self._sweeper = Alarm()
        self.loop.add_reader(self._sweeper.fd, self._sweep)

    def lost(self, connection: Connection, soon: bool = False) -> None:
        """An idle connection was closed by its server, `soon` after an answer or long after."""
        if soon:
            self.closes[connection.instance] = True
        self.pool.lost(connection)

    def stale(self, flight: InFlight, soon: bool = False) -> None:
        """A kept-alive connection was closed just as it was used: send once more, on a new one."""
        if soon:
            self.closes[flight.instance] = True
        self.flying[flight] = None
        self._spawn(self._send_on_new(flight))

    # Phases ----------------------------------------------------------------------------------------------------------

    async def run(self, phase: Phase, start_ns: int) -> list[InFlight]:
        """Send a phase whose time 0 is `start_ns`; returns its flights when all have landed or `stop()` was called."""
        self._phase, self._start_ns = phase, start_ns
        self.done = []
        self.pool.opened = 0
        self.exhausted_ns = 0
        self._finished = self.loop.create_future()
        self.due.clear()
        self._sessions = {}
        self._streams = Streams(phase, len(self.targets))
        self._window_ns, self._steady, self._awaited, self._holding = [FAR, FAR], False, False, phase.held
        self._ramp = None
        if phase.closed_loop:
            self._begin_closed(phase, start_ns)
        else:
            flights = self._schedule(phase.ramp if phase.held else phase.rows, start_ns)
            if phase.held:
                self._ramp = OpenRamp(flights, start_ns, phase.ramp_ns)
        self.due.arm()
        self.wakeups = []
        self._sweep_at(monotonic_ns() + _SWEEP_NS)
        self._finish_if_done()
        try:
            await self._finished
        finally:
            self._sweeper.at(0)
            self.due.rest()
        return self.done

    def _begin_closed(self, phase: Phase, start_ns: int) -> None:
        streams = len(phase.stream_instances)
        if not phase.held:
            self._streams.sending = ("rows",)
        elif phase.ramp:
            self._streams.sending = ("ramp", "tail")
            self._ramp = ClosedRamp(streams, start_ns, phase.ramp_ns)
        else:
            self._streams.parked = list(range(streams))
        for stream in range(streams) if self._streams.sending else ():
            self.due.push(start_ns + (phase.starts_ns[stream] if phase.starts_ns else 0), partial(self._turn, stream))

    def _schedule(self, rows: Sequence[Row], zero_ns: int) -> list[InFlight]:
        """Put rows of an open loop among what is due; returns their flights in order of time."""
        flights = [InFlight(row.place, row.payload, row.instance, zero_ns + row.scheduled_ns) for row in rows]
        for flight in flights:
            self.due.push(flight.scheduled_ns, flight)
        return sorted(flights, key=lambda flight: flight.scheduled_ns)

    def open_window(self, start_ns: int) -> None:
        """The ramp is over at `start_ns`, which has not come yet: what is due from then on is the window's."""
        phase = self._phase
        self._ramp = None
        self._window_ns[0] = start_ns
        if phase.closed_loop:
            self.due.push(start_ns, self._open_closed)
        else:
            self._window_ns[1] = start_ns + phase.window_ns
            # What is left of the ramp goes; what follows in a session that has begun is no InFlight yet, and stays.
            self.due.keep(lambda when, is_request: when < start_ns or not is_request)
            self._schedule(phase.rows, start_ns)
            self._schedule(phase.tail, start_ns)
        self.due.arm()

    def _open_closed(self, when: int, now: int) -> None:
        """From here on, streams send the window's requests; those that found nothing to send go on, too."""
        streams = self._streams
        streams.sending, streams.quota = ("rows", "tail"), self._phase.quota
        if self._phase.window_ns != FAR:
            self.due.push(self._window_ns[0] + self._phase.window_ns, self._out_of_time)
        parked, streams.parked = streams.parked, []
        for stream in parked:
            self.due.push(when, partial(self._turn, stream))
        if not streams.quota:
            self.on_event("sent")

    def _out_of_time(self, when: int, now: int) -> None:
        if self._streams.quota > 0:
            self._streams.quota = 0
            self.on_event("sent")

    def close_window(self, end_ns: int) -> None:
        """Closed loop: the window is over at `end_ns`; what its streams send from now on is the tail's."""
        self._window_ns[1] = end_ns

    def finish(self) -> None:
        """Send nothing more, and end when what is in flight has landed."""
        self._no_more()
        now = monotonic_ns()
        self.due.keep(lambda when, is_request: is_request and when <= now)
        self.due.arm()
        self._finish_if_done()

    def _no_more(self) -> None:
        self._holding, self._streams.sending, self._streams.parked = False, (), []

    def cancel(self, why: str) -> None:
        """Give up what is in flight or waits to be sent."""
        now = monotonic_ns()
        due = [flight for when, flight in self.due.requests() if when <= now]
        self.due.clear()
        for flight in [*self._waiting, *due]:
            flight.outcome, flight.error, flight.end_ns = "cancelled", f"{why} before it was sent", now
            self.done.append(flight)
        self._waiting.clear()
        for flight, connection in list(self.flying.items()):
            self._give_up(flight, connection, "cancelled", why)
        self._finish_if_done()

    def stop(self, why: str = "stopped by the user") -> None:
        """End the phase now: nothing more is sent, what is in flight is recorded as cancelled."""
        self._stopped = True
        self._no_more()
        self.cancel(why)

    def landed(self, flight: InFlight, connection: Connection | None, now: int) -> None:
        """A flight ended, well or not. A closed loop sends the stream's next request at once."""
        usable = connection if connection is not None and connection.alive else None
        if usable is not None and self.closes[flight.instance] and flight.row >= 0:
            usable.drop()
            usable = None
        if connection is not None and usable is None:
            self.pool.all.discard(connection)
        if flight.row < 0:
            self.pool.warmed(flight, usable)
            return
        self.flying.pop(flight, None)
        self.done.append(flight)
        think_ns = self._phase.think_ns
        goes_on = bool(self._phase.follows) and self._follow(flight, now)
        free = flight.stream >= 0 and not goes_on
        following = self._next_flight(flight.stream, now) if free and not think_ns else None
        if following is not None and usable is not None and not self._waiting:
            following.issued_ns = now
            self.flying[following] = usable
            usable.send(following)
        else:
            if usable is not None:
                self.pool.idle[flight.instance].append(usable)
            if self._waiting:
                self._issue(self._waiting.popleft(), now)
            if following is not None:
                self._issue(following, now)
            elif free and think_ns and not self._stopped:
                self.due.push(now + think_ns, partial(self._turn, flight.stream))
                self.due.arm()
        self.on_landed(flight)
        if not self.flying:
            self._finish_if_done()

    def _follow(self, flight: InFlight, now: int) -> bool:
        """Have the next request of a session sent after its pause; False where the session is over.

        It is over with its last request, with one that failed, and where nothing is to be sent any more.
        """
        began = self._sessions.pop(flight.row, flight.scheduled_ns)
        following = self._phase.follows.get(flight.row)
        answered = flight.outcome is None and any(part[9:12] == b"200" for part in flight.reads[:1])
        if following is None or not answered or self._stopped or self._holding != self._phase.held:
            return False
        row, pause_ns = following
        self._sessions[row.place] = began
        self.due.push(now + pause_ns, partial(self._send_following, row, flight.stream))
        self.due.arm()
        return True

    def _send_following(self, row: Row, stream: int, when: int, now: int) -> None:
        if isinstance(self._ramp, ClosedRamp):
            self._ramp.free(stream, when)
        self._count_down()
        self._issue(InFlight(row.place, row.payload, row.instance, when, stream), now)

    def _count_down(self) -> None:
        """A request of a closed loop's window is sent."""
        streams = self._streams
        if streams.quota > 0:
            streams.quota -= 1
            if not streams.quota:
                self.on_event("sent")

    def _turn(self, stream: int, when: int, now: int) -> None:
        """A stream may send: at its start, after thinking, or because there is something to send again."""
        flight = self._next_flight(stream, when)
        if flight is not None:
            self._issue(flight, now)
        elif not self.flying:
            self._finish_if_done()

    def _next_flight(self, stream: int, now: int) -> InFlight | None:
        """The next request of a closed-loop stream that is free since `now`, or None if there is none."""
        if isinstance(self._ramp, ClosedRamp):
            self._ramp.free(stream, now)
        row = self._streams.next_row(stream)
        if row is None:
            return None
        self._count_down()
        return InFlight(row.place, row.payload, row.instance, now, stream)

    def _issue(self, flight: InFlight, now: int) -> None:
        limit = self._phase.limit
        if limit is not None and len(self.flying) >= limit:
            self._waiting.append(flight)
            return
        flight.issued_ns = now
        idle = self.pool.idle[flight.instance]
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
        if needs_new and not self.pool.refilling[flight.instance]:
            self._refill(flight.instance)

    def _refill(self, instance: int) -> None:
        """Have connections ready ahead of need; streams of a closed loop may need one each at the same moment."""
        count = max(2 * _SPARE_LOW, self._phase.stream_instances.count(instance))

        def wanted() -> bool:
            more = self.due or self._waiting or self._streams.left(instance)
            return bool(more) and not self._stopped

        if len(self.pool.idle[instance]) < count // 2:
            self.pool.refilling[instance] = True
            self._spawn(self.pool.refill(instance, count, wanted))

    async def _send_on_new(self, flight: InFlight) -> None:
        try:
            connection = await self.pool.connect(flight.instance)
        except OSError as error:
            if flight in self.flying:
                flight.outcome, flight.error = "connection_error", f"cannot connect: {error}"
                flight.end_ns = monotonic_ns()
                self.landed(flight, None, flight.end_ns)
            return
        if flight in self.flying:
            self.flying[flight] = connection
            connection.send(flight)
        else:
            self.pool.idle[flight.instance].append(connection)

    def _sweep_at(self, when_ns: int) -> None:
        self._sweep_due_ns = when_ns
        self._sweeper.at(when_ns)

    def _sweep(self) -> None:
        """Give up flights that are out of time. They are in order of issue, so the first young one ends the search."""
        self._sweeper.quiet()
        now = monotonic_ns()
        self.wakeups.append((now, now - self._sweep_due_ns))
        timeout = self._phase.timeout_ns
        for flight, connection in list(self.flying.items()):
            if now - flight.issued_ns < timeout:
                break
            self._give_up(flight, connection, "timeout", f"no complete answer within {timeout / 1e9:g} s")
        if self._holding:
            self._look_at_window(now)
        if self._finished is not None and not self._finished.done():
            self._sweep_at(now + _SWEEP_NS)

    def _look_at_window(self, now: int) -> None:
        """Tell when the ramp is over, and when the last request of the window has ended."""
        start, end = self._window_ns
        if not self._steady:
            if self._ramp is None or self._ramp.over(now) or self._out_of_rows():
                self._steady = True
                self.on_event("steady")
        elif now >= start and not self._awaited:
            if not self.exhausted_ns and self._out_of_rows():
                self.exhausted_ns = now
            awaited = any(flight.scheduled_ns < end for flight in self._pending())
            # A session that began in the window is waited for to its end, whatever of it is after the window.
            awaited = awaited or any(start <= began < end for began in self._sessions.values())
            if now >= end and not awaited:
                self._awaited = True
                self.on_event("drained")

    def _pending(self) -> Iterator[InFlight]:
        """Requests that are in flight or wait to be sent."""
        yield from self.flying
        yield from self._waiting
        yield from (flight for _, flight in self.due.requests())

    def _out_of_rows(self) -> bool:
        """True where nothing is left to keep the load on with."""
        if self._phase.closed_loop:
            return bool(self._streams.parked)
        # What follows in sessions that have begun keeps no load on.
        return not (any(self.due.requests()) if self._phase.follows else self.due)

    def _give_up(self, flight: InFlight, connection: Connection | None, outcome: str, error: str) -> None:
        if connection is not None and connection.flight is flight:
            connection.abandon(outcome, error)
        else:
            flight.outcome, flight.error, flight.end_ns = outcome, error, monotonic_ns()
            self.landed(flight, None, flight.end_ns)

    def _finish_if_done(self) -> None:
        left = self.flying or self.due or self._waiting or self._holding
        if not left and self._finished is not None and not self._finished.done():
            self._finished.set_result(None)

    def _spawn(self, work: Any) -> None:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Close every connection."""
        self.loop.remove_reader(self._sweeper.fd)
        self._sweeper.close()
        self.due.close()
        self.pool.close()
