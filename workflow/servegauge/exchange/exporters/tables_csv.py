"""CSV for spreadsheets: the cells of a study and its comparison."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from servegauge.base.files import write_text
from servegauge.base.text import csv_text
from servegauge.contract import tables
from servegauge.contract.spec import canonical_json
from servegauge.dataset import merge
from servegauge.exchange.formats import Exporter


class TablesCsv(Exporter):
    name = "csv"
    writes = "cells.csv and comparison.csv of the study, and columns.csv with unit and meaning of each column"

    def export(self, results: Path, study: str, out: Path) -> list[Path]:
        asked = {row["cell"] for row in merge.read(results, "study_cells").to_pylist() if row["study"] == study}
        cells = [row for row in merge.read(results, "cells").to_pylist() if row["cell"] in asked]
        compared = [row for row in merge.read(results, "comparison").to_pylist() if row["study"] == study]
        out.mkdir(parents=True, exist_ok=True)
        _write(out / "cells.csv", tables.CELLS.names, cells)
        _write(out / "comparison.csv", tables.TABLES["comparison"].names, compared)
        about = [*_columns("cells", tables.CELLS), *_columns("comparison", tables.TABLES["comparison"])]
        _write(out / "columns.csv", ["table", "column", "unit", "meaning"], about)
        return [out / "cells.csv", out / "comparison.csv", out / "columns.csv"]


def _write(path: Path, names: list[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Lists as JSON."""
    write_text(path, csv_text(names, ({name: _text(value) for name, value in row.items()} for row in rows)))


def _text(value: Any) -> Any:
    return canonical_json(value) if isinstance(value, list | dict) else value


def _columns(table: str, schema: pa.Schema) -> list[dict[str, str]]:
    rows = []
    for field in schema:
        about = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
        rows.append({"table": table, "column": field.name, "unit": about.get("unit", ""),
                     "meaning": about["description"]})  # fmt: skip
    return rows
