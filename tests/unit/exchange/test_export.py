"""A study as CSV: every cell, every ratio, and what the columns mean."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from servegauge.cli import main
from servegauge.compare.tables import write_tables
from servegauge.contract import tables
from servegauge.dataset import merge
from tests import synthetic


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("export")
    synthetic.make_results(root, requests=20)
    merge.merge(root / "results")
    write_tables(root / "results")
    return root / "results"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_cell_and_every_ratio_is_a_line(results: Path, tmp_path: Path, capsys) -> None:
    assert main.run(["export", "demo", "--format", "csv", "--results", str(results), "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.split() == [
        str(tmp_path / f"{name}.csv") for name in ("cells", "comparison", "columns")
    ]
    cells = {row["cell"]: row for row in rows(tmp_path / "cells.csv")}
    expected = {row["cell"]: row for row in merge.read(results, "cells").to_pylist()}
    assert cells.keys() == expected.keys()
    for name, row in expected.items():
        assert cells[name]["ttft_p50_s"] == ("" if row["ttft_p50_s"] is None else repr(row["ttft_p50_s"]))
    assert len(rows(tmp_path / "comparison.csv")) == merge.read(results, "comparison").num_rows > 0
    about = {(row["table"], row["column"]): row for row in rows(tmp_path / "columns.csv")}
    assert about[("cells", "ttft_p50_s")]["unit"] == "s"
    assert {column for table, column in about if table == "cells"} == set(tables.CELLS.names)
