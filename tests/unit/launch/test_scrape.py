"""Server metrics: parsing, common names, and a real scraping process against a small HTTP server."""

from __future__ import annotations

import http.client
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from servegauge.contract.records.cell import Measured
from servegauge.frameworks import frameworks
from servegauge.launch.cell import Measurement
from servegauge.launch.recorders.scrape import COMMON, Scraper, Watch, parse, snapshot, write

MAPPING = {
    "requests_running": ["x:running"],
    "kv_usage": ["x:kv"],
    "cache_hit_tokens": ["x:hits_total", "x:external_hits_total"],
}
TEXT = """\
# HELP x:running Running.
# TYPE x:running gauge
x:running{engine="0"} 3.0
x:running{engine="1"} 2.0
# TYPE x:kv gauge
x:kv{engine="0"} 0.5
x:kv{engine="1"} 0.25
# TYPE x:hits counter
x:hits_total 40.0
x:hits_created 1.7e+09
x:external_hits_total 2.0
# TYPE x:nothing gauge
x:nothing NaN
"""


class Metrics(http.server.BaseHTTPRequestHandler):
    """Answers /metrics with a counter that grows at every request, to those who know the key."""

    asked = 0

    def do_GET(self) -> None:
        if self.headers.get("Authorization") != "Bearer sesame":
            self.send_error(401)
            return
        type(self).asked += 1
        body = f"{TEXT}x:asked_total {type(self).asked}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metrics) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/metrics"
        server.shutdown()


def test_common_names_beside_raw_ones() -> None:
    samples = {(sample.raw, sample.labels): sample for sample in parse(TEXT, MAPPING)}
    assert samples["x:running", '{"engine":"1"}'].metric == "requests_running"
    assert samples["x:external_hits_total", "{}"].metric == "cache_hit_tokens"
    assert samples["x:nothing", "{}"].metric is None
    assert samples["x:nothing", "{}"].value is None, "NaN is undefined, and undefined is null"
    assert not [raw for raw, _ in samples if raw.endswith("_created")]


def test_snapshot_sums_counts_and_averages_shares() -> None:
    assert snapshot(TEXT, MAPPING) == {"requests_running": 5.0, "kv_usage": 0.375, "cache_hit_tokens": 42.0}
    assert snapshot("", MAPPING) == {}, "what the server does not say is absent, not 0"


@pytest.mark.parametrize("name", sorted(frameworks()))
def test_a_counter_that_is_shown_from_its_first_event_on_is_0_until_then(name: str) -> None:
    """Of every framework: no hit, no preemption, and on a fresh server no request, is a 0, not a gap."""
    mapping = frameworks()[name].metrics
    counters = {"cache_hit_tokens", "preemptions"} & set(mapping)
    hidden = {raw for counter in counters for raw in mapping[counter]}
    raws = sorted({raw for raws in mapping.values() for raw in raws} - hidden)
    if not raws:
        pytest.skip("it has no metrics")
    page = "".join(f"{raw} 3.0\n" for raw in raws)
    found = snapshot(page, mapping)
    assert {counter: found.get(counter) for counter in counters} == dict.fromkeys(counters, 0.0)
    zeros = [sample for sample in parse(page, mapping) if sample.metric in counters]
    assert [(sample.raw, sample.labels, sample.value) for sample in zeros] == [
        (mapping[counter][0], "{}", 0.0) for counter in mapping if counter in counters
    ]


def test_what_every_request_counts_is_0_until_a_request_was_counted_and_then_unknown() -> None:
    mapping = {"prompt_tokens": ["x:prompt_total"], "output_tokens": ["x:output_total"], "requests_running": ["x:run"]}
    assert snapshot("x:run 0\n", mapping) == {"requests_running": 0.0, "prompt_tokens": 0.0, "output_tokens": 0.0}
    assert snapshot("x:output_total 0\n", mapping) == {"prompt_tokens": 0.0, "output_tokens": 0.0}
    assert snapshot("x:output_total 7\n", mapping) == {"output_tokens": 7.0}, "renamed in another version: no 0"
    assert snapshot("y:other 7\n", mapping) == {}, "the page of something else"


def test_one_number_of_the_server_may_be_two_of_ours() -> None:
    twice = {"prompt_tokens": ["x:hits_total"], "cache_query_tokens": ["x:hits_total"]}
    assert snapshot(TEXT, twice) == {"prompt_tokens": 40.0, "cache_query_tokens": 40.0}


def test_every_common_metric_says_how_it_is_put_together() -> None:
    assert {how for _, _, how in COMMON.values()} <= {"sum", "mean"}


def test_a_process_of_its_own_scrapes_at_the_rate_and_keeps_what_changed(url: str, tmp_path: Path) -> None:
    out = tmp_path / "server_metrics.parquet"
    scraper = Scraper()
    before = time.monotonic_ns()
    scraper.scrape([url, url.replace("/metrics", "/nothing-but-metrics")], "sesame", MAPPING, 20.0, out)
    time.sleep(1.2)
    assert scraper.stop(zero_ns=before) == out
    table = pq.read_table(out)
    rows = table.to_pylist()
    assert {row["instance"] for row in rows} == {0, 1}
    assert table["t_ns"].to_pylist() == sorted(table["t_ns"].to_pylist())
    assert 0 < rows[0]["t_ns"] < rows[-1]["t_ns"] < 10e9

    def values(instance: int, raw: str) -> list[float]:
        return [row["value"] for row in rows if row["instance"] == instance and row["raw"] == raw]

    scrapes = scraper.report["instances"][0]["scrapes"]
    assert scrapes > 3
    assert len(values(0, "x:running")) == 2 * scrapes, "mapped samples are kept at every scrape"
    assert values(0, "x:nothing") == [None], "an unmapped sample is kept once while it does not change"
    grown = values(0, "x:asked_total")
    assert len(grown) == scrapes
    assert grown == sorted(grown)
    assert scraper.report["instances"][0]["errors"] == 0


def test_a_refused_or_dead_server_is_counted_and_nothing_breaks(url: str, tmp_path: Path) -> None:
    scraper = Scraper()
    scraper.scrape([url, "http://127.0.0.1:9/metrics"], "wrong key", MAPPING, 20.0, tmp_path / "m.parquet")
    time.sleep(0.8)
    assert scraper.stop() == tmp_path / "m.parquet"
    assert pq.read_table(tmp_path / "m.parquet").num_rows == 0
    refused, dead = scraper.report["instances"]
    assert refused["errors"] > 0
    assert "401" in refused["last_error"]
    assert dead["took_p50_s"] is None


def test_the_key_is_not_on_the_command_line(url: str, tmp_path: Path) -> None:
    scraper = Scraper()
    scraper.scrape([url], "sesame", MAPPING, 5.0, tmp_path / "m.parquet")
    process = scraper._process
    assert process is not None
    for shown in ("cmdline", "environ"):
        assert b"sesame" not in Path(f"/proc/{process.pid}/{shown}").read_bytes()
    scraper.cancel()
    assert process.wait(0) is not None
    assert not list(tmp_path.iterdir())


def test_the_scraper_leaves_when_its_owner_is_gone(tmp_path: Path) -> None:
    job = {"urls": [], "mapping": {}, "hz": 1, "out": str(tmp_path / "m.parquet"), "cpus": [], "api_key": ""}
    ended = subprocess.run(
        [sys.executable, "-m", "servegauge.launch.recorders.scrape"],
        input=json.dumps(job) + "\n",
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 0
    assert os.listdir(tmp_path) == []


def test_a_broken_text_is_an_error_of_that_scrape_only(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["x{ 1 2 3 4", TEXT])
    monkeypatch.setattr("servegauge.launch.recorders.scrape.fetch", lambda *_, **__: next(answers))
    watch = Watch(0, "http://x", MAPPING, hz=1.0)
    watch.scrape()
    assert watch.errors == 1
    assert watch.rows == []
    watch.scrape()
    assert watch.report()["scrapes"] == 1
    assert watch.rows


UNREADABLE = ["[]", "{}", '{"a": 1}', json.dumps(TEXT), "null", "<html>404</html>", "Internal Server Error", "x{a="]


@pytest.mark.parametrize("page", UNREADABLE)
def test_a_page_that_cannot_be_read_costs_nothing_but_the_metrics(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="not a page of metrics"):
        snapshot(page, MAPPING)
    monkeypatch.setattr("servegauge.launch.recorders.scrape.fetch", lambda *_, **__: page)
    watch = Watch(0, "http://x", MAPPING, hz=1.0)
    watch.scrape()
    assert (watch.errors, watch.rows) == (1, [])
    measurement = Measurement.__new__(Measurement)
    reply = SimpleNamespace(ok=True, text=page)
    servers = [SimpleNamespace(client=SimpleNamespace(get=lambda path: reply))]
    measurement.run = SimpleNamespace(servers=servers, without_secrets=str)
    measurement.framework = SimpleNamespace(metrics_path="/metrics", metrics=MAPPING)
    measurement.record = Measured()
    assert measurement._metrics() is None
    assert "not a page of metrics" in (measurement.record.metrics_unreadable or "")


def test_an_answer_that_is_no_http_is_an_error_of_that_scrape_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> str:
        raise http.client.BadStatusLine("SSH-2.0")

    monkeypatch.setattr("servegauge.launch.recorders.scrape.fetch", broken)
    watch = Watch(0, "http://x", MAPPING, hz=1.0)
    watch.scrape()
    assert "SSH" in watch.report()["last_error"]


def test_no_secret_of_a_page_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Some servers have their options in a sample's labels, and a page that is none is quoted."""
    page = 'x:info{api_key="hunter2hunter2",url="https://h/m?sig=ab12cd34ef",model="m",le="0.5"} 1.0\n'
    monkeypatch.setattr("servegauge.launch.recorders.scrape.fetch", lambda *_, **__: page)
    watch = Watch(0, "http://x", MAPPING, 1.0)
    watch.scrape()
    write([watch], 0, tmp_path / "m.parquet")
    (labels,) = pq.read_table(tmp_path / "m.parquet")["labels"].to_pylist()
    assert json.loads(labels) == {"api_key": "***", "url": "https://h/m?sig=***", "model": "m", "le": "0.5"}
    page = "<html>\x1b[2Jtoken=hunter2hunter2"
    watch.scrape()
    assert watch.last_error is not None
    assert "hunter2" not in watch.last_error
    assert "\x1b" not in watch.last_error


def test_missed_ticks_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(0, "http://x", MAPPING, hz=50.0)
    stop = threading.Event()
    monkeypatch.setattr(watch, "scrape", lambda: time.sleep(0.09))
    threading.Timer(0.5, stop.set).start()
    watch.run(stop)
    assert watch.missed > 5


@pytest.mark.parametrize(("mapping", "hz", "message"), [({"kv": ["a"]}, 1.0, "no common metric"), ({}, 0, "above 0")])
def test_a_wrong_mapping_or_rate_is_refused(mapping: dict, hz: float, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        Scraper().scrape([], "", mapping, hz, tmp_path / "m.parquet")
