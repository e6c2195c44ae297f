"""When a ramp is over: the load is on, and what it does no longer depends on how it began.

Open loop: long enough that the first requests were answered, because a window that opens sooner misses the answers to
the requests before it, and its rates are too low. Closed loop: every stream was answered once, and the times at which
the streams send, spread by the staggered start, are no longer drawn together by a server that serves them in step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from servegauge.instrument.connection import InFlight

FIRST = 0.2  # the first requests: of this part of the ramp so far
ANSWERED = 0.95  # so many of them, or all but one, must have ended: a request that hangs must not hold up a window
NOT_SHRUNK = 0.9  # a spread of at least so much of the round before it no longer shrinks


class OpenRamp:
    """The rule of an open loop. `least_ns`: length before which it is not over, whatever was answered."""

    def __init__(self, flights: Sequence[InFlight], start_ns: int, least_ns: int) -> None:
        self.flights, self.start_ns, self.least_ns = flights, start_ns, least_ns

    def over(self, now: int) -> bool:
        """True where the first requests of the ramp so far have ended."""
        long = now - self.start_ns
        if long < self.least_ns:
            return False
        asked = ended = 0
        for flight in self.flights:
            if flight.scheduled_ns - self.start_ns > FIRST * long:
                break
            asked += 1
            ended += flight.end_ns > 0
        return ended >= math.ceil(ANSWERED * asked) or (asked >= 4 and asked - ended == 1)


class ClosedRamp:
    """The rule of a closed loop of `streams` streams."""

    def __init__(self, streams: int, start_ns: int, least_ns: int) -> None:
        self.streams, self.start_ns, self.least_ns = streams, start_ns, least_ns
        self.answers = [0] * streams
        self.rounds: list[list[int]] = [[]]  # per round, when each stream was free to send

    def free(self, stream: int, now: int) -> None:
        """A stream may send: for the first time, or because it was answered."""
        round_ = self.answers[stream]
        if round_ == len(self.rounds):
            self.rounds.append([])
        self.rounds[round_].append(now)
        self.answers[stream] += 1

    def over(self, now: int) -> bool:
        """True where each stream was answered and the last whole round is as spread as the one before it."""
        if now - self.start_ns < self.least_ns:
            return False
        whole = [times for times in self.rounds if len(times) == self.streams]
        return len(whole) > 1 and _spread(whole[-1]) >= NOT_SHRUNK * _spread(whole[-2])


def _spread(times: Sequence[int]) -> float:
    """Standard deviation, ns."""
    mean = sum(times) / len(times)
    return math.sqrt(sum((time - mean) ** 2 for time in times) / len(times))
