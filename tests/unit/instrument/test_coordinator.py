"""The generator against a server whose truth is known: stamps, statuses, loops, limits, what is kept when stopped."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tokenizers

from servegauge.base.errors import UserError
from servegauge.contract.cell_tables import REQUESTS_RAW
from servegauge.instrument import worker as load_worker
from servegauge.instrument.connection import InFlight
from servegauge.instrument.coordinator import run_load
from servegauge.instrument.job import LoadJob
from servegauge.instrument.openai_api import Target
from servegauge.instrument.phases import Phase, part_of
from servegauge.instrument.scheduler import Engine
from tests.parquet_files import check_file
from tests.unit.instrument_helpers import load_job, paced, rows_of, workload

FAST = ("--first-s", "0.02", "--gap-s", "0.002")


def job(url: str, path: Path, tmp_path: Path, **fields: object) -> LoadJob:
    defaults = {"phase": "window", "concurrency": 2, "timeout_s": 10.0, "cell": "c", "launch": "l"}
    return load_job(url, path, tmp_path / "out", "paced", **{**defaults, **fields})


def test_a_generator_that_wakes_late_says_so(tmp_path):
    async def held_up() -> list[tuple[int, int]]:
        engine = Engine([Target.of("http://127.0.0.1:9")])
        engine.loop.call_later(0.3, time.sleep, 0.4)
        engine.loop.call_later(1.2, engine.finish)
        await engine.run(Phase((), held=True), time.monotonic_ns())
        engine.close()
        return engine.wakeups

    late_s = [late / 1e9 for _, late in asyncio.run(held_up())]
    assert 0.3 < max(late_s) < 0.8
    assert 0 <= statistics.median(late_s) < 0.1
    with paced(tmp_path, *FAST) as server:
        told = run_load(job(server.url, workload(tmp_path, window=30, output_tokens=5), tmp_path)).instrument
    assert 0 < told["wakeup_p99_s"] <= told["wakeup_max_s"] < 10


def test_the_stamps_of_a_closed_loop_are_complete_and_agree_with_the_servers(tmp_path):
    path = workload(tmp_path, window=6, output_tokens=5)
    with paced(tmp_path, *FAST) as server:
        result = run_load(job(server.url, path, tmp_path))
        truth = server.truth()
    assert result.counts == {"ok": 6}
    assert check_file(result.requests, REQUESTS_RAW) == 6
    zero = result.clock.window_start_ns
    for row in rows_of(result.requests):
        said = truth[row["request_id"]]
        assert row["tokens_source"] == "usage"
        assert row["output_tokens"] == 5
        assert row["chunk_tokens"] == [1] * 5
        assert row["finish_reason"] == "length"
        stamps = [
            row["scheduled_ns"], row["sent_ns"], row["first_byte_ns"], row["first_token_ns"], *row["chunk_ns"][1:],
            row["last_ns"], row["end_ns"],
        ]  # fmt: skip
        assert stamps == sorted(stamps)
        assert row["chunk_ns"][0] == row["first_token_ns"]
        assert row["chunk_ns"][-1] == row["last_ns"]
        # Every chunk is stamped after the server sent it.
        assert all(stamp + zero > sent for stamp, sent in zip(row["chunk_ns"], said["sends_ns"], strict=True))
    last_s = max(row["end_ns"] for row in rows_of(result.requests)) / 1e9
    assert result.window.duration_s == pytest.approx(last_s, abs=0.05)


def test_a_closed_loop_sends_the_next_request_when_a_stream_is_free(tmp_path):
    path = workload(tmp_path, window=4)
    with paced(tmp_path, *FAST) as server:
        rows = rows_of(run_load(job(server.url, path, tmp_path, concurrency=1)).requests)
    for before, after in pairwise(rows):
        assert after["scheduled_ns"] == before["end_ns"]
        assert after["sent_ns"] > before["end_ns"]
        assert after["connection_reused"]


def test_think_time_is_between_an_answer_and_the_next_request(tmp_path):
    path = workload(tmp_path, window=3)
    with paced(tmp_path, *FAST) as server:
        rows = rows_of(run_load(job(server.url, path, tmp_path, concurrency=1, think_s=0.05)).requests)
    assert rows[0]["scheduled_ns"] == 0
    for before, after in pairwise(rows):
        assert after["scheduled_ns"] == before["end_ns"] + 50_000_000
        assert after["sent_ns"] >= after["scheduled_ns"]


def test_an_open_loop_sends_on_time_whatever_the_server_does(tmp_path):
    times = [0.0, 0.05, 0.05, 0.1, 0.15]
    path = workload(tmp_path, window=5, scheduled_s=times)
    with paced(tmp_path, "--first-s", "0.4", "--gap-s", "0.001", "--slots", "1") as server:
        result = run_load(job(server.url, path, tmp_path, concurrency=None))
    rows = rows_of(result.requests)
    assert [row["scheduled_ns"] for row in rows] == [int(time_s * 1e9) for time_s in times]
    # The server answers one at a time, after 0.4 s each: every request was sent before the first answer.
    assert all(row["sent_ns"] < rows[0]["first_byte_ns"] for row in rows)
    assert result.instrument["lateness_p99_s"] < 0.1


def test_a_limit_on_requests_in_flight_shows_in_the_lateness(tmp_path):
    path = workload(tmp_path, window=3, scheduled_s=[0.0, 0.0, 0.0])
    with paced(tmp_path, "--first-s", "0.1", "--gap-s", "0.001") as server:
        rows = rows_of(run_load(job(server.url, path, tmp_path, concurrency=None, max_in_flight=1)).requests)
    lateness = sorted((row["sent_ns"] - row["scheduled_ns"]) / 1e9 for row in rows)
    assert lateness[0] < 0.05
    assert lateness[1] > 0.1
    assert lateness[2] > 0.2


def test_the_warm_up_comes_first_and_the_caller_acts_between(tmp_path):
    path = workload(tmp_path, window=2, warmup=3)
    seen = []
    with paced(tmp_path, *FAST) as server:
        whole = replace(job(server.url, path, tmp_path), phase="both")
        result = run_load(whole, between=lambda: seen.append(len(server.truth())))
    assert seen == [3]
    warmup = rows_of(result.requests, "warmup")
    assert len(warmup) == 3
    assert all(row["end_ns"] < 0 for row in warmup)
    assert result.counts == {"ok": 2}


def test_chat_and_whole_answers(tmp_path):
    path = workload(tmp_path, window=2, messages='[{"role": "user", "content": "Hi"}]')
    with paced(tmp_path, *FAST) as server:
        chat = rows_of(run_load(job(server.url, path, tmp_path, endpoint="chat")).requests)
        whole = rows_of(run_load(job(server.url, path, tmp_path, stream=False)).requests)
    assert [(row["status"], row["output_tokens"], len(row["chunk_ns"])) for row in chat] == [("ok", 4, 4)] * 2
    for row in whole:
        assert (row["status"], row["output_tokens"], row["chunk_tokens"]) == ("ok", 4, [4])
        assert row["first_token_ns"] is None
        assert row["last_ns"] == row["end_ns"]
    assert chat[0]["text_sha256"] == whole[0]["text_sha256"]


@pytest.mark.parametrize(
    ("fault", "status", "said"),
    [
        ("http_error:every=1,status=503", "http_error", "HTTP 503"),
        ("drop:every=1", "connection_error", "without an answer"),
        ("cut:every=1,after=2", "truncated", "inside its answer"),
        ("stall:every=1,after=2,stall_s=30", "timeout", "within 0.5 s"),
        ("zero_tokens:every=1", "no_tokens", "no token"),
        ("garbage:every=1,after=1", "invalid", "not JSON"),
    ],
)
def test_each_fault_ends_in_its_status(tmp_path, fault, status, said):
    path = workload(tmp_path, window=3)
    with paced(tmp_path, *FAST, "--fault", fault) as server:
        result = run_load(job(server.url, path, tmp_path, timeout_s=0.5))
    assert result.counts == {status: 3}
    for row in rows_of(result.requests):
        assert said in row["error"]
        assert row["sent_ns"] is not None
        assert len(row["chunk_ns"]) == {"truncated": 2, "timeout": 2, "invalid": 4}.get(status, 0)


def test_a_fault_now_and_then_leaves_the_other_requests_whole(tmp_path):
    path = workload(tmp_path, window=9)
    with paced(tmp_path, *FAST, "--fault", "http_error:every=3", "--fault", "cut:every=4") as server:
        result = run_load(job(server.url, path, tmp_path, concurrency=1))
    assert [row["status"] for row in rows_of(result.requests)] == [
        "ok", "ok", "http_error", "truncated", "ok", "http_error", "ok", "truncated", "http_error",
    ]  # fmt: skip


def test_a_server_that_is_not_there_is_said_at_once(tmp_path):
    path = workload(tmp_path)
    with pytest.raises(UserError, match=r"cannot connect to http://127\.0\.0\.1:9"):
        run_load(job("http://127.0.0.1:9", path, tmp_path))


def test_stopping_keeps_what_was_measured(tmp_path):
    path = workload(tmp_path, window=50, scheduled_s=[number * 0.1 for number in range(50)])
    with paced(tmp_path, "--first-s", "0.3", "--gap-s", "0.001") as server:
        result = run_load(
            job(server.url, path, tmp_path, concurrency=None), should_stop=lambda: len(server.truth()) > 10
        )
    assert result.stopped
    rows = rows_of(result.requests)
    assert 2 <= result.counts["ok"] < 49
    assert {row["status"] for row in rows} == {"ok", "cancelled"}
    assert len(rows) < 50


def test_several_processes_give_one_table_on_one_clock(tmp_path):
    path = workload(tmp_path, window=10, scheduled_s=[number * 0.02 for number in range(10)])
    with paced(tmp_path, *FAST) as server:
        result = run_load(job(server.url, path, tmp_path, concurrency=None, workers=2))
    rows = rows_of(result.requests)
    assert result.counts == {"ok": 10}
    assert [row["worker"] for row in rows] == [0, 1] * 5
    assert result.instrument["workers"] == 2
    assert all(0 <= row["sent_ns"] - row["scheduled_ns"] < 200_000_000 for row in rows)


def test_instances_take_turns(tmp_path):
    path = workload(tmp_path, window=6)
    with paced(tmp_path, *FAST) as one, paced(tmp_path, *FAST) as two:
        both = replace(job(one.url, path, tmp_path, concurrency=2), base_urls=[one.url, two.url])
        rows = rows_of(run_load(both).requests)
        assert [row["instance"] for row in rows] == [0, 1] * 3
        assert (len(one.truth()), len(two.truth())) == (3, 3)


def test_the_key_reaches_the_server_and_nothing_else(tmp_path):
    path = workload(tmp_path, window=1)
    with paced(tmp_path, *FAST, api_key="secret-42") as server:
        good = run_load(job(server.url, path, tmp_path, api_key="secret-42"))
        bad = run_load(job(server.url, path, tmp_path, api_key="other"))
    assert good.counts == {"ok": 1}
    assert bad.counts == {"http_error": 1}
    assert "secret-42" not in job("http://x", path, tmp_path, api_key="secret-42").to_json()
    assert not list((tmp_path / "out").glob(".loadgen*"))


def test_a_duration_ends_a_closed_loop(tmp_path):
    path = workload(tmp_path, window=5000)  # hours, at this pace, without the end
    with paced(tmp_path, "--first-s", "0.2", "--gap-s", "0.2") as server:
        result = run_load(job(server.url, path, tmp_path, duration_s=2.0))
    assert 1 <= result.counts["ok"] < 5000
    assert max(row["scheduled_ns"] for row in rows_of(result.requests)) < 2_000_000_000


def test_a_changed_workload_is_refused(tmp_path):
    path = workload(tmp_path)
    with pytest.raises(UserError, match="compile it again"):
        run_load(job("http://127.0.0.1:9", path, tmp_path, workload_sha256="0" * 64))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"concurrency": 0}, "at least 1"),
        ({"endpoint": "embeddings"}, "completions, chat"),
        ({"workers": 0}, "at least 1"),
        ({"api_key": "a\nb"}, "line break"),
        ({"timeout_s": 0.0}, "positive"),
        ({"timeout_s": float("nan")}, "timeout_s is nan"),
        ({"timeout_s": float("inf")}, "timeout_s is inf"),
        ({"duration_s": float("nan")}, "duration_s is nan"),
        ({"think_s": float("nan")}, "think_s is nan"),
        ({"temperature": float("nan")}, "temperature is nan"),
    ],
)
def test_a_job_that_cannot_work_is_refused(tmp_path, fields, said):
    with pytest.raises(UserError, match=said):
        job("http://127.0.0.1:9", tmp_path / "w", tmp_path, **fields)


def test_a_base_url_is_checked(tmp_path):
    with pytest.raises(UserError, match="correct --base-url"):
        job("127.0.0.1:8000", tmp_path / "w", tmp_path)


def test_a_password_in_a_base_url_is_refused_and_not_repeated(tmp_path):
    with pytest.raises(UserError, match=r"http://\*\*\*@127\.0\.0\.1:9 .*--api-key-env") as caught:
        job("http://me:pass-word@127.0.0.1:9", tmp_path / "w", tmp_path)
    assert "pass-word" not in str(caught.value)


def test_the_same_schema_is_written_for_no_requests(tmp_path):
    path = workload(tmp_path, window=1, warmup=0)
    with paced(tmp_path, *FAST) as server:
        result = run_load(replace(job(server.url, path, tmp_path), phase="warmup"))
    assert pq.read_table(result.requests).num_rows == 0
    assert result.window.duration_s is None


def test_processes_are_pinned_to_the_given_cpus(tmp_path):
    allowed = sorted(os.sched_getaffinity(0))
    path = workload(tmp_path, window=2)
    with paced(tmp_path, *FAST) as server:
        result = run_load(job(server.url, path, tmp_path, workers=2, cpus=allowed[-1:]))
    assert result.instrument["cpus"] == [allowed[-1:]] * 2


def test_a_server_without_usage_is_counted_by_the_tokenizer_or_by_chunks(tmp_path):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"tok": 0, "?": 1}, "?"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    (tmp_path / "model").mkdir()
    tokenizer.save(str(tmp_path / "model" / "tokenizer.json"))
    path = workload(tmp_path, window=1, output_tokens=5)
    silent = {"extra_body": {"stream_options": {}}}
    with paced(tmp_path, *FAST, "--tokens-per-chunk", "2") as server:
        counted = run_load(job(server.url, path, tmp_path, tokenizer=str(tmp_path / "model"), **silent))
        first = rows_of(counted.requests)[0]
        second = rows_of(run_load(job(server.url, path, tmp_path, **silent)).requests)[0]
        third = rows_of(run_load(job(server.url, path, tmp_path, tokenizer=str(tmp_path / "model"))).requests)[0]
    assert (first["tokens_source"], first["output_tokens"], first["chunk_tokens"]) == ("tokenizer", 5, [2, 2, 1])
    assert first["prompt_tokens"] == 4  # "Say something . 0"
    assert (second["tokens_source"], second["output_tokens"], second["chunk_tokens"]) == ("chunks", 3, None)
    # With usage, the tokenizer only says which chunk held how many.
    assert (third["tokens_source"], third["output_tokens"], third["chunk_tokens"]) == ("usage", 5, [2, 2, 1])


def test_a_tokenizer_that_is_not_there_is_said_before_anything_is_sent(tmp_path):
    with pytest.raises(UserError, match="no tokenizer"):
        run_load(job("http://127.0.0.1:9", workload(tmp_path), tmp_path, tokenizer=str(tmp_path)))


def test_beyond_its_bound_the_raw_bytes_are_understood_as_they_land(monkeypatch, tmp_path):
    monkeypatch.setattr(load_worker, "RETAINED_LIMIT", 10)
    worker = load_worker.Worker(job("http://x", tmp_path, tmp_path), 0, load_worker.Control())
    body = b'{"choices": [{"text": "a"}]}'
    flight = InFlight(0, b"", 0, 1)
    flight.reads = [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body), body]
    flight.stamps, flight.end_ns = [5, 6], 6
    kept = sum(map(len, flight.reads))
    worker.on_landed(flight)
    assert (flight.reads, flight.stamps, flight.answer.text) == ([], [5], "a")
    assert (worker.retained, worker.high_water, worker.understood_in_window) == (0, kept, 1)


@pytest.mark.parametrize(("total", "workers"), [(1, 1), (5, 2), (64, 3), (7, 7)])
def test_streams_are_split_evenly(total, workers):
    parts = [part_of(total, worker, workers) for worker in range(workers)]
    assert sum(parts) == total
    assert max(parts) - min(parts) <= 1
