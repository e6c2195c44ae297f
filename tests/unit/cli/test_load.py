"""The load generator for anyone with an endpoint: options, clear refusals, the table, the file, Ctrl-C."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from servegauge.base.errors import UserError
from servegauge.cli import load
from servegauge.cli.load_options import Options, add_arguments
from servegauge.contract.cell_tables import REQUESTS
from servegauge.contract.spec import Load
from tests.parquet_files import check_file
from tests.unit.instrument_helpers import paced, rows_of, workload

ROOT = Path(__file__).parents[3]
FAST = ("--first-s", "0.02", "--gap-s", "0.002")


def options(url: str = "http://127.0.0.1:9", **fields: object) -> Options:
    return Options(**{"base_url": [url], "model": "m", "concurrency": 2, "quiet": True, **fields})


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "servegauge.cli", "load", "--model", "m", *arguments]


def test_a_command_line_that_says_nothing_else_asks_for_a_load_with_its_own_defaults():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    asked = ["--base-url", "http://127.0.0.1:9", "--model", "m", "--rate", "2", "--requests", "3"]
    given = Options(**vars(parser.parse_args(asked)))
    assert given == options(concurrency=None, rate=2.0, requests=3, quiet=False)
    assert given.load == Load(rate_rps=2.0, requests=3, cache="warm")


def test_a_run_prints_a_table_and_writes_the_requests_of_a_cell(tmp_path, capsys):
    out = tmp_path / "made" / "run.parquet"
    with paced(tmp_path, *FAST) as server:
        status = load.measure(options(server.url, requests=6, prompts="synthetic:8,4", out=out))
    said = capsys.readouterr().out
    assert status == 0
    assert "6 ok" in said
    assert "p99_not_supported" in said
    assert "about as asked" in said
    assert check_file(out, REQUESTS) > 6  # ramp and tail are kept, too
    assert [row["output_tokens"] for row in rows_of(out)] == [4] * 6


def test_the_same_as_json_in_an_open_loop(tmp_path, capsys):
    with paced(tmp_path, *FAST) as server:
        given = options(
            server.url, concurrency=None, rate=50.0, requests=5, warmup=2, prompts="synthetic:8,4", json=True,
            out=tmp_path / "run.parquet",
        )  # fmt: skip
        load.measure(given)
    summary = json.loads(capsys.readouterr().out)
    assert summary["statuses"] == {"ok": 5}
    assert summary["ttft_p50_s"] > 0.02
    assert summary["instrument"]["lateness_p99_s"] is not None
    assert len(rows_of(tmp_path / "run.parquet", "warmup")) == 2


def test_the_seed_decides_prompts_and_times(tmp_path):
    def made(**fields: object) -> dict:
        given = options(concurrency=None, rate=10.0, requests=20, **fields)
        path, _ = load.write_workload(given, given.load, tmp_path)
        return pq.read_table(path, columns=["prompt", "scheduled_s"]).to_pydict()

    assert made() == made()
    assert made(seed=1)["prompt"] != made()["prompt"]
    assert made(seed=1)["scheduled_s"] != made()["scheduled_s"]
    assert made(arrival="gamma", shape=0.5)["scheduled_s"] != made()["scheduled_s"]


@pytest.mark.parametrize(
    "fields",
    [
        {"arrival": "constant"},
        {"arrival": "poisson"},
        {"arrival": "gamma", "shape": 2.0},
        {"arrival": "burst", "size": 4},
        {"arrival": "steps", "factors": "0.5,1.5"},
        {"arrival": "ramp", "factors": "0.5,1.5"},
        {"arrival": "replay"},
    ],
)
def test_every_arrival_process_can_be_asked_for(tmp_path, fields):
    if fields["arrival"] == "replay":
        (tmp_path / "times").write_text("1.0\n1.5\n3.0\n")
        fields = {**fields, "replay": tmp_path / "times"}
    given = options(concurrency=None, rate=20.0, duration=10.0, **fields)
    path, _ = load.write_workload(given, given.load, tmp_path)
    rows = pq.read_table(path).to_pylist()
    times, tail = ([row["scheduled_s"] for row in rows if row["phase"] == phase] for phase in ("window", "tail"))
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] < 10.0 <= tail[0]
    assert 100 < len(times) < 300


def test_a_frozen_workload_is_replayed(tmp_path, capsys):
    path = workload(tmp_path / "w", window=3, scheduled_s=[0.0, 0.01, 0.02])
    with paced(tmp_path, *FAST) as server:
        given = options(server.url, concurrency=None, prompts=str(path), out=tmp_path / "run.parquet", json=True)
        assert load.measure(given) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["offered_rps"] == pytest.approx(3 / summary["window_s"]), (
        "it is an open loop, though no rate is given"
    )
    assert [row["scheduled_ns"] for row in rows_of(tmp_path / "run.parquet")] == [0, 10_000_000, 20_000_000]


def test_no_answer_at_all_is_exit_status_1(tmp_path, capsys):
    with paced(tmp_path, *FAST, "--fault", "http_error:status=429") as server:
        given = options(server.url, requests=3, prompts="synthetic:8,4", out=tmp_path / "run.parquet")
        assert load.measure(given) == 1
    said = capsys.readouterr().out
    assert "3 http_error" in said
    assert "HTTP 429" in said


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rate": 2.0}, "either --rate"),
        ({"concurrency": None}, "either --rate"),
        ({"concurrency": None, "rate": 2.0}, "never ends"),
        ({"concurrency": None, "rate": 2.0, "requests": 2, "think": 1.0}, "closed loop"),
        ({"concurrency": 0}, "--concurrency is 0"),
        ({"requests": -1}, "--requests is -1"),
    ],
)
def test_options_that_do_not_belong_together(fields, said):
    with pytest.raises(UserError, match=said):
        options(**fields)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"prompts": "synthetic:64"}, "synthetic:INPUT,OUTPUT"),
        ({"prompts": "synthetic:a,b"}, "numbers"),
        ({"prompts": "no/such/file.yaml"}, "neither"),
        ({"prompts": "no/such.parquet"}, "no such file"),
        ({"extra_body": "{"}, "not JSON"),
        ({"extra_body": "[1]"}, "JSON object"),
        ({"api_key_env": "NO_SUCH_VARIABLE"}, "export it first"),
        ({"tokenizer": Path("no/such")}, "no/such"),
    ],
)
def test_options_that_cannot_be_used_are_refused_before_anything_is_sent(fields, said):
    with pytest.raises(UserError, match=said):
        load.measure(options(**fields))


def test_a_prompt_set_needs_the_tokenizer(tmp_path):
    (tmp_path / "set.yaml").write_text("{kind: synthetic, input_tokens: 5, output_tokens: 5}")
    with pytest.raises(UserError, match="--tokenizer"):
        load.measure(options(prompts=str(tmp_path / "set.yaml")))


def test_the_door_says_one_line_and_no_traceback():
    ran = subprocess.run(
        command("--base-url", "http://127.0.0.1:9", "--concurrency", "1"), cwd=ROOT, capture_output=True, text=True
    )
    assert ran.returncode == 2
    assert ran.stderr.startswith("error: cannot connect")
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_what_was_measured_and_says_so(tmp_path, name):
    out = tmp_path / "run.parquet"
    with paced(tmp_path, *FAST) as server:
        arguments = ["--base-url", server.url, "--rate", "20", "--duration", "60", "--prompts", "synthetic:8,4"]
        process = subprocess.Popen(
            command(*arguments, "--out", str(out)), cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        deadline = time.monotonic() + 30
        while len(server.truth()) < 70:  # the ramp of 2 s is over
            assert time.monotonic() < deadline
            time.sleep(0.05)
        # As a terminal and Slurm do: to every process of the group.
        os.killpg(process.pid, name)
        said, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "what was measured is kept" in said
    assert 8 <= sum(row["status"] == "ok" for row in rows_of(out)) < 1200  # of the window


def test_the_file_holds_what_is_derived_and_the_clock_of_its_stamps(tmp_path, capsys):
    out = tmp_path / "run.parquet"
    before = time.time_ns()
    with paced(tmp_path, *FAST) as server:
        load.measure(options(server.url, requests=4, prompts="synthetic:8,4", out=out))
    row = rows_of(out)[0]
    assert row["ttft_s"] == pytest.approx((row["first_token_ns"] - row["sent_ns"]) / 1e9)
    assert row["tpot_s"] is not None
    clock = json.loads(pq.read_schema(out).metadata[b"clock"])
    unix_ns = row["sent_ns"] + clock["window_start_ns"] + clock["epoch_offset_start_ns"]
    assert before < unix_ns < time.time_ns()
    assert unix_ns - time.time_ns() + time.monotonic_ns() == pytest.approx(
        row["sent_ns"] + clock["window_start_ns"], abs=5e6
    )


LINES = (
    '{"messages": [{"role": "user", "content": [{"type": "text", "text": "tell me more"}]}], "output_tokens": 3}\n'
    '{"messages": [{"role": "user", "content": "hello there"}]}\n'
)


def test_a_jsonl_of_prompts_just_works_with_and_without_a_tokenizer(tmp_path, tiny_model, capsys):
    (tmp_path / "own.jsonl").write_text(LINES)
    (tmp_path / "texts.jsonl").write_text('{"prompt": "tell me more"}\n')
    for given in ({}, {"tokenizer": tiny_model}):
        for name, endpoint in (("own", "chat"), ("texts", "completions")):
            out = tmp_path / "run.parquet"
            with paced(tmp_path, *FAST) as server:
                fields = {"prompts": str(tmp_path / f"{name}.jsonl"), "endpoint": endpoint, "out": out, **given}
                assert load.measure(options(server.url, requests=4, json=True, **fields)) == 0
            summary = json.loads(capsys.readouterr().out)
            assert summary["statuses"] == {"ok": 4}
            assert {row["output_tokens_asked"] for row in rows_of(out)} == ({3, 128} if name == "own" else {128})
            if not given:
                assert "prompt_length" not in [flag["flag"] for flag in summary["flags"]], "nobody asked for a length"
                assert any("not known" in note for note in summary["notes"])


def test_messages_for_completions_need_their_template(tmp_path, tiny_model):
    (tmp_path / "own.jsonl").write_text(LINES)
    given = options(prompts=str(tmp_path / "own.jsonl"))
    with pytest.raises(UserError, match="--endpoint chat"):
        load.write_workload(given, given.load, tmp_path)
    given = options(prompts=str(tmp_path / "own.jsonl"), tokenizer=tiny_model, output_tokens=7)
    path, _ = load.write_workload(given, given.load, tmp_path)
    written = pq.read_table(path).to_pylist()
    assert {row["prompt"] for row in written} == {
        "[user] tell me more\n[assistant] ",
        "[user] hello there\n[assistant] ",
    }
    assert {row["output_tokens"] for row in written} == {7}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rate": float("inf")}, "--rate is inf"),
        ({"rate": float("nan")}, "--rate is nan"),
        ({"rate": 1.0, "duration": float("inf")}, "--duration is inf"),
        ({"concurrency": 2, "shape": 2.0}, "open loop"),
    ],
)
def test_numbers_that_are_none_are_refused(fields, said):
    with pytest.raises(UserError, match=said):
        options(**{"concurrency": None, "requests": 2, **fields})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"arrival": "gamma", "shape": 0.0}, "`shape` is 0"),
        ({"arrival": "gamma"}, "needs `shape`"),
        ({"arrival": "burst", "size": -1}, "`size` is -1"),
        ({"arrival": "steps", "factors": "1,inf"}, "`factors` are"),
        ({"arrival": "poisson", "size": 3}, "`size` belongs to burst"),
        ({"header": ["no colon"]}, "NAME: VALUE"),
        ({"header_env": ["api-key=NO_SUCH_VARIABLE"]}, "NAME=VARIABLE"),
        ({"path": "no slash"}, "must begin with /"),
    ],
)
def test_what_cannot_be_sent_or_drawn_is_one_error_before_anything_is_sent(fields, said):
    with pytest.raises(UserError, match=said):
        load.measure(options(**{"concurrency": None, "rate": 5.0, "requests": 2, **fields}))
