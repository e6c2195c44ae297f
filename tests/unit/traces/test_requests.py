"""The clock that joins a capture to its requests, and the steps of each request."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from servegauge.base.errors import UserError
from servegauge.traces import build, requests
from tests.unit.traces import made_up_captures as made_up

MONOTONIC_NS = 5_000_000_000_000  # CLOCK_MONOTONIC when the requests' window began
WINDOW_NS = 400_000  # and the capture's time then


def window(folder: Path, clock: dict | None, beside: bool = False) -> Path:
    """Two requests: one from step 0 to step 2, one that is sent in step 1 and has prefill in none that follows."""
    rows = {
        "request": [0, 1, 2],
        "phase": ["window", "window", "warmup"],
        "sent_ns": [at - WINDOW_NS for at in (950_000, 1_600_000, 0)],
        "last_ns": [at - WINDOW_NS for at in (2_000_000, 2_120_000, 1)],
        "end_ns": [at - WINDOW_NS for at in (2_000_000, 2_120_000, 1)],
    }
    table = pa.table(rows)
    if clock is not None and not beside:
        table = table.replace_schema_metadata({"clock": json.dumps(clock)})
    if beside:
        (folder / "cell.json").write_text(json.dumps({"clock": clock}))
    path = folder / "run.parquet"
    pq.write_table(table, path)
    return path


def clock(offset_ns: int) -> dict:
    return {"window_start_ns": MONOTONIC_NS, "epoch_offset_start_ns": offset_ns, "epoch_offset_end_ns": offset_ns}


def read(folder: Path, path: Path, rank=None) -> dict[str, list]:
    export = made_up.write_nsys(folder / "made.sqlite", [rank or made_up.rank()])
    tables = build.tables("made", build.read([export]), requests.read(path))
    return {name: table.to_pylist() for name, table in tables.items()}


# Unix time when the window began is EPOCH_NS + WINDOW_NS.
EPOCH_OFFSET_NS = made_up.EPOCH_NS + WINDOW_NS - MONOTONIC_NS


@pytest.mark.parametrize("beside", [False, True])
def test_joined_by_unix_time(tmp_path: Path, beside: bool) -> None:
    tables = read(tmp_path, window(tmp_path, clock(EPOCH_OFFSET_NS), beside))
    row = tables["traces"][0]
    assert (row["clock_source"], row["clock_error_ns"]) == ("epoch", None)
    assert "clock error not measured" in row["reason"]
    assert row["epoch_offset_ns"] == made_up.EPOCH_NS + WINDOW_NS
    assert tables["steps"][0]["start_ns"] == 1_000_000 - WINDOW_NS
    check(tables["request_steps"])


def check(rows: list[dict]) -> None:
    found = [(row["request"], row["step"], row["phase"], row["overlap_ns"]) for row in rows]
    assert found == [
        (0, 0, "prefill", 500_000),
        (0, 1, "mixed", 400_000),
        (0, 2, "decode", 100_000),
        (1, 1, "mixed", 300_000),
        (1, 2, "decode", 220_000),
    ]
    per_request = {row["request"]: (row["queue_ns"], row["prefill_steps"], row["decode_steps"]) for row in rows}
    assert per_request == {0: (50_000, 2, 2), 1: (None, 1, 2)}
    assert {row["membership"] for row in rows} == {"time"}


def test_joined_by_markers_whose_spread_is_the_error(tmp_path: Path) -> None:
    rank = made_up.rank()
    begin = MONOTONIC_NS - WINDOW_NS  # CLOCK_MONOTONIC at the capture's zero
    for at, late in ((910_000, 0), (1_450_000, 300), (2_140_000, 120)):
        rank.ranges.append(made_up.Range(at, at + 10, f"servegauge:clock:{begin + at - late}"))
    # The Unix time is wrong by a second, and not used.
    tables = read(tmp_path, window(tmp_path, clock(EPOCH_OFFSET_NS + 1_000_000_000)), rank)
    row = tables["traces"][0]
    assert (row["clock_source"], row["clock_error_ns"], row["steps"]) == ("marker", 300, 5)
    assert row["reason"] is None
    assert tables["steps"][0]["start_ns"] == 1_000_000 - WINDOW_NS
    check(tables["request_steps"])


def test_requests_that_say_nothing_of_their_clock_are_not_joined(tmp_path: Path) -> None:
    tables = read(tmp_path, window(tmp_path, None))
    row = tables["traces"][0]
    assert (row["clock_source"], row["clock_error_ns"]) == ("none", None)
    assert "not joined with the requests" in row["reason"]
    assert tables["request_steps"] == []
    assert tables["steps"][0]["start_ns"] == 1_000_000


@pytest.mark.parametrize("content", ["text", "other columns", "two cells", "absent"])
def test_files_that_are_no_requests_of_one_window(tmp_path: Path, content: str) -> None:
    path = tmp_path / "run.parquet"
    if content == "text":
        path.write_text("hello")
    elif content == "other columns":
        pq.write_table(pa.table({"request": [1]}), path)
    elif content == "two cells":
        columns = {name: [1, 2] for name in ("request", "sent_ns", "last_ns", "end_ns")}
        pq.write_table(pa.table(columns | {"cell": ["a", "b"]}), path)
    with pytest.raises(UserError, match=r"run\.parquet"):
        requests.read(path)
