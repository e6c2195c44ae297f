"""Sessions against the paced server: a turn is never sent before the answer before it and its pause are over."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from servegauge.contract import cell_tables, metrics, tables
from servegauge.contract.spec import Load
from servegauge.instrument.coordinator import LoadResult, run_load
from servegauge.instrument.job import LoadJob
from servegauge.workloads import tokenizer as tokens
from servegauge.workloads.compile import compile_workload, read_workload
from tests.unit.instrument_helpers import paced
from tests.unit.workloads.test_compile import root, workload

__all__ = ["root"]

MS = 1_000_000
TTFT_MS, ITL_MS, TOKENS, PAUSE_S = 30, 5, 4, 0.08
ANSWER_S = (TTFT_MS + (TOKENS - 1) * ITL_MS) / 1e3
TURNS = {"distribution": "uniform", "min": 2, "max": 4}
SPEC = {
    "name": "talk", "kind": "sessions", "turns": TURNS, "input_tokens": 6, "output_tokens": TOKENS, "pause_s": PAUSE_S,
}  # fmt: skip


def measure(root: Path, load: Load, *server: str, urls: int = 1, **fields: Any) -> tuple[LoadResult, pa.Table]:
    """Put sessions under `load` on a paced server of known pace; the result and all requests."""
    one = workload(load, SPEC)
    described = compile_workload(one, root, root / "out")
    file = root / "out" / one.id / "workload.parquet"
    pace = ("--first-s", str(TTFT_MS / 1e3), "--gap-s", str(ITL_MS / 1e3))
    with paced(root, *pace, *server) as running:
        job = LoadJob(
            [running.url] * urls, str(file), str(root / "load"), "paced", load, window_s=described.window_s, cell="c",
            **fields,
        )  # fmt: skip
        result = run_load(job)
    return result, pq.read_table(result.requests)


def by_session(requests: pa.Table) -> dict[int, list[dict[str, Any]]]:
    """Session -> its rows in order of their turns."""
    found: dict[int, list[dict[str, Any]]] = {}
    for row in sorted(requests.to_pylist(), key=lambda row: row["turn"]):
        found.setdefault(row["session"], []).append(row)
    return found


def gaps_s(requests: pa.Table) -> np.ndarray:
    """Seconds from each answer's end to the next request of its session."""
    sessions = by_session(requests).values()
    return np.array(
        [(later["sent_ns"] - row["end_ns"]) / 1e9 for one in sessions for row, later in itertools.pairwise(one)]
    )


OPEN = Load(rate_rps=12, duration_s=1.5, warmup_requests=3, ramp_s=0.5)
CLOSED = Load(concurrency=4, arrival={"process": "closed"}, requests=8, warmup_requests=2)


@pytest.mark.parametrize("load", [OPEN, CLOSED], ids=["open", "closed"])
def test_a_turn_is_never_sent_before_the_answer_and_its_pause(root: Path, load: Load) -> None:
    result, requests = measure(root, load)
    assert pc.all(pc.equal(requests["status"], "ok")).as_py()
    gaps = gaps_s(requests)
    assert len(gaps) > 10
    assert gaps.min() >= PAUSE_S
    assert np.median(gaps) < PAUSE_S + 0.02, "and not much later"
    for one in by_session(requests).values():
        turns = [row["turn"] for row in one]
        assert turns == list(range(turns[0], turns[0] + len(turns)))
    assert result.window.exhausted_ns is None


def test_the_latency_of_a_session_is_its_answers_and_its_pauses(root: Path) -> None:
    result, requests = measure(root, OPEN)
    got = tables.conform(metrics.derive(requests), cell_tables.REQUESTS)
    window = got.filter(metrics.in_window(got))
    began = window.filter(pc.equal(window["turn"], 0))
    assert began.num_rows > 8
    whole = by_session(requests)
    for row in began.to_pylist():
        many = len(whole[row["session"]])
        assert row["session_answers_s"] == pytest.approx(many * ANSWER_S, abs=0.02 * many)
        assert row["session_s"] == pytest.approx(many * ANSWER_S + (many - 1) * PAUSE_S, abs=0.02 * many)
    others = window.filter(pc.not_equal(window["turn"], 0))
    assert others["session_s"].null_count == others.num_rows
    summary = metrics.summarise(requests, result.window.duration_s)
    assert summary["sessions"] == summary["sessions_answered"] == began.num_rows
    assert summary["session_p50_s"] == pytest.approx(np.median(began["session_s"].to_numpy()))


def test_a_session_that_began_in_the_window_is_seen_to_its_end(root: Path) -> None:
    _, requests = measure(root, OPEN)
    frozen = {row["session"]: row for row in read_workload(root / "out" / workload(OPEN, SPEC).id).to_pylist()}
    last = {session: row["turn"] for session, row in frozen.items()}  # the last row of each session is its last turn
    phases = pc.cast(requests["phase"], pa.string()).to_pylist()
    sessions, turns = requests["session"].to_pylist(), requests["turn"].to_pylist()
    for number, phase, turn in zip(sessions, phases, turns, strict=True):
        if phase == "window" and turn == 0:
            assert max(t for s, t in zip(sessions, turns, strict=True) if s == number) == last[number]
    assert "tail" in {phase for number, phase in zip(sessions, phases, strict=True)}


def test_a_closed_loops_window_holds_the_requests_of_its_sessions(root: Path) -> None:
    described = compile_workload(workload(CLOSED, SPEC), root, root / "out")
    _, requests = measure(root, CLOSED)
    phases = pc.cast(requests["phase"], pa.string()).to_pylist()
    assert phases.count("window") == described.requests > CLOSED.requests
    firsts = [row["turn"] for one in by_session(requests).values() if (row := one[0])["phase"] == "ramp"]
    assert max(firsts) > 0, "streams start at every stage of a session"


def test_a_session_stays_on_its_instance(root: Path) -> None:
    _, requests = measure(root, OPEN, urls=2)
    sessions = by_session(requests).values()
    assert {row["instance"] for one in sessions for row in one} == {0, 1}
    assert all(len({row["instance"] for row in one}) == 1 for one in sessions)


def test_two_workers_share_sessions_whole(root: Path) -> None:
    _, requests = measure(root, OPEN, workers=2)
    sessions = by_session(requests).values()
    assert {row["worker"] for one in sessions for row in one} == {0, 1}
    assert all(len({row["worker"] for row in one}) == 1 for one in sessions)
    assert gaps_s(requests).min() >= PAUSE_S


def test_a_session_ends_where_a_request_of_it_fails(root: Path) -> None:
    result, requests = measure(root, OPEN, "--fault", "http_error:every=5")
    failed = 0
    for one in by_session(requests).values():
        statuses = [row["status"] for row in one]
        assert set(statuses[:-1]) <= {"ok"}
        failed += statuses[-1] == "http_error"
    assert failed
    summary = metrics.summarise(requests, result.window.duration_s)
    assert summary["sessions_answered"] < summary["sessions"]
    assert "session_p90" in summary["censored"], "a session that failed is longer than all"


def test_each_turn_holds_the_turns_before_it_with_frozen_answers(root: Path) -> None:
    one = workload(OPEN, SPEC)
    compile_workload(one, root, root / "out")
    rows = read_workload(root / "out" / one.id).to_pylist()
    encoder = tokens.load(root / "model")
    sessions: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        sessions.setdefault(row["session"], []).append(row)
    assert {len(turns) for turns in sessions.values()} == {2, 3, 4}
    for turns in list(sessions.values())[:20]:
        for before, row in itertools.pairwise(turns):
            assert row["prompt"].startswith(before["prompt"] + " ")
            assert row["prompt_tokens"] == before["prompt_tokens"] + TOKENS + 6 == encoder.count(row["prompt"])
            assert (row["scheduled_s"], row["pause_s"]) == (None, PAUSE_S)
            said = json.loads(row["messages"])
            assert said[:-2] == json.loads(before["messages"])
            assert [message["role"] for message in said[-2:]] == ["assistant", "user"]
            assert " ".join(message["content"] for message in said) == row["prompt"]
            assert len(said[-2]["content"].split()) == TOKENS
        assert turns[0]["scheduled_s"] is not None


def test_agents_pause_as_their_trace_says(root: Path) -> None:
    lines = [
        {"session_id": "a", "timestamp": 0, "input_length": 30, "output_length": 4},
        {"session_id": "b", "timestamp": 500, "input_length": 20, "output_length": 4},
        {"session_id": "a", "delay": 250, "input_length": 8, "output_length": 6},
        {"session_id": "a", "delay": 40, "input_length": 9, "output_length": 5},
    ]
    (root / "agents.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    spec = {"name": "agents", "kind": "mooncake", "path": "agents.jsonl", "how_to_get": "ask"}
    one = workload(Load(rate_rps=2.0, requests=2, arrival={"process": "trace"}), spec)
    compile_workload(one, root, root / "out")
    rows = [row for row in read_workload(root / "out" / one.id).to_pylist() if row["phase"] == "window"]
    assert [row["pause_s"] for row in rows] == [None, 0.25, 0.04, None]
    assert [row["scheduled_s"] for row in rows] == [0.0, None, None, 0.5]
    assert [row["prompt_tokens"] for row in rows] == [30, 30 + 4 + 8, 42 + 6 + 9, 20], "each holds those before it"
    assert [row["output_tokens"] for row in rows] == [4, 6, 5, 4]


def test_recorded_conversations_are_sessions_with_the_recorded_answers(root: Path) -> None:
    talks = [
        {"conversations": [{"from": who, "value": text} for who, text in zip("hghg", said, strict=True)]}
        for said in (("How are you?", "Well, thanks.", "And now?", "Still well."), ("One", "two", "three", "four"))
    ]
    talks[1]["conversations"][:0] = [{"from": "system", "value": "Be brief."}, {"from": "gpt", "value": "Going on."}]
    (root / "talks.json").write_text(json.dumps(talks))
    spec = {"name": "talks", "kind": "conversations", "path": "talks.json", "how_to_get": "ask", "pause_s": 1.5}
    one = workload(Load(concurrency=1, requests=2, arrival={"process": "closed"}), spec)
    compile_workload(one, root, root / "out")
    rows = [row for row in read_workload(root / "out" / one.id).to_pylist() if row["phase"] == "window"]
    assert [row["turn"] for row in rows] == [0, 1, 0, 1]
    assert {row["prompt"] for row in rows if not row["turn"]} == {"How are you?", "One"}, "begins with a question"
    later = next(row for row in rows if "And now?" in row["prompt"])
    assert later["prompt"] == "How are you?\n\nWell, thanks.\n\nAnd now?"
    assert json.loads(later["messages"])[1] == {"role": "assistant", "content": "Well, thanks."}
    assert later["pause_s"] == 1.5
    encoder = tokens.load(root / "model")
    assert later["output_tokens"] == encoder.count("Still well.", special=False)
    few = {**spec, "filters": {"min_output_tokens": encoder.count("four", special=False) + 1}}
    short = workload(Load(concurrency=1, requests=2, arrival={"process": "closed"}), few)
    compile_workload(short, root, root / "out")
    asked = {row["prompt"] for row in read_workload(root / "out" / short.id).to_pylist()}
    assert asked == {"How are you?", later["prompt"]}, "whose answers are too short is left out"
