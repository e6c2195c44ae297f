"""Every formula once. This text is the definition of what the dataset's numbers mean.

Per request, from its raw stamps (`derive`), all in seconds; null where the request is not ok or a stamp is missing:

- `lateness_s` = sent - scheduled. The instrument's own delay (or the wait at `max_in_flight`); for every request sent.
- `ttft_s` = first token - sent, `e2e_s` = last token - sent.
- `ttft_scheduled_s`, `e2e_scheduled_s` = the same from *scheduled*: time that a request waited before it was sent is
  part of what a user would have waited (coordinated omission).
- `tpot_s` = (last token - first token) / (output tokens - 1), null below two tokens, never 0.
- ITL, not stored: each gap between two chunks of a request, however many tokens the later chunk holds.

Per cell (`summarise`), over the requests of the window: means and quantiles of those, rates, token rates. A quantile is
numpy's (linear between order statistics). Its interval is distribution-free: the two order statistics between which the
true quantile lies with 95 % probability, each tail at most 2.5 %; an end is null where the sample is too small for it
(`required_sample`: 6 requests for a median, 36 for p90, 72 for p95, 368 for p99). It takes observations as independent:
for the gaps of one request (ITL) and for requests that queued together that is an approximation.

Goodput (`goodput`): requests per second of the window that are ok and meet every limit of a named SLO. A request with
a metric that is undefined for it (TPOT of one token) meets that limit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from servegauge.base.errors import UserError, did_you_mean
from servegauge.contract.tables import DERIVED, METRICS, QUANTILES

CONFIDENCE = 0.95


def derive(requests: pa.Table) -> pa.Table:
    """`requests` (REQUESTS_RAW) with the columns of `tables.DERIVED` added, float64 seconds; see the module's text."""
    ok = pc.equal(requests["status"], "ok")

    def seconds(later: str, earlier: str, where: Any = ok) -> pa.ChunkedArray:
        difference = pc.divide(pc.cast(pc.subtract(requests[later], requests[earlier]), pa.float64()), 1e9)
        return difference if where is None else pc.if_else(where, difference, None)

    gaps = pc.subtract(pc.cast(requests["output_tokens"], pa.float64()), 1.0)
    several = pc.fill_null(pc.greater(gaps, 0.0), False)
    derived = {
        "lateness_s": seconds("sent_ns", "scheduled_ns", None),
        "ttft_s": seconds("first_token_ns", "sent_ns"),
        "ttft_scheduled_s": seconds("first_token_ns", "scheduled_ns"),
        "e2e_s": seconds("last_ns", "sent_ns"),
        "e2e_scheduled_s": seconds("last_ns", "scheduled_ns"),
        "tpot_s": pc.divide(seconds("last_ns", "first_token_ns"), pc.if_else(several, gaps, None)),
    }
    for field in DERIVED:
        column = derived[field.name]
        if field.name in requests.column_names:
            requests = requests.set_column(requests.column_names.index(field.name), field, column)
        else:
            requests = requests.append_column(field, column)
    return requests


def in_window(requests: pa.Table) -> pa.ChunkedArray:
    """Boolean mask of the rows of the measured window."""
    return pc.equal(requests["phase"], "window")


def window_s(requests: pa.Table) -> float | None:
    """Seconds from the start of the window to the end of its last answer; null where nothing ended."""
    last = pc.max(requests.filter(in_window(requests))["end_ns"]).as_py()
    return None if last is None else last / 1e9


def itl_s(requests: pa.Table) -> np.ndarray:
    """Every gap between two chunks of the requests that are ok, pooled; shape (gaps,), seconds."""
    chunks = requests.filter(pc.equal(requests["status"], "ok"))["chunk_ns"].combine_chunks()
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


def values_of(requests: pa.Table, metric: str) -> np.ndarray:
    """Defined values of a metric (a key of `tables.METRICS`) in a derived table; shape (values,), seconds."""
    if metric == "itl":
        return itl_s(requests)
    return requests[f"{metric}_s"].drop_null().to_numpy()


def summarise(window: pa.Table, duration_s: float | None) -> dict[str, Any]:
    """The columns of `tables.SUMMARY` for the requests of one window that lasted `duration_s`. Undefined is null."""
    if "ttft_s" not in window.column_names:
        window = derive(window)
    ok = window.filter(pc.equal(window["status"], "ok"))
    count = window.num_rows
    summary: dict[str, Any] = {
        "requests": count,
        "requests_ok": ok.num_rows,
        "error_share": (count - ok.num_rows) / count if count else None,
        "window_s": duration_s,
        "offered_rps": _offered_rps(window),
        "achieved_rps": _per_second(ok.num_rows, duration_s),
        "input_tokens_per_s": _per_second(_total(ok, "prompt_tokens"), duration_s),
        "output_tokens_per_s": _per_second(_total(ok, "output_tokens"), duration_s),
        "prompt_tokens_mean": pc.mean(ok["prompt_tokens"]).as_py(),
        "output_tokens_mean": pc.mean(ok["output_tokens"]).as_py(),
        "cached_tokens_share": cached_share(ok),
    }
    for metric in METRICS:
        values = np.sort(values_of(window, metric))
        summary[f"{metric}_mean_s"] = float(values.mean()) if len(values) else None
        for name, share in QUANTILES.items():
            value, low, high = quantile(values, share)
            summary |= {f"{metric}_{name}_s": value, f"{metric}_{name}_low_s": low, f"{metric}_{name}_high_s": high}
    return summary


def goodput(window: pa.Table, limits: Mapping[str, float], duration_s: float | None) -> dict[str, Any]:
    """`requests_attained`, `attained_share`, `goodput_rps` of a window under `limits` (derived column -> most, s)."""
    if "ttft_s" not in window.column_names:
        window = derive(window)
    known = [field.name for field in DERIVED]
    attained = pc.equal(window["status"], "ok")
    for name, most in limits.items():
        if name not in known:
            raise UserError(f"SLO limit {name!r}: there are {', '.join(known)}.{did_you_mean(name, known)}")
        attained = pc.and_(attained, pc.fill_null(pc.less_equal(window[name], most), True))
    count = pc.sum(attained).as_py() or 0
    return {
        "requests_attained": count,
        "attained_share": count / window.num_rows if window.num_rows else None,
        "goodput_rps": _per_second(count, duration_s),
    }


def cached_share(requests: pa.Table) -> float | None:
    """Prompt tokens from a prefix cache / prompt tokens, over requests whose server tells; null if none does."""
    said = requests.filter(pc.is_valid(requests["cached_tokens"]))
    prompt = _total(said, "prompt_tokens")
    return _total(said, "cached_tokens") / prompt if prompt else None


def quantile(ordered: np.ndarray, share: float) -> tuple[float | None, float | None, float | None]:
    """Quantile of `ordered` (ascending, shape (n,)) and both ends of its distribution-free 95 % interval."""
    count = len(ordered)
    if not count:
        return None, None, None
    low, high = interval_ranks(count, share)
    return (
        float(np.quantile(ordered, share)),
        None if low is None else float(ordered[low - 1]),
        None if high is None else float(ordered[high - 1]),
    )


@lru_cache(maxsize=4096)
def interval_ranks(count: int, share: float) -> tuple[int | None, int | None]:
    """Ranks (from 1) of the order statistics that enclose the `share` quantile of `count` values with 95 % probability.

    With B ~ Binomial(count, share) the number of values below the quantile: the largest low with P(B < low) <= 2.5 %,
    and the smallest high with P(B >= high) <= 2.5 %. Null where there is none.
    """
    tail = (1 - CONFIDENCE) / 2
    spread = 12 * math.sqrt(count * share * (1 - share)) + 20
    first, last = max(0, math.floor(count * share - spread)), min(count, math.ceil(count * share + spread))
    whole, yes, no = math.lgamma(count + 1), math.log(share), math.log1p(-share)

    def log_mass(k: int) -> float:
        return whole - math.lgamma(k + 1) - math.lgamma(count - k + 1) + k * yes + (count - k) * no

    mass = np.exp([log_mass(k) for k in range(first, last + 1)])
    below = np.cumsum(mass)  # P(B <= k)
    low = first + int(np.searchsorted(below, tail, side="right"))  # P(B <= low - 1) <= tail < P(B <= low)
    from_here = np.cumsum(mass[::-1])[::-1]  # P(B >= k)
    small = np.flatnonzero(from_here <= tail)
    high = first + int(small[0]) if len(small) else None
    return (low if low >= 1 else None), (high if high is not None and 1 <= high <= count else None)


@lru_cache
def required_sample(share: float) -> int:
    """Fewest values whose interval of the `share` quantile has both ends: 368 for 0.99, 72 for 0.95, 6 for 0.5."""
    extreme = max(share, 1 - share)
    return math.ceil(math.log((1 - CONFIDENCE) / 2) / math.log(extreme))


def _offered_rps(window: pa.Table) -> float | None:
    """Arrivals per second: intervals between scheduled times over the time they took."""
    scheduled = window["scheduled_ns"]
    if window.num_rows < 2:
        return None
    span = pc.max(scheduled).as_py() - pc.min(scheduled).as_py()
    return (window.num_rows - 1) / (span / 1e9) if span else None


def _per_second(amount: float | None, duration_s: float | None) -> float | None:
    return amount / duration_s if amount is not None and duration_s else None


def _total(requests: pa.Table, column: str) -> int | None:
    """Sum of a column; null where no row has a value."""
    return pc.sum(requests[column]).as_py()
