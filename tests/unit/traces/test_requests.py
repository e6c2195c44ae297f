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


def stamped(folder: Path, offset_ns: int | None, **stamps: list) -> Path:
    """The window with the record of a launch beside it, which took stamps around its calls to the profiler."""
    path = window(folder, None)
    said = {"window_start_ns": MONOTONIC_NS} | ({} if offset_ns is None else {"epoch_offset_start_ns": offset_ns})
    record = {"clock": said, "recorders": {"scraper": {"instances": []}, "a_profiler": {"stamps_ns": stamps}}}
    (folder / "trace.json").write_text(json.dumps(record))
    return path


BEGIN_NS = MONOTONIC_NS - WINDOW_NS  # CLOCK_MONOTONIC at the capture's zero
# The capture's first event is at 900,000 (the range before it, of another library, is no step), its last at 2,340,000.
STAMPS = {"start": [BEGIN_NS + 850_000, BEGIN_NS + 890_000], "stop": [BEGIN_NS + 2_400_000, BEGIN_NS + 2_410_000]}


def test_the_calls_to_the_profiler_bound_the_error_of_unix_time(tmp_path: Path) -> None:
    for wrong, low, high in ((0, 50_000, 70_000), (-40_000, 10_000, 110_000), (30_000, 80_000, 40_000)):
        folder = tmp_path / str(wrong)
        folder.mkdir()
        row = read(folder, stamped(folder, EPOCH_OFFSET_NS - wrong, **STAMPS))["traces"][0]
        assert (row["clock_source"], row["clock_error_ns"]) == ("epoch", max(low, high)), wrong
        assert row["reason"] is None


def test_a_unix_time_that_the_calls_rule_out_is_not_used(tmp_path: Path) -> None:
    for number, offset in enumerate((EPOCH_OFFSET_NS + 1_000_000_000, EPOCH_OFFSET_NS - 2_000_000_000, None)):
        folder = tmp_path / str(number)
        folder.mkdir()
        tables = read(folder, stamped(folder, offset, **STAMPS))
        row = tables["traces"][0]
        # Between 50,000 too early and 70,000 too late: the middle, and half of that.
        assert (row["clock_source"], row["clock_error_ns"]) == ("calls", 60_000)
        assert tables["steps"][0]["start_ns"] == 1_000_000 - WINDOW_NS + 10_000
        assert ("not used" in (row["reason"] or "")) == (offset is not None)


def test_a_recording_begins_inside_the_call_that_started_it(tmp_path: Path) -> None:
    document = made_up.chrome(made_up.rank())
    document["traceEvents"].append({"ph": "X", "cat": "Trace", "name": "PyTorch Profiler (0)", "pid": "Spans", "tid": 1,
                                    "ts": 870.0, "dur": 1480.0})  # fmt: skip
    export = tmp_path / "rank.json"
    export.write_text(json.dumps(document))
    tables = build.tables("made", build.read([export]), requests.read(stamped(tmp_path, EPOCH_OFFSET_NS, **STAMPS)))
    # It began 20 us after it was asked for, and 20 us before that was answered.
    assert tables["traces"].to_pylist()[0]["clock_error_ns"] == 20_000
    assert tables["steps"].to_pylist()[0]["start_ns"] == 1_000_000 - WINDOW_NS


@pytest.mark.parametrize(
    "stamps",
    [
        {},
        {"start": [None, None], "stop": [1, 2]},
        {"start": [BEGIN_NS + 850_000, BEGIN_NS + 890_000]},  # it was never stopped: bounded on one side alone
        {"start": [BEGIN_NS + 2_000_000, BEGIN_NS + 2_100_000], "stop": [BEGIN_NS, BEGIN_NS + 1]},
        {"start": "soon", "stop": [True, 2.5]},
    ],
)
def test_stamps_that_bound_nothing_leave_the_error_unmeasured(tmp_path: Path, stamps: dict) -> None:
    row = read(tmp_path, stamped(tmp_path, EPOCH_OFFSET_NS, **stamps))["traces"][0]
    assert (row["clock_source"], row["clock_error_ns"]) == ("epoch", None)
    assert "clock error not measured" in row["reason"]


def test_requests_that_say_nothing_of_their_clock_are_not_joined(tmp_path: Path) -> None:
    tables = read(tmp_path, window(tmp_path, None))
    row = tables["traces"][0]
    assert (row["clock_source"], row["clock_error_ns"]) == ("none", None)
    assert "not joined with the requests" in row["reason"]
    assert tables["request_steps"] == []
    assert tables["steps"][0]["start_ns"] == 1_000_000


def test_requests_of_another_window_are_said_to_be(tmp_path: Path) -> None:
    for number, (wrong, said) in enumerate(((10**10, "10.0 s before it"), (-(10**10), "10.0 s after its end"))):
        folder = tmp_path / str(number)
        folder.mkdir()
        tables = read(folder, window(folder, clock(EPOCH_OFFSET_NS - wrong)))
        assert tables["request_steps"] == []
        assert f"no request was under way during the capture, the nearest {said}" in tables["traces"][0]["reason"]


@pytest.mark.parametrize("content", ["text", "other columns", "two cells", "texts", "token", "absent"])
def test_files_that_are_no_requests_of_one_window(tmp_path: Path, content: str) -> None:
    path = tmp_path / "run.parquet"
    if content == "text":
        path.write_text("hello")
    elif content == "other columns":
        pq.write_table(pa.table({"request": [1]}), path)
    elif content == "two cells":
        columns = {name: [1, 2] for name in ("request", "sent_ns", "last_ns", "end_ns")}
        pq.write_table(pa.table(columns | {"cell": ["a", "b"]}), path)
    elif content == "texts":
        pq.write_table(pa.table({name: ["a", "b"] for name in ("request", "sent_ns", "last_ns", "end_ns")}), path)
    elif content == "token":
        columns = {name: [1] for name in ("request", "sent_ns", "last_ns", "end_ns")}
        pq.write_table(pa.table(columns | {"first_token_ns": ["soon"]}), path)
    with pytest.raises(UserError, match=r"run\.parquet"):
        requests.read(path)
