"""The command alone: what it prints, what it writes, and how it refuses."""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from servegauge.cli.main import run
from servegauge.contract.trace_tables import TRACE_TABLES
from tests.parquet_files import check_file
from tests.unit.traces import made_up_captures as made_up

CAPTURE = Path(__file__).parents[1] / "traces" / "captures" / "vllm_h100_eager.sqlite.gz"


def test_the_phase_table_and_the_files(tmp_path: Path, capsys) -> None:
    assert run(["trace", str(CAPTURE), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "30 steps (annotated), 14,294 kernels, 100.0% of them in steps" in printed
    rows = {line.split()[0]: line.split() for line in printed.splitlines() if line}
    assert rows["decode"][:9] == ["decode", "waits", "for", "the", "CPU:", "GPU", "busy", "33", "%"]
    table = next(line.split() for line in printed.splitlines() if line.startswith("decode "))
    assert table[:7] == ["decode", "22", "64", "20.123", "19.043", "6.590", "32.7"]
    assert rows["sampling"]
    for name, schema in TRACE_TABLES.items():
        check_file(tmp_path / "out" / f"{name}.parquet", schema)
    assert pq.read_table(tmp_path / "out" / "traces.parquet")["trace"].to_pylist() == ["vllm_h100_eager"]
    with (tmp_path / "out" / "phases.csv").open(newline="") as file:
        assert [row["phase"] for row in csv.DictReader(file)] == ["prefill", "mixed", "decode", "sampling"]


def test_several_ranks_and_no_folder(tmp_path: Path, capsys) -> None:
    paths = made_up.write_chrome(tmp_path, made_up.ranks())
    assert run(["trace", *map(str, paths)]) == 0
    printed = capsys.readouterr().out
    assert "rank 0, device 0" in printed
    assert "rank 1, device 1" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rank0.json.gz", "rank1.json.gz"]


def test_a_folder_that_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(SystemExit):
        run(["trace", str(CAPTURE), "--out", str(tmp_path / "out")])
    assert "out is a file, not a folder; give another path" in capsys.readouterr().err


def test_help_has_an_example(capsys) -> None:
    with pytest.raises(SystemExit):
        run(["trace", "--help"])
    assert "servegauge trace vllm.sqlite --out" in capsys.readouterr().out
