"""Is a cell worth believing? Each doubt is a flag with its number and its threshold; nothing is ever dropped.

A flag is {"flag", "value", "threshold", "detail"}: the value crossed the threshold, and `detail` says so in words. The
thresholds are `DEFAULTS`; a study sets others under `validity:` by the same names. `text_differs` needs two cells and
is raised when the dataset is merged (`dataset.text_agreement`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from servegauge.base.errors import UserError, did_you_mean
from servegauge.contract.metrics import in_window, required_sample
from servegauge.contract.spec import Cell, Launch
from servegauge.node.smi_loop import THROTTLING

Flag = dict[str, Any]


@dataclass(frozen=True)
class Threshold:
    """A default, the flag that it belongs to, and what crosses it."""

    value: float
    flag: str
    description: str


DEFAULTS: dict[str, Threshold] = {
    "generator_lateness_s": Threshold(
        0.002, "generator_limited", "p99 of sent - scheduled in an open loop without max_in_flight is above"
    ),
    "generator_ttft_error_s": Threshold(
        0.001,
        "generator_limited",
        "p99 TTFT error of the instrument at the nearest calibrated load is above, either way",
    ),
    "generator_cpu_share": Threshold(
        0.9, "generator_limited", "CPU time / window of the busiest generator process is above"
    ),
    "cached_share": Threshold(
        0.01,
        "cache_warm",
        "prompt tokens from a prefix cache, but for those that every prompt begins with, / prompt tokens, in a cell "
        "with a cold cache, is above",
    ),
    "refused_resets": Threshold(
        0, "reset_refused", "cache resets that the server refused, in a cell with a cold cache, are more than"
    ),
    "zero_token_requests": Threshold(0, "zero_tokens", "complete answers without a token are more than"),
    "error_share": Threshold(0.01, "errors", "requests not ok / requests is above"),
    "output_length_share": Threshold(
        0.01, "output_length", "answers of another length than asked (only with ignore_eos) / answers is above"
    ),
    "p99_requests": Threshold(
        required_sample(0.99), "p99_not_supported", "requests ok are fewer than a 95 % interval of p99 needs"
    ),
    "p95_requests": Threshold(
        required_sample(0.95), "p95_not_supported", "requests ok are fewer than a 95 % interval of p95 needs"
    ),
    "in_flight_growth": Threshold(
        1.5,
        "not_steady",
        "requests in flight, last quarter of the arrivals / second, is above, and not by chance",
    ),
    "throttled_share": Threshold(
        0.0, "clocks_throttled", "GPU samples slowed for heat or by the hardware / samples is above"
    ),
    "steal_share": Threshold(0.02, "cpu_stolen", "CPU time that the hypervisor took from this node / time is above"),
    "differing_text_share": Threshold(
        0.0,
        "text_differs",
        "answers with another text than on the other platform, at temperature 0 / answers of both, is above",
    ),
}
"""Threshold name (as in a study's `validity:`) -> default."""

_STEADY_PROCESSES = ("poisson", "constant", "gamma")
_CHANCE = 3.0  # standard deviations of a Poisson count that growth must exceed


def thresholds_of(own: Mapping[str, float] | None) -> dict[str, float]:
    """Defaults with a study's `own` values over them. UserError for a name that does not exist."""
    for name in own or {}:
        if name not in DEFAULTS:
            near = did_you_mean(name, DEFAULTS)
            raise UserError(f"validity threshold {name!r} does not exist; there are {', '.join(DEFAULTS)}.{near}")
    return {name: threshold.value for name, threshold in DEFAULTS.items()} | dict(own or {})


def flags(
    requests: pa.Table,
    cell: Cell,
    record: Mapping[str, Any],
    launch: Launch | None = None,
    thresholds: Mapping[str, float] | None = None,
    gpu: pa.Table | None = None,
) -> list[Flag]:
    """Every flag of a measured cell.

    `requests` is its table (REQUESTS_RAW), `record` its cell.json so far (`instrument`, `cache_reset`,
    `metrics_before`, `metrics_after`), `gpu` its samples (GPU_RAW) if there were any.
    """
    case = _Case(requests.filter(in_window(requests)), cell, record, thresholds_of(thresholds), gpu)
    found: list[Flag] = []
    for check in CHECKS:
        found += check(case)
    return found


@dataclass(frozen=True)
class _Case:
    window: pa.Table
    cell: Cell
    record: Mapping[str, Any]
    thresholds: Mapping[str, float]
    gpu: pa.Table | None

    @property
    def ok(self) -> pa.Table:
        return self.window.filter(pc.equal(self.window["status"], "ok"))

    @property
    def instrument(self) -> Mapping[str, Any]:
        return self.record.get("instrument") or {}

    def above(self, name: str, value: float | None, detail: str) -> list[Flag]:
        """The flag of threshold `name`, if `value` is defined and above it."""
        most = self.thresholds[name]
        return [_flag(DEFAULTS[name].flag, value, most, detail)] if value is not None and value > most else []

    def below(self, name: str, value: float, detail: str) -> list[Flag]:
        """The flag of threshold `name`, if `value` is below it."""
        least = self.thresholds[name]
        return [_flag(DEFAULTS[name].flag, value, least, detail)] if value < least else []


def _flag(name: str, value: float, threshold: float, detail: str) -> Flag:
    return {"flag": name, "value": float(value), "threshold": float(threshold), "detail": detail}


def generator_late(case: _Case) -> list[Flag]:
    """Requests of an open loop left late, though nothing but the generator could hold them."""
    load = case.cell.load
    if load.rate_rps is None or load.max_in_flight is not None:
        return []
    late = case.instrument.get("lateness_p99_s")
    return case.above("generator_lateness_s", late, f"1 % of the requests were sent {_ms(late)} late or more")


def generator_beyond(case: _Case) -> list[Flag]:
    """The load is more than this node's instrument carries, by the calibration before the launch."""
    point = case.instrument.get("calibration")
    if not point:
        return []
    error = (point.get("ttft_error_s") or {}).get("p99")
    most = case.thresholds["generator_ttft_error_s"]
    where = _load_words(point["load"])
    if error is not None and abs(error) > most:
        detail = f"the instrument's p99 TTFT error at the nearest calibrated load ({where}) was {_ms(error)}"
        return [_flag("generator_limited", abs(error), most, detail)]
    if point.get("beyond"):
        detail = f"the load is beyond what the calibration saw this node's instrument carry; the nearest was {where}"
        return [_flag("generator_limited", _load_size(case.cell.load), _load_size(point["load"]), detail)]
    return []


def generator_busy(case: _Case) -> list[Flag]:
    """A generator process had hardly any CPU time left."""
    share = case.instrument.get("busiest_cpu_share")
    return case.above("generator_cpu_share", share, "a generator process was busy for nearly the whole window")


def cache_warm(case: _Case) -> list[Flag]:
    """A cell that asked for a cold prefix cache was served from it: by its own answers, else by the server's count.

    The tokens with which every prompt begins (`<s>`, a chat template's first words) are left out: the first request of
    the cell leaves them to all others, however cold the cache was, and a cache with pages of one token has them.
    """
    if case.cell.load.cache != "cold":
        return []
    opening = case.record.get("prompt_opening_tokens") or 0
    share, source = _answers_hit_share(case.ok, opening), "the answers' usage"
    if share is None:
        share, source = (
            _server_hit_share(case.record, opening, case.window.num_rows),
            "the server's metrics, warm-up included",
        )
    beyond = f", without the {opening} that every prompt begins with" if opening else ""
    return case.above("cached_share", share, f"share of prompt tokens from the prefix cache{beyond}, by {source}")


def _answers_hit_share(ok: pa.Table, opening: int) -> float | None:
    said = ok.filter(pc.is_valid(ok["cached_tokens"]))
    prompt = pc.sum(said["prompt_tokens"]).as_py()
    beyond = pc.max_element_wise(pc.subtract(said["cached_tokens"], opening), 0)
    return (pc.sum(beyond).as_py() or 0) / prompt if prompt else None


def _server_hit_share(record: Mapping[str, Any], opening: int, requests: int) -> float | None:
    """`requests` is how many there were at least, for servers that do not count them."""
    before, after = record.get("metrics_before") or {}, record.get("metrics_after") or {}

    def grown(name: str) -> float | None:
        return after[name] - before[name] if name in before and name in after else None

    hits, queries = grown("cache_hit_tokens"), grown("cache_query_tokens")
    if queries is None and hits is not None and (computed := grown("prompt_tokens")) is not None:
        queries = max(hits, computed)
    if hits is None or not queries:
        return None
    return max(0.0, hits - opening * (grown("requests_finished") or requests)) / queries


def reset_refused(case: _Case) -> list[Flag]:
    """The server did not do the cache reset that it was asked for."""
    reset = case.record.get("cache_reset")
    if not reset or reset.get("ok") or case.cell.load.cache != "cold":
        return []
    detail = f"{reset.get('how', 'the reset')} was answered: {reset.get('answer') or 'nothing'}"
    return case.above("refused_resets", 1, detail)


def zero_tokens(case: _Case) -> list[Flag]:
    """Complete answers that hold nothing."""
    empty = pc.or_kleene(pc.equal(case.window["status"], "no_tokens"), pc.equal(case.window["output_tokens"], 0))
    count = pc.sum(empty).as_py() or 0
    return case.above("zero_token_requests", count, f"{count} of {case.window.num_rows} answers held no token")


def errors(case: _Case) -> list[Flag]:
    """Too many requests failed."""
    total = case.window.num_rows
    counts: dict[str, int] = {}
    for status in case.window["status"].to_pylist():
        if status != "ok":
            counts[status] = counts.get(status, 0) + 1
    failed = sum(counts.values())
    words = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    return case.above("error_share", failed / total if total else None, f"{failed} of {total} requests failed: {words}")


def output_length(case: _Case) -> list[Flag]:
    """Answers are not as long as asked, so that cells are not comparable token by token."""
    ok = case.ok
    if not case.cell.load.ignore_eos or not ok.num_rows:
        return []
    other = pc.fill_null(pc.not_equal(ok["output_tokens"], ok["output_tokens_asked"]), False)
    count = pc.sum(other).as_py()
    detail = f"{count} of {ok.num_rows} answers are longer or shorter than asked"
    return case.above("output_length_share", count / ok.num_rows, detail)


def sample_size(case: _Case) -> list[Flag]:
    """The tail quantiles rest on too few requests."""
    count = case.ok.num_rows
    found = []
    for name, quantile in (("p99_requests", "p99"), ("p95_requests", "p95")):
        detail = f"{count} requests ok; an interval of {quantile} needs {case.thresholds[name]:g}"
        found += case.below(name, count, detail)
    return found


def not_steady(case: _Case) -> list[Flag]:
    """Arrivals outran completions: the queue grew while they came, so the numbers depend on how long one measured."""
    load = case.cell.load
    if load.rate_rps is None or load.arrival.get("process", "poisson") not in _STEADY_PROCESSES:
        return []
    scheduled = case.window["scheduled_ns"].to_numpy()
    if len(scheduled) < 8:
        return []
    ends = pc.fill_null(case.window["end_ns"], 1 << 62).to_numpy()
    second, last = _mean_in_flight(scheduled, ends, 0.25, 0.5), _mean_in_flight(scheduled, ends, 0.75, 1.0)
    # The mean of a quarter is steadier than one count, so this asks for more than chance would do.
    if last - second <= _CHANCE * np.sqrt(second + 1):
        return []
    detail = f"on average {second:.1f} requests in flight in the second quarter of the arrivals, {last:.1f} in the last"
    return case.above("in_flight_growth", last / second if second else float(last), detail)


def _mean_in_flight(scheduled: np.ndarray, ends: np.ndarray, start: float, stop: float) -> float:
    """Mean number of requests between schedule and end, over a part of the time in which requests were scheduled."""
    first, span = scheduled.min(), scheduled.max() - scheduled.min()
    low, high = first + start * span, first + stop * span
    inside = np.clip(np.minimum(ends, high) - np.maximum(scheduled, low), 0, None)
    return float(inside.sum() / (high - low)) if high > low else 0.0


def clocks_throttled(case: _Case) -> list[Flag]:
    """A GPU was slowed in the window, for heat or by its hardware; a power cap alone is how many run at full load."""
    if case.gpu is None or not case.gpu.num_rows:
        return []
    window = case.gpu.filter(pc.greater_equal(case.gpu["t_ns"], 0))
    reasons = [set(reason.split(",")) for reason in window["throttle_reasons"].to_pylist() if reason is not None]
    slowed = [reason & THROTTLING for reason in reasons if reason & THROTTLING]
    names = ", ".join(sorted(set().union(*slowed)))
    share = len(slowed) / len(reasons) if reasons else None
    return case.above("throttled_share", share, f"{len(slowed)} of {len(reasons)} GPU samples were throttled: {names}")


def cpu_stolen(case: _Case) -> list[Flag]:
    """Another guest of the same machine had the CPU."""
    share = (case.record.get("node") or {}).get("steal_share")
    return case.above("steal_share", share, "share of CPU time that the hypervisor gave to others")


CHECKS: tuple[Callable[[_Case], list[Flag]], ...] = (
    generator_late,
    generator_beyond,
    generator_busy,
    cache_warm,
    reset_refused,
    zero_tokens,
    errors,
    output_length,
    sample_size,
    not_steady,
    clocks_throttled,
    cpu_stolen,
)


def _load_words(load: Mapping[str, Any]) -> str:
    return f"{load['streams']} streams" if load.get("streams") is not None else f"{load['rate_rps']:g} req/s"


def _load_size(load: Any) -> float:
    """Streams of a closed loop, or requests per second of an open one, of a `Load` or a calibrated point."""
    if isinstance(load, Mapping):
        return load["streams"] if load.get("streams") is not None else load["rate_rps"]
    return load.concurrency if load.concurrency is not None else load.rate_rps


def _ms(seconds: float | None) -> str:
    return "an unknown time" if seconds is None else f"{seconds * 1e3:.2f} ms"


def thresholds_table() -> list[str]:
    """The Markdown table of docs/instrument.md."""
    rows = [f"| `{name}` | {threshold.value:g} | `{threshold.flag}` | {threshold.description} |" for name, threshold in
            DEFAULTS.items()]  # fmt: skip
    return ["| threshold | default | flag | raised when |", "|---|---|---|---|", *rows]
