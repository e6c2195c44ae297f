"""Damaged, truncated, empty and foreign files: one message each, which names the file and says what to do."""

from __future__ import annotations

import gzip
import json
import sqlite3
from pathlib import Path

import pytest

from servegauge.base.errors import UserError
from servegauge.traces import build, readers
from servegauge.traces.breakdown import COLUMNS
from tests.unit.traces import made_up_captures as made_up


def export(folder: Path, generation: str = "3.20.3") -> Path:
    return made_up.write_nsys(folder / "made.sqlite", made_up.ranks(), generation)


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        build.read([path])
    text = str(caught.value)
    assert path.name in text
    assert "\n" not in text
    return text


def test_absent_empty_and_folder(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "absent.sqlite")
    assert "a folder; give the profiler's files, one a rank; it holds none" in refused(tmp_path)
    (tmp_path / "empty.json").write_bytes(b"")
    assert "empty" in refused(tmp_path / "empty.json")
    (tmp_path / "empty.json.gz").write_bytes(gzip.compress(b""))
    assert f"for example {tmp_path / 'empty.json'}" in refused(tmp_path)
    assert "empty inside its gzip" in refused(tmp_path / "empty.json.gz")


@pytest.mark.parametrize("share", [0.001, 0.3, 0.9, 0.999])
def test_an_sqlite_that_was_cut_off(tmp_path: Path, share: float) -> None:
    path = export(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert "cut off" in refused(path)


def test_an_sqlite_whose_pages_are_overwritten(tmp_path: Path) -> None:
    path = export(tmp_path)
    data = bytearray(path.read_bytes())
    for at in range(4096, len(data), 4096):
        data[at : at + 64] = b"\xff" * 64
    path.write_bytes(data)
    assert "damaged" in refused(path)


def test_an_sqlite_that_is_none_of_nsys(tmp_path: Path) -> None:
    path = tmp_path / "bookmarks.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE bookmarks (url TEXT)")
    db.close()
    text = refused(path)
    assert "no export of nsys" in text
    assert "bookmarks" in text


def test_an_export_of_which_nothing_is_left(tmp_path: Path) -> None:
    path = export(tmp_path)
    with sqlite3.connect(path) as db:
        for table in ("CUPTI_ACTIVITY_KIND_KERNEL", "CUPTI_ACTIVITY_KIND_MEMCPY", "CUPTI_ACTIVITY_KIND_RUNTIME"):
            db.execute(f"DELETE FROM {table}")
        db.execute("DELETE FROM NVTX_EVENTS")
    db.close()
    assert "recorded nothing of a server" in refused(path)


@pytest.mark.parametrize("version", ["4.0.0", "17.3.1", "x.y"])
def test_an_unknown_schema_is_named_with_those_that_are_known(tmp_path: Path, version: str) -> None:
    path = export(tmp_path)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE META_DATA_EXPORT SET value = ? WHERE name = 'EXPORT_SCHEMA_VERSION'", (version,))
    db.close()
    text = refused(path)
    assert version in text
    assert "nsys sqlite exports of schema 1 to 3, or without version" in text


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE CUPTI_ACTIVITY_KIND_RUNTIME SET start = 'soon' WHERE correlationId = 5",
        "UPDATE CUPTI_ACTIVITY_KIND_KERNEL SET start = start + 0.5",
        "UPDATE NVTX_EVENTS SET start = 'x' WHERE rowid = 1",
        "UPDATE TARGET_INFO_SESSION_START_TIME SET utcEpochNs = 'noon'",
    ],
)
def test_a_value_that_is_no_number(tmp_path: Path, change: str) -> None:
    path = export(tmp_path)
    with sqlite3.connect(path) as db:
        db.execute(change)
    db.close()
    assert "no integer" in refused(path)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
@pytest.mark.parametrize("packed", [True, False])
def test_a_chrome_trace_that_was_cut_off(tmp_path: Path, share: float, packed: bool) -> None:
    path = made_up.write_chrome(tmp_path, made_up.ranks(count=1), packed)[0]
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    text = refused(path)
    assert "cut off" in text or "damaged" in text


def test_a_gzip_with_a_wrong_checksum(tmp_path: Path) -> None:
    path = made_up.write_chrome(tmp_path, made_up.ranks(count=1))[0]
    data = bytearray(path.read_bytes())
    data[-6] ^= 0xFF
    path.write_bytes(data)
    assert "damaged" in refused(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"hello": 1}, "without traceEvents"),
        ({"traceEvents": []}, "recorded nothing"),
        ({"traceEvents": [{"ph": "M", "name": "process_name"}]}, "recorded nothing"),
        ({"traceEvents": "none"}, "no Chrome trace"),
        ([{"ph": "X", "cat": "devtools", "name": "paint", "ts": 1, "dur": 2}], "not of PyTorch's profiler"),
        ([1, 2, 3], "no Chrome trace"),
        ([{"ph": "X", "name": "hipMemcpy", "pid": 2, "ts": "36", "dur": "2"}], "its events have no category"),
        ({"rocprofiler-sdk-tool": [{"buffer_records": {}}]}, "without traceEvents"),
    ],
)
def test_json_that_is_no_trace_of_torch(tmp_path: Path, content: object, said: str) -> None:
    path = tmp_path / "some.json"
    path.write_text(json.dumps(content))
    assert said in refused(path)


def test_other_formats_are_called_by_their_names(tmp_path: Path) -> None:
    for name, head, said in (
        ("x.zip", b"PK\x03\x04rest", "zip"),
        ("x.parquet", b"PAR1rest", "parquet"),
        ("x.txt", b"hello, this is a log", "text that begins"),
        ("x.pftrace", b"\x0a\x8f\x01\x08" * 20, "bytes that begin"),
        ("x.ncu-rep", b"NVR\x00" + bytes(60), "bytes that begin 4e565200"),
        ("x.bin", b"\x00\xff\xfe\xfd" * 20, "bytes that begin"),
    ):
        path = tmp_path / name
        path.write_bytes(head)
        text = refused(path)
        assert said in text
        assert "nsys reports" in text  # and what can be read


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ts", 1e300), ("ts", None), ("ts", "soon"), ("dur", None), ("dur", -5), ("dur", 1e300), ("name", None),
        ("tid", [1]), ("pid", {}), ("args", None),
        ("correlation", 2**70), ("correlation", "a"), ("device", 70_000), ("device", "gpu"), ("bytes", 2**66),
        ("grid", ["a"] * 3), ("In msg nelems", 2**62),
    ],
)  # fmt: skip
def test_events_of_a_chrome_trace_that_are_not_as_they_should_be(tmp_path: Path, field: str, value: object) -> None:
    """Every third event has it: what can be read is read, and the invariant holds."""
    document = made_up.chrome(made_up.rank())
    for event in document["traceEvents"][::3]:
        (event if field in ("ts", "dur", "name", "tid", "pid", "args") else event["args"])[field] = value
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(document))
    tables = build.tables("odd", build.read([path]))
    assert tables["traces"].num_rows >= 1
    for row in (*tables["traces"].to_pylist(), *tables["steps"].to_pylist()):
        parts = [row[name] for name in COLUMNS[2:]]
        assert row["span_ns"] is None or sum(parts) == row["span_ns"]
    assert {row["device"] for row in tables["traces"].to_pylist()} <= {0, None}


@pytest.mark.parametrize("rank", ["0", -5, 2**40, 1.5, None])
def test_a_rank_that_is_none(tmp_path: Path, rank: object) -> None:
    document = made_up.chrome(made_up.rank()) | {"distributedInfo": {"rank": rank}}
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(document))
    assert build.tables("odd", build.read([path]))["traces"]["rank"].to_pylist() == [0]


def test_nan_that_kineto_writes_is_read(tmp_path: Path) -> None:
    path = made_up.write_chrome(tmp_path, made_up.ranks(count=1), packed=False)[0]
    path.write_text(path.read_text().replace('"dtype": "BFloat16"', '"dtype": "BFloat16", "bandwidth": NaN'))
    assert len(build.read([path]).operations) == 13


def test_a_report_of_nsys_is_exported_by_the_nsys_that_is_there(tmp_path: Path, monkeypatch) -> None:
    report = tmp_path / "made.nsys-rep"
    report.write_bytes(b"NVIDIA Tegra Profiler Report 1..")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert "no `nsys` on the PATH" in refused(report)

    export(tmp_path).rename(tmp_path / "exported")
    nsys = tmp_path / "nsys"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    nsys.write_text(
        '#!/bin/sh\nfor last; do [ "$before" = --output ] && out=$last; before=$last; done\n'
        f'cp {tmp_path}/exported "$out"\n'
    )
    nsys.chmod(0o755)
    assert len(build.read([report]).operations) == 26
    assert build.read([report]).file == report.name

    nsys.write_text("#!/bin/sh\necho 'cannot import' >&2; exit 3\n")
    text = refused(report)
    assert "failed (3)" in text
    assert "cannot import" in text


def test_a_file_that_is_given_twice(tmp_path: Path) -> None:
    chrome = made_up.write_chrome(tmp_path, made_up.ranks(count=1))[0]
    with pytest.raises(UserError, match="given twice"):
        build.read([chrome, tmp_path / "." / chrome.name])


def test_ranks_of_different_profilers_are_not_mixed(tmp_path: Path) -> None:
    chrome = made_up.write_chrome(tmp_path, made_up.ranks(count=1))[0]
    with pytest.raises(UserError, match="different profilers"):
        build.read([export(tmp_path), chrome])


def test_every_reader_says_what_it_reads() -> None:
    found = readers.readers()
    assert len(found) >= 3
    for reader in found:
        assert reader.KNOWN
        assert not reader.reads(readers.Source(Path("x"), "x", "zip"))
