"""Traces in the dataset: a row each in `traces`, and the tables of each in one Parquet file per table and trace.

A trace whose files are not what its trace.json says is corrupt, as a cell is; one that failed is a row with its reason.
A part names what it was made from in its footer, and is made again only where that changed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from servegauge.base.errors import UserError
from servegauge.base.files import sha256
from servegauge.contract.columns import SchemaError, conform, write
from servegauge.contract.records.base import DamagedRecord, NewerRecord, decode
from servegauge.contract.records.cell import FileHash
from servegauge.contract.records.specs import CellSpec
from servegauge.contract.records.trace import TraceRecord
from servegauge.contract.spec import digest
from servegauge.contract.trace_tables import IN_DATASET, TRACE_TABLES, TRACED
from servegauge.dataset.catalogue import read_parquet
from servegauge.dataset.launch_parts import CorruptCell, constant, part_path, read_file
from servegauge.traces import build

FOOTER = b"servegauge_trace"
CODE = digest([[name, column.name, str(column.type)] for name, schema in IN_DATASET.items() for column in schema], 12)
LATER = ("request_ttft",)  # tables that traces of earlier versions do not have
FILES = dict(zip(TRACE_TABLES, IN_DATASET, strict=True))  # <table>.parquet of a trace -> table of the dataset


@dataclass
class Traces:
    """Rows of `traces`, corrupt traces with the reason, and what is left out and why."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    corrupt: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def read_tables(dataset: Path, trace: str) -> dict[str, pa.Table]:
    """The tables of a measured trace, by their names in TRACE_TABLES."""
    found = {}
    for file, table in FILES.items():
        path = part_path(dataset, table, trace)
        late = file in LATER and not path.exists()  # merged by an earlier version
        found[file] = TRACE_TABLES[file].empty_table() if late else read_parquet(path)
    return found


def condition(spec: CellSpec) -> str:
    """The load of a planned trace, in words."""
    return f"{spec.prompts['name']}, {spec.load.words()}"


def merge_traces(results: Path, dataset: Path, timed_tpot_s: Mapping[str, float | None]) -> Traces:
    """Bring the tables of every trace under results/traces/ up to date; `timed_tpot_s`: median TPOT by timed cell."""
    found = Traces()
    kept: set[str] = set()
    folder = results / "traces"
    for name in sorted(entry.name for entry in os.scandir(folder)) if folder.is_dir() else []:
        if name.startswith("."):  # being written, or left by a process that was killed
            continue
        try:
            data = (folder / name / "trace.json").read_bytes()
            record = decode(data, TraceRecord, folder / name / "trace.json")
            if record.trace != name:
                raise CorruptCell(f"trace.json is of another trace, {record.trace}")
            row = _row(record)
            if record.status == "ok":
                try:
                    _bring_up_to_date(folder / name, dataset, data, record, timed_tpot_s.get(record.cell or ""))
                    kept.add(name)
                except UserError as error:  # sound, but not what we can read: another merge may
                    row |= {"status": "failed", "reason": f"its capture was not read: {error}"}
            found.rows.append(row)
        except NotADirectoryError:
            found.warnings.append(f"{folder / name} is no folder and is left out")
        except FileNotFoundError:
            if any((folder / name).iterdir()):  # Snakemake makes the folder of a target before it runs the rule
                found.corrupt[name] = "it has no trace.json"
        except NewerRecord as error:
            found.warnings.append(str(error))
        except DamagedRecord as error:
            found.corrupt[name] = f"trace.json is not readable: {error.reason}"
        except CorruptCell as error:
            found.corrupt[name] = str(error)
    for table in IN_DATASET:
        for path in (dataset / table).glob("*.parquet"):
            if path.stem not in kept:
                path.unlink()
    return found


def _row(record: TraceRecord) -> dict[str, Any]:
    """The row of a trace in TRACED."""
    return {name: getattr(record, name) for name in TRACED.names}


def _bring_up_to_date(folder: Path, dataset: Path, data: bytes, record: TraceRecord, timed_s: float | None) -> None:
    """Write the parts of one trace, if they were made from something else; CorruptCell where a file is not as said."""
    overhead = record.tpot_p50_s / timed_s if record.tpot_p50_s and timed_s else None
    made_from = digest([CODE, hashlib.sha256(data).hexdigest(), overhead], 32).encode()
    paths = {file: part_path(dataset, table, record.trace) for file, table in FILES.items()}
    if all(_footer(path) == made_from for path in paths.values()):
        return
    read = _from_captures(folder, record) if record.captures else _from_tables(folder, record)
    tables = {}
    for file, table in FILES.items():
        try:
            tables[file] = conform(_named(read[file], record.trace, overhead), IN_DATASET[table])
        except SchemaError as error:
            raise CorruptCell(str(error)) from error
    for file, path in paths.items():
        metadata = {**(tables[file].schema.metadata or {}), FOOTER: made_from}
        write(tables[file].replace_schema_metadata(metadata), path)


def _from_tables(folder: Path, record: TraceRecord) -> dict[str, pa.Table]:
    """The tables that `servegauge trace` wrote beside trace.json."""
    found = {}
    for file in FILES:
        written = record.files.get(f"{file}.parquet")
        if written is None and file in LATER:
            found[file] = TRACE_TABLES[file].empty_table()
        elif written is None:
            raise CorruptCell(f"trace.json names no {file}.parquet")
        else:
            found[file] = read_file(folder, f"{file}.parquet", written)
    return found


def _from_captures(folder: Path, record: TraceRecord) -> dict[str, pa.Table]:
    """The tables of what the profiler wrote, on the clock of the trace's requests; UserError where it is unreadable."""
    for name in (*record.captures, *(["requests.parquet"] if "requests.parquet" in record.files else [])):
        if name not in record.files:
            raise CorruptCell(f"trace.json names no {name}")
        path, written = folder / name, record.files[name]
        if not path.is_file():
            raise CorruptCell(f"{name} is gone")
        if damage := written.damage(name, FileHash(sha256=sha256(path), bytes=path.stat().st_size)):
            raise CorruptCell(damage)
    window = folder / "requests.parquet" if "requests.parquet" in record.files else None
    return build.of_files(record.trace, [folder / name for name in record.captures], window)


def _footer(path: Path) -> bytes | None:
    """What a part was made from; None where there is none that can be read."""
    try:
        return (pq.read_metadata(path).metadata or {}).get(FOOTER)
    except (OSError, pa.ArrowException):
        return None


def _named(table: pa.Table, trace: str, overhead: float | None) -> pa.Table:
    """`table` under the name of the trace, whatever its profiler's file was called; with what profiling cost."""
    if "trace" in table.column_names:
        table = table.set_column(table.column_names.index("trace"), "trace", constant(trace, table))
    if "overhead_ratio" in table.column_names:
        values = pa.array([overhead] * table.num_rows, pa.float64())
        table = table.set_column(table.column_names.index("overhead_ratio"), "overhead_ratio", values)
    return table
