"""What the formulas of metrics are given: requests and windows, with the arithmetic on them.

Undefined is null: a method returns None where there is nothing to count, and never 0 or NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


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
        """A stamp less another over (output tokens - 1), float64 seconds per request; null below two tokens."""
        gaps = pc.subtract(pc.cast(self.table["output_tokens"], pa.float64()), 1.0)
        several = pc.fill_null(pc.greater(gaps, 0.0), False)
        return pc.divide(self.seconds(later, earlier), pc.if_else(several, gaps, None))

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

    def total(self, column: str) -> int | None:
        """Sum of a column; null where no row has a value."""
        return pc.sum(self.table[column]).as_py()

    def mean(self, column: str) -> float | None:
        """Mean of a column; null where no row has a value."""
        return pc.mean(self.table[column]).as_py()

    @property
    def cached_share(self) -> float | None:
        """Prompt tokens from a prefix cache / prompt tokens, over requests whose server tells; null if none does."""
        return self.cached_share_beyond(0)

    def cached_share_beyond(self, opening: int) -> float | None:
        """The same, without up to `opening` cached tokens of each request."""
        told = self.table.filter(pc.is_valid(self.table["cached_tokens"]))
        prompt = pc.sum(told["prompt_tokens"]).as_py()
        beyond = pc.max_element_wise(pc.subtract(told["cached_tokens"], opening), 0)
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

    def values(self, column: str) -> np.ndarray:
        """Defined values of a column; shape (values,)."""
        return self.table[column].drop_null().to_numpy()


@dataclass(frozen=True)
class Window(Requests):
    """The requests of one measured window and how long it lasted, in seconds; null where nothing ended."""

    duration_s: float | None = None

    def per_second(self, amount: float | None) -> float | None:
        """`amount` over the window's duration."""
        return amount / self.duration_s if amount is not None and self.duration_s else None

    @property
    def offered_rps(self) -> float | None:
        """Arrivals per second: intervals between scheduled times over the time they took."""
        scheduled = self.table["scheduled_ns"]
        if self.count < 2:
            return None
        span = pc.max(scheduled).as_py() - pc.min(scheduled).as_py()
        return (self.count - 1) / (span / 1e9) if span else None
