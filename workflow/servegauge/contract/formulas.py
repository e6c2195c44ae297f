"""What the formulas of metrics are given: requests and windows, with the arithmetic on them.

Undefined is None: a method returns None where there is nothing to count, and never 0 or NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class Growth(NamedTuple):
    """Of the requests in flight over a window: what was gained from its first to its last fiftieth; what the least
    number of its last quarter is above that of its first; that of its first quarter; the mean number."""

    gained: float
    floor_gained: float
    floor: float
    mean: float


@dataclass(frozen=True)
class Requests:
    """Rows of a table of requests (REQUESTS_RAW or REQUESTS), of one cell or of a part of it."""

    table: pa.Table

    @property
    def count(self) -> int:
        return self.table.num_rows

    @cached_property
    def ok(self) -> Requests:
        """Those that were answered in full."""
        return Requests(self.table.filter(pc.equal(self.table["status"], "ok")))

    def seconds(self, later: str, earlier: str, of_all: bool = False) -> pa.ChunkedArray:
        """A stamp less another, float64 seconds per request; null where one is missing, or, unless `of_all`, not ok."""
        difference = pc.divide(pc.cast(pc.subtract(self.table[later], self.table[earlier]), pa.float64()), 1e9)
        return difference if of_all else pc.if_else(pc.equal(self.table["status"], "ok"), difference, None)

    def seconds_per_token(self, later: str, earlier: str) -> pa.ChunkedArray:
        """A stamp less another over the tokens after the first chunk, float64 seconds per request.

        Null where there are none, or where it is unknown how many the first chunk held.
        """
        gaps = pc.subtract(pc.cast(self.table["output_tokens"], pa.float64()), self.first_chunk_tokens)
        several = pc.fill_null(pc.greater(gaps, 0.0), False)
        return pc.divide(self.seconds(later, earlier), pc.if_else(several, gaps, None))

    @property
    def first_chunk_tokens(self) -> pa.Array:
        """Tokens of each request's first chunk, float64; null where untold, 1 where chunks stand for tokens."""
        lists = self.table["chunk_tokens"].combine_chunks()
        filled = pc.greater(pc.list_value_length(lists), 0)  # null for null
        first = lists.values.take(pc.if_else(filled, lists.offsets[:-1], None))
        chunks = pc.fill_null(pc.equal(self.table["tokens_source"], "chunks"), False)
        return pc.if_else(chunks, 1.0, pc.cast(first, pa.float64()))

    @cached_property
    def streamed(self) -> Requests:
        """Those that were answered in full, and not in one piece."""
        return Requests(self.ok.table.filter(pc.is_valid(self.ok.table["first_token_ns"])))

    def gaps_s(self) -> np.ndarray:
        """Every gap between two chunks of a request, pooled; shape (gaps,), seconds."""
        chunks = self.table["chunk_ns"].combine_chunks()
        stamps = chunks.flatten().to_numpy(zero_copy_only=False)
        if len(stamps) < 2:
            return np.empty(0)
        lengths = pc.list_value_length(chunks).to_numpy(zero_copy_only=False)
        first = np.cumsum(lengths)[:-1]
        gaps = np.diff(stamps)
        # The difference that ends at the first chunk of a request belongs to two requests.
        keep = np.ones(len(gaps), dtype=bool)
        keep[first[(first > 0) & (first < len(stamps))] - 1] = False
        return gaps[keep] / 1e9

    def session_seconds(self, pauses: bool) -> pa.Array:
        """Seconds of each session on the row of its first request, float64; null on others, and where one is not ok.

        With `pauses` from the first request's schedule to the last token, else the time of its requests together.
        """
        rows = self.table.num_rows
        if "session" not in self.table.column_names or self.table["session"].null_count == rows:
            return pa.nulls(rows, pa.float64())
        names = ("session", "turn", "scheduled_ns", "last_ns")
        session, turn, scheduled, last = (
            pc.fill_null(self.table[name], -1).to_numpy().astype(np.int64) for name in names
        )
        good = pc.equal(self.table["status"], "ok").to_numpy(zero_copy_only=False).astype(bool)
        _, place = np.unique(session, return_inverse=True)
        count = int(place.max()) + 1
        whole = np.ones(count, bool)
        np.logical_and.at(whole, place, good)
        begin, end, took = np.full(count, 1 << 62), np.full(count, -(1 << 62)), np.zeros(count, np.int64)
        np.minimum.at(begin, place, scheduled)
        np.maximum.at(end, place, last)
        np.add.at(took, place, last - scheduled)
        value = (end - begin if pauses else took) / 1e9
        return pa.array(value[place], mask=~((turn == 0) & (session >= 0) & whole[place]))

    @property
    def first_of_sessions(self) -> Requests:
        """The first requests of sessions; none of a table that knows no sessions."""
        if "turn" not in self.table.column_names:
            return Requests(self.table.slice(0, 0))
        return Requests(self.table.filter(pc.equal(self.table["turn"], 0)))

    @property
    def sessions(self) -> int:
        """Sessions whose first request is among these."""
        if "turn" not in self.table.column_names:
            return 0
        return pc.sum(pc.equal(self.table["turn"], 0)).as_py() or 0

    @property
    def sessions_answered(self) -> int:
        """Of them, those of which every request is ok."""
        return len(self.table["session_s"].drop_null()) if "session_s" in self.table.column_names else 0

    def total(self, column: str) -> int | None:
        """Sum of a column; None where no row has a value."""
        return pc.sum(self.table[column]).as_py()

    def mean(self, column: str) -> float | None:
        """Mean of a column; None where no row has a value."""
        return pc.mean(self.table[column]).as_py()

    @property
    def cached_share(self) -> float | None:
        """Prompt tokens from a prefix cache / prompt tokens, over requests whose server tells; None if none does."""
        return self.cached_share_beyond(0)

    def cached_share_beyond(self, opening: int) -> float | None:
        """The same, without up to `opening` cached tokens of each request."""
        known = self.table.filter(pc.is_valid(self.table["cached_tokens"]))
        prompt = pc.sum(known["prompt_tokens"]).as_py()
        beyond = pc.max_element_wise(pc.subtract(known["cached_tokens"], opening), 0)
        return (pc.sum(beyond).as_py() or 0) / prompt if prompt else None

    def mean_in_flight(self, start: float, stop: float) -> float:
        """Mean number of requests between schedule and end, from `start` to `stop` of the time in which they arrived.

        0 and 1 are the first and the last arrival; a request without an end never ended.
        """
        scheduled = self.table["scheduled_ns"].to_numpy()
        ends = pc.fill_null(self.table["end_ns"], 1 << 62).to_numpy()
        first, span = scheduled.min(), scheduled.max() - scheduled.min()
        low, high = first + start * span, first + stop * span
        inside = np.clip(np.minimum(ends, high) - np.maximum(scheduled, low), 0, None)
        return float(inside.sum() / (high - low)) if high > low else 0.0

    def in_flight(self, window_ns: int, points: int = 100) -> np.ndarray:
        """Requests between schedule and end at `points` moments from 0 to `window_ns`; shape (points,).

        A request without an end never ended.
        """
        moments = np.linspace(0, window_ns, points)
        scheduled = np.sort(self.table["scheduled_ns"].to_numpy())
        ends = np.sort(pc.fill_null(self.table["end_ns"], 1 << 62).to_numpy())
        return np.searchsorted(scheduled, moments, side="right") - np.searchsorted(ends, moments, side="right")

    def in_flight_growth(self, window_ns: int) -> Growth:
        """How the requests in flight grew over the window."""
        found = self.in_flight(window_ns, 401)
        first, last = found[:100], found[-100:]
        ends = float(found[-8:].mean() - found[:8].mean())
        return Growth(ends, float(last.min() - first.min()), float(first.min()), float(found.mean()))

    @property
    def answering_spread(self) -> float:
        """Standard deviation / mean of the times from first token to end; 1, as of chance, where few have them."""
        several = self.table.filter(pc.greater(self.table["output_tokens"], 1))
        took = pc.subtract(several["end_ns"], several["first_token_ns"]).drop_null().to_numpy()
        return float(took.std() / took.mean()) if 2 * len(took) > self.count and took.mean() else 1.0

    def carried_share(self, window_ns: int, rate_rps: float) -> float | None:
        """Work of a second while at least as many requests are in flight as in half of the window / requests offered.

        Requests stand for work: each is done evenly from its first token to its end. None without anything in flight.
        """
        begin = self.table["scheduled_ns"].to_numpy()
        end = pc.fill_null(self.table["end_ns"], 1 << 62).to_numpy()
        first = np.minimum(pc.coalesce(self.table["first_token_ns"], self.table["end_ns"], 1 << 62).to_numpy(), end - 1)
        events = np.concatenate([[0, window_ns], begin, end])
        times = np.unique(events[(events >= 0) & (events <= window_ns)])
        flying = np.searchsorted(np.sort(begin), times, "right") - np.searchsorted(np.sort(end), times, "right")
        took = np.diff(times)
        by_number = np.argsort(flying[:-1])
        half = np.searchsorted(np.cumsum(took[by_number]), took.sum() / 2)
        full = flying[:-1] >= max(1, flying[by_number[half]])
        order, slope = np.argsort(edges := np.concatenate([first, end])), 1 / (end - first)
        edges, speed = edges[order], np.cumsum(np.concatenate([slope, -slope])[order])
        done = np.interp(times, edges, np.concatenate([[0.0], np.cumsum(speed[:-1] * np.diff(edges))]))
        return float(np.diff(done)[full].sum() / took[full].sum() * 1e9 / rate_rps) if full.any() else None

    def first_quarter(self) -> tuple[float, float, float]:
        """Seconds from schedule to end in the first quarter of the requests and in the rest, and the error of the gap.

        Means of the medians of twelve blocks, because requests that queue together are not independent.
        """
        table = self.table.sort_by("scheduled_ns")
        took = (table["end_ns"].to_numpy() - table["scheduled_ns"].to_numpy()) / 1e9
        medians = np.array([np.median(block) for block in np.array_split(took, 12)])
        first, rest = medians[:3], medians[3:]
        squares = ((first - first.mean()) ** 2).sum() + ((rest - rest.mean()) ** 2).sum()
        error = np.sqrt(squares / 10 * (1 / 3 + 1 / 9))
        return float(first.mean()), float(rest.mean()), float(error)

    def ended_after(self, when_ns: int) -> int:
        """How many of the requests ended after a moment."""
        return pc.sum(pc.greater(self.table["end_ns"], when_ns)).as_py() or 0

    def values(self, column: str) -> np.ndarray:
        """Defined values of a column; shape (values,)."""
        return self.table[column].drop_null().to_numpy()


@dataclass(frozen=True)
class Window(Requests):
    """The requests of one measured window, and how long it lasted, in seconds; None where nothing ended.

    Rates are events inside [0, duration], whoever they belong to: `around` has the requests of the ramp, too, whose
    answers reach into the window. Of a burst, which is its own window, every event counts.
    """

    duration_s: float | None = None
    around: Requests | None = None  # None: the window's own
    loop: str = "open"  # "open" | "closed" | "burst"
    to_last_answer: bool = False  # the duration holds the time in which the last answers came (measuring protocol 1)
    acceptance_length: float | None = None  # tokens of a step of speculative decoding; None where it is not known
    joules: float | None = None  # energy of the launch's GPUs in the window; None where it is not known
    capacity_rps: float | None = None  # that a search found; infinite: above every rate that it tried

    def joules_per(self, count: float | None) -> float | None:
        """Energy of the window over a number of what it brought."""
        return self.joules / count if self.joules is not None and count else None

    def per_second(self, amount: float | None) -> float | None:
        """`amount` over the window's duration."""
        return amount / self.duration_s if amount is not None and self.duration_s else None

    @cached_property
    def answered(self) -> Requests:
        """Requests ok whose answers may lie in the window."""
        return (self.around or self).ok

    def inside(self, stamps: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray:
        """Mask of stamps (ns) that lie in the window; a stamp that is missing does not."""
        if self.loop == "burst" or self.duration_s is None:
            return pc.is_valid(stamps)
        end = int(self.duration_s * 1e9)
        within = pc.and_(pc.greater_equal(stamps, 0), pc.less_equal(stamps, end))
        return pc.fill_null(within, False)

    @property
    def answers(self) -> int | None:
        """Answers that ended in the window; None without any request."""
        answered = self.answered
        return pc.sum(self.inside(answered.table["last_ns"])).as_py() or 0 if self.count else None

    @property
    def prompt_tokens(self) -> int | None:
        """Tokens of the prompts whose first token of answer came in the window; None where unknown."""
        table = self.answered.table
        came = pc.coalesce(table["first_token_ns"], table["last_ns"])
        return pc.sum(table.filter(self.inside(came))["prompt_tokens"]).as_py()

    @property
    def output_tokens(self) -> float | None:
        """Tokens that came in the window; None where unknown. What chunks hold is told, else they share the tokens."""
        table = self.answered.table
        table = table.filter(pc.is_valid(table["output_tokens"]))
        if not table.num_rows:
            return None
        chunks = table["chunk_ns"].combine_chunks()
        lengths = pc.list_value_length(chunks).to_numpy(zero_copy_only=False)
        inside = self.inside(chunks.flatten()).to_numpy(zero_copy_only=False)
        totals = table["output_tokens"].to_numpy()
        tokens = np.repeat(totals / np.maximum(lengths, 1), lengths)
        counted = table["chunk_tokens"].combine_chunks()
        counted_lengths = pc.fill_null(pc.list_value_length(counted), -1).to_numpy(zero_copy_only=False)
        whole = counted_lengths == lengths
        counts = pc.fill_null(counted.filter(pa.array(whole)).flatten(), 0).to_numpy(zero_copy_only=False)
        tokens[np.repeat(whole, lengths)] = counts
        return float(tokens[inside].sum())

    @property
    def offered_rps(self) -> float | None:
        """Arrivals per second of an open loop."""
        if self.loop != "open" or not self.count:
            return None
        if not self.to_last_answer:
            return self.per_second(self.count)
        scheduled = self.table["scheduled_ns"]  # intervals between scheduled times over the time they took
        span = pc.max(scheduled).as_py() - pc.min(scheduled).as_py()
        return (self.count - 1) / (span / 1e9) if span else None


@dataclass(frozen=True)
class Attained:
    """What meets every limit of an SLO: requests of the window, and answers that ended in it."""

    requests: int
    answers: int
