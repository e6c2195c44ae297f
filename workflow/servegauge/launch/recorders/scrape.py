"""What servers say of themselves while they are under load: Prometheus text, read at a set rate, kept as Parquet.

`Scraper` runs `main` in a process of its own, so that parsing never delays the load generator. The job goes to it on
standard input as one line of JSON, with the API key, which argv would show to everybody. One thread per instance asks
at its own ticks (start + k / hz): an instance that does not answer holds up no other, and a tick that was missed is
counted, not made up for.

Rows (`SERVER_METRICS`): `t_ns` is CLOCK_MONOTONIC, shifted by the `zero_ns` given to `stop`, half-way between
asking and having the answer. Samples that a framework's file maps to a common name are kept at every scrape (a counter
that its server shows only from the first event on is 0 until then); all other samples at the first scrape and whenever
their value changed, so a reader carries the last value forward. `_created` samples (the moment a counter was born) are
dropped. Non-finite values are None.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import statistics
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from servegauge.base import redact
from servegauge.base.http import direct_opener
from servegauge.base.text import visible
from servegauge.launch.recorder import ProcessRecorder

if TYPE_CHECKING:
    from servegauge.launch.live import LiveLaunch


# common name -> (what it is, unit, how several samples become one number: all labels and engines of a server)
COMMON: dict[str, tuple[str, str, str]] = {
    "requests_running": ("requests being computed", "requests", "sum"),
    "requests_waiting": ("requests admitted but not yet computed", "requests", "sum"),
    "kv_usage": ("share of the KV cache in use, 0 to 1", "1", "mean"),
    "cache_hit_tokens": ("prompt tokens found in the prefix cache since the start", "tokens", "sum"),
    "cache_query_tokens": ("prompt tokens looked up in the prefix cache since the start", "tokens", "sum"),
    "cache_hit_share": ("share of prompt tokens found in the prefix cache, as the server averages it", "1", "mean"),
    "preemptions": ("requests put back to wait since the start", "requests", "sum"),
    "prompt_tokens": ("prompt tokens computed or taken from the cache since the start", "tokens", "sum"),
    "output_tokens": ("tokens generated since the start", "tokens", "sum"),
    "requests_finished": ("requests ended since the start", "requests", "sum"),
    "draft_steps": ("steps of speculative decoding since the start", "steps", "sum"),
    "accepted_tokens": ("draft tokens that were accepted since the start", "tokens", "sum"),
    "acceptance_length": ("tokens of a step of speculative decoding, as the server averages it", "tokens", "mean"),
    "ttft_sum_s": ("sum of the server's own times to first token since the start", "s", "sum"),
    "ttft_count": ("requests in ttft_sum_s", "requests", "sum"),
}
# Many servers show a counter only from its first event on. These events may never come: absent is 0.
OCCASIONAL = frozenset({"cache_hit_tokens", "preemptions"})
# These grow with every request: absent is 0 until one of them has grown; then it is a name that this server lacks.
EVERY_REQUEST = frozenset(
    {"cache_query_tokens", "prompt_tokens", "output_tokens", "requests_finished", "ttft_sum_s", "ttft_count"}
)


@dataclass(frozen=True)
class Sample:
    """One line of a server's metrics. `metric` is its common name, or None where the framework's file gives none."""

    metric: str | None
    raw: str
    labels: str  # canonical JSON
    value: float | None  # None: NaN or infinite


def parse(text: str, mapping: Mapping[str, Sequence[str]]) -> Iterator[Sample]:
    """Samples of a Prometheus text. `mapping`: common name -> the server's own names. ValueError for any other text.

    A counter in `mapping` that the text does not have yet is a sample of 0 without labels (see `OCCASIONAL`), if the
    text has any other name in `mapping`: else it is not this server's.
    """
    common: dict[str, list[str | None]] = {}  # a server's number may stand for two of ours
    for name, raws in mapping.items():
        for raw in raws:
            common.setdefault(raw, []).append(name)
    seen: set[str] = set()
    grown = False
    for family in _families(text):
        for sample in family.samples:
            if sample.name.endswith("_created"):
                continue
            labels = json.dumps(sample.labels, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            value = float(sample.value)
            for ours in common.get(sample.name, [None]):
                if ours is not None:
                    seen.add(ours)
                    grown = grown or (ours in EVERY_REQUEST and value > 0)
                yield Sample(ours, sample.name, labels, value if math.isfinite(value) else None)
    for name in [name for name in mapping if seen and name not in seen]:
        if name in OCCASIONAL or (name in EVERY_REQUEST and not grown):
            yield Sample(name, mapping[name][0], "{}", 0.0)


def _families(text: str) -> Iterator[Metric]:
    """Metric families of a Prometheus text; ValueError, with its beginning, for a page that is none."""
    shown = " ".join(text[:80].split())
    if text.lstrip()[:1] in ("{", "[", '"', "<"):  # some of which the parser takes for metrics without a name
        raise ValueError(f"not a page of metrics: {shown}")
    try:
        yield from text_string_to_metric_families(text)
    except Exception as error:  # the parser raises whatever its string handling does
        raise ValueError(f"not a page of metrics ({error}): {shown}") from error


def snapshot(text: str, mapping: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Common metric -> one number for one server: summed or averaged as `COMMON` says.

    Absent gauges are left out, and so are absent counters that are not 0 for sure (see `parse`). ValueError for a page
    that is no page of metrics.
    """
    values: dict[str, list[float]] = {}
    for sample in parse(text, mapping):
        if sample.metric is not None and sample.value is not None:
            values.setdefault(sample.metric, []).append(sample.value)
    return {name: combined(name, got) for name, got in values.items()}


def combined(name: str, values: Sequence[float]) -> float:
    """One number for several samples, engines or instances of the common metric `name`: their sum or mean."""
    return statistics.fmean(values) if COMMON[name][2] == "mean" else sum(values)


def fetch(url: str, api_key: str, timeout_s: float) -> str:
    """The text at `url`; OSError where there is no good answer."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    with direct_opener().open(urllib.request.Request(url, headers=headers), timeout=timeout_s) as answer:
        return answer.read().decode("utf-8", "replace")


@dataclass
class Watch:
    """One instance being scraped; `run` is its thread, the lists are its rows."""

    instance: int
    url: str
    mapping: Mapping[str, Sequence[str]]
    hz: float
    api_key: str = ""
    rows: list[tuple[int, Sample]] = field(default_factory=list)
    took_s: list[float] = field(default_factory=list)
    errors: int = 0
    missed: int = 0
    last_error: str | None = None
    _last: dict[tuple[str, str], float | None] = field(default_factory=dict)

    def scrape(self) -> None:
        """One scrape; a failure is counted and its reason kept."""
        asked = time.monotonic_ns()
        try:
            text = fetch(self.url, self.api_key, timeout_s=max(1.0, 2 / self.hz))
            answered = time.monotonic_ns()
            samples = list(parse(text, self.mapping))
        except (OSError, http.client.HTTPException, ValueError) as error:  # of connecting, of HTTP, of the page
            self.errors += 1
            self.last_error = visible(redact.text(f"{type(error).__name__}: {error}", [self.api_key]))
            return
        self.took_s.append((answered - asked) / 1e9)
        for sample in samples:
            key = (sample.raw, sample.labels)
            if sample.metric is not None or key not in self._last or self._last[key] != sample.value:
                self.rows.append(((asked + answered) // 2, sample))
            self._last[key] = sample.value

    def run(self, stop: threading.Event) -> None:
        """Scrape at every tick until `stop`, and once more then, so that counters cover the whole cell."""
        start, tick = time.monotonic(), 0
        while not stop.wait(max(0.0, start + tick / self.hz - time.monotonic())):
            self.scrape()
            due = math.floor((time.monotonic() - start) * self.hz) + 1
            self.missed += max(0, due - tick - 1)
            tick = max(tick + 1, due)
        self.scrape()

    def report(self) -> dict[str, Any]:
        """How the scraping itself went."""
        return {
            "instance": self.instance, "scrapes": len(self.took_s), "errors": self.errors, "missed": self.missed,
            "took_p50_s": statistics.median(self.took_s) if self.took_s else None,
            "took_max_s": max(self.took_s, default=None), "last_error": self.last_error,
        }  # fmt: skip


def write(watches: Sequence[Watch], zero_ns: int, out: Path) -> None:
    """All rows to one Parquet file at `out`, whole or absent, sorted by time."""
    import pyarrow as pa

    from servegauge.contract.cell_tables import SERVER_METRICS
    from servegauge.contract.columns import write

    rows = sorted(((t, watch.instance, sample) for watch in watches for t, sample in watch.rows), key=lambda r: r[:2])
    keys = {watch.api_key for watch in watches}
    kept = {labels: _without_secrets(labels, keys) for labels in {sample.labels for _, _, sample in rows}}
    columns = {
        "t_ns": [t - zero_ns for t, _, _ in rows],
        "instance": [instance for _, instance, _ in rows],
        "metric": [sample.metric for _, _, sample in rows],
        "raw": [sample.raw for _, _, sample in rows],
        "labels": [kept[sample.labels] for _, _, sample in rows],
        "value": [sample.value for _, _, sample in rows],
    }
    schema = pa.schema([SERVER_METRICS.field(name) for name in columns], metadata=SERVER_METRICS.metadata)
    write(pa.table(columns, schema=schema), out)


def _without_secrets(labels: str, keys: Collection[str]) -> str:
    """The labels of a sample, as JSON, without secrets: some servers have their options there."""
    cleaned = redact.clean(json.loads(labels), keys)
    return json.dumps(cleaned, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def main() -> None:
    """The scraping process: a job on the first line of standard input, `zero_ns` on the second, which ends it.

    End of file instead of a second line means that our owner is gone: leave without writing. The cell is lost anyhow.
    """
    import signal

    for number in (signal.SIGINT, signal.SIGTERM):  # a Ctrl-C reaches the whole group: the owner decides when to stop
        signal.signal(number, lambda *_: None)
    job = json.loads(sys.stdin.readline())
    if job["cpus"]:
        os.sched_setaffinity(0, job["cpus"])
    watches = [Watch(i, url, job["mapping"], job["hz"], job["api_key"]) for i, url in enumerate(job["urls"])]
    stop = threading.Event()
    threads = [threading.Thread(target=watch.run, args=(stop,), daemon=True) for watch in watches]
    for thread in threads:
        thread.start()
    last = sys.stdin.readline()
    if not last:
        return
    stop.set()
    for thread in threads:
        thread.join()
    write(watches, int(last), Path(job["out"]))
    print(json.dumps({"instances": [watch.report() for watch in watches]}), flush=True)


class Scraper(ProcessRecorder):
    """The metrics of a launch's instances, scraped in a process of its own, in `server_metrics.parquet`."""

    name = "scraper"
    records = "what the servers say of themselves: queues, caches, counters"
    position = 10

    @classmethod
    def tables(cls) -> Mapping[str, Any]:
        from servegauge.contract.cell_tables import SERVER_METRICS_RAW

        return {"server_metrics": SERVER_METRICS_RAW}

    def unsupported(self, live: LiveLaunch) -> str | None:
        if not live.framework.metrics_path:
            return f"{live.framework.title} has no page of metrics"
        return None if live.job.metrics_hz else "the study's job.metrics_hz is 0"

    def start(self, live: LiveLaunch, folder: Path, cpus: Sequence[int]) -> None:
        urls = [f"{one.base_url}{live.framework.metrics_path}" for one in live.servers]
        hz = live.job.metrics_hz
        self.scrape(urls, live.api_key, live.framework.metrics, hz, folder / "server_metrics.parquet", cpus)

    def scrape(
        self,
        urls: Sequence[str],
        api_key: str,
        mapping: Mapping[str, Sequence[str]],
        hz: float,
        out: Path,
        cpus: Sequence[int] = (),
    ) -> None:
        """Start scraping `urls` (whole addresses, one per instance, in the order of the instances) `hz` times a second.

        `mapping` is the framework's `metrics`; `cpus` are where the process may run. Rows go to `out` when it stops.
        """
        unknown = set(mapping) - set(COMMON)
        if unknown:
            raise ValueError(f"no common metric {sorted(unknown)}; there are: {', '.join(COMMON)}")
        if not hz > 0:
            raise ValueError(f"hz is {hz}, it must be above 0")
        self._out = out
        self._begin(
            {
                **{"urls": list(urls), "mapping": {name: list(raws) for name, raws in mapping.items()}, "hz": hz},
                **{"out": str(out.absolute()), "cpus": list(cpus), "api_key": api_key},
            }
        )

    def stop(self, zero_ns: int = 0) -> Path | None:
        """Scrape a last time, write, and return the file; None (with the reason in `report`) where it did not work."""
        super().stop(zero_ns)
        return None if "error" in self.report or not self.report else self._out


if __name__ == "__main__":
    main()
