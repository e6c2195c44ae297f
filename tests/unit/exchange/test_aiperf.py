"""AIPerf's records as our columns: the numbers that AIPerf itself gives come out again."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from servegauge.base.errors import UserError
from servegauge.cli import main
from servegauge.contract import metrics
from servegauge.exchange.importers import importers

FILE = Path(__file__).parent / "aiperf" / "profile_export.jsonl"
RECORDS = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


def by_sent() -> list[tuple[dict, dict]]:
    """(AIPerf's record, our row), in the order in which they were sent."""
    table, _ = importers()["aiperf"].requests(FILE)
    rows = metrics.derive(table).to_pylist()
    return list(zip(sorted(RECORDS, key=lambda one: one["metadata"]["timestamp_ns"]), rows, strict=True))


def test_latencies_are_those_that_aiperf_computed() -> None:
    answered = [(one, row) for one, row in by_sent() if row["status"] == "ok"]
    assert len(answered) == 6
    for one, row in answered:
        ours = one["metrics"]
        assert row["ttft_s"] == pytest.approx(ours["ttft"]["value"] / 1e3, abs=1e-8)
        assert (row["end_ns"] - row["sent_ns"]) / 1e6 == pytest.approx(ours["request_latency"]["value"], abs=1e-5)
        assert row["output_tokens"] == ours["output_sequence_length"]["value"]
        assert row["prompt_tokens"] == ours["input_sequence_length"]["value"]
        # What AIPerf calls inter-token latency is what TPOT is here, to the last chunk instead of the trailer.
        assert row["tpot_s"] == pytest.approx(ours["inter_token_latency"]["value"] / 1e3, rel=0.02)
        assert len(row["chunk_ns"]) == len(ours["inter_chunk_latency"]["value"]) + 1


def test_gaps_are_the_pooled_inter_chunk_latencies() -> None:
    table, _ = importers()["aiperf"].requests(FILE)
    theirs = [gap for one in RECORDS for gap in one["metrics"].get("inter_chunk_latency", {"value": []})["value"]]
    assert sorted(metrics.values_of(table, "itl")) == pytest.approx([gap / 1e3 for gap in sorted(theirs)], abs=3e-9)


def test_what_aiperf_does_not_keep_is_null_and_said() -> None:
    table, notes = importers()["aiperf"].requests(FILE)
    for name in ("scheduled_ns", "connection_reused", "output_tokens_asked", "text_sha256"):
        assert table[name].null_count == len(RECORDS), name
    assert metrics.derive(table)["lateness_s"].null_count == len(RECORDS)
    assert any("when requests were due" in note for note in notes)


def test_a_failed_request_keeps_its_reason() -> None:
    failed = [row for _, row in by_sent() if row["status"] != "ok"]
    assert [row["status"] for row in failed] == ["cancelled", "cancelled"]
    assert failed[0]["error"] == "RequestCancellationError: Request was cancelled after 0.000 seconds"


def changed(tmp_path: Path, **changes: object) -> Path:
    """A file with one answered record, its parts changed."""
    one = json.loads(json.dumps(RECORDS[0]))
    for name, value in changes.items():
        one[name] = {**(one[name] or {}), **value} if isinstance(value, dict) else value
    path = tmp_path / "profile_export.jsonl"
    path.write_text(json.dumps(one) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("error", "status", "http"),
    [
        ({"code": 503, "type": "HTTPError", "message": "busy"}, "http_error", 503),
        ({"code": None, "type": "TimeoutError", "message": ""}, "timeout", None),
        ({"code": None, "type": "ClientConnectorError", "message": "refused"}, "connection_error", None),
    ],
)
def test_errors_in_our_terms(tmp_path: Path, error: dict, status: str, http: int | None) -> None:
    row = importers()["aiperf"].requests(changed(tmp_path, error=error))[0].to_pylist()[0]
    assert (row["status"], row["http_status"]) == (status, http)


def test_tpot_is_null_where_chunks_are_no_tokens_and_that_is_said(tmp_path: Path) -> None:
    metrics_of = {"output_sequence_length": {"value": 400, "unit": "tokens"}}
    table, notes = importers()["aiperf"].requests(changed(tmp_path, metrics=metrics_of))
    row = metrics.derive(table).to_pylist()[0]
    assert (row["output_tokens"], row["chunk_tokens"], row["tpot_s"]) == (400, None, None)
    assert any(note.startswith("1 answers have another number of chunks") for note in notes)


def test_newer_versions_say_when_a_request_was_due(tmp_path: Path) -> None:
    newer = {"request_start_ns": 5_000_000, "credit_issued_ns": 2_000_000, "benchmark_phase": "warmup"}
    path = changed(tmp_path, metadata={**newer, "credit_phase": None})
    assert importers()["aiperf"].recognises(path)
    row = metrics.derive(importers()["aiperf"].requests(path)[0]).to_pylist()[0]
    assert (row["lateness_s"], row["phase"]) == (pytest.approx(0.003), "warmup")


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "holds no request"), ("{}\n", ":1: is no record of AIPerf"), ("[1]\n", ":1: is no record of AIPerf")],
)
def test_another_file_is_refused_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text(text, encoding="utf-8")
    assert not importers()["aiperf"].recognises(path)
    with pytest.raises(UserError, match=words):
        importers()["aiperf"].requests(path)


def test_the_command_recognises_the_file_and_writes_what_a_load_would(tmp_path: Path, capsys) -> None:
    assert main.run(["import", str(FILE), "--out", str(tmp_path / "run.parquet")]) == 0
    said = capsys.readouterr().out
    assert said.startswith("2 cancelled, 6 ok")
    assert "ttft, ms" in said
    written = pq.read_table(tmp_path / "run.parquet")
    assert written.num_rows == 8
    assert "ttft_s" in written.column_names
