"""The large tables of the dataset, one part per launch: made from its cells, cell by cell, and only when they changed.

A part of `requests` carries in its footer which cells it was made from (SHA-256 of each cell.json), where each is
(row groups) and each cell's summary. So a part is its own manifest: whole or absent, never out of step, and a merge
that finds nothing changed reads a footer and no request. Memory is that of the largest cell, not of the study.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from servegauge.base.files import whole_file
from servegauge.contract import activity, cell_tables, energy, metric_registry, metrics, speculation, tables
from servegauge.contract.columns import Row
from servegauge.contract.records.base import DamagedRecord, NewerRecord, decode, plain
from servegauge.contract.records.cell import CellRecord, Clock, FileHash
from servegauge.contract.spec import canonical_json, digest
from servegauge.dataset.catalogue import parted

FOOTER = "servegauge_part"
ROW_GROUP = 1 << 20  # rows; a cell begins a row group of its own
SLO_COLUMNS = ("status", "phase", "last_ns", *(field.name for field in cell_tables.DERIVED))

_NEEDED = {name for metric in metric_registry.metrics().values() for name in metric.needs}
_SUMMARISED = [
    name
    for name in cell_tables.REQUESTS.names
    if name in _NEEDED or name not in ("chunk_tokens", "cell", "launch", "error")
]
"""What a summary may need: without the other lists, taking the window's rows costs half."""

_KEPT = ("attempt", "protocol", "workload_sha256", "started_utc", "finished_utc", "reset_s")  # of cell.json as it is

FORMAT = 5
"""Of a part: raise it when `measured` gives other numbers for the same cell. Metrics have versions of their own."""

CODE = digest(
    [
        FORMAT,
        metrics.formulas_version(),
        [[table, field.name, str(field.type)] for table, schema in parted().items() for field in schema],
    ],
    12,
)
"""Parts that other formulas, or for other columns, made are made again."""


class CorruptCell(Exception):
    """A measured cell's files are not what its cell.json says. The text is the reason."""


@dataclass(frozen=True)
class Entry:
    """What a part knows of one of its cells."""

    cell: str
    cell_sha256: str
    row_groups: tuple[int, int]  # first, count
    row: Row  # the measured columns of CELLS
    slos: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # limits as canonical JSON -> goodput


@dataclass(frozen=True)
class Part:
    """The requests of one launch on disk, and its entries by cell."""

    path: Path
    entries: Mapping[str, Entry]

    def read(self, cell: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The requests of `cell`, warm-up included; `columns` of them only, where given."""
        first, count = self.entries[cell].row_groups
        with pq.ParquetFile(self.path) as file:
            return file.read_row_groups(range(first, first + count), columns=list(columns) if columns else None)

    def goodput(self, cell: str, limits: Mapping[str, float]) -> Mapping[str, Any]:
        """Goodput of `cell` under `limits`: from the footer, or computed where the part was made without them."""
        entry = self.entries[cell]
        known = entry.slos.get(canonical_json(limits))
        return known or goodput(self.read(cell, SLO_COLUMNS), limits, entry.row)


@dataclass
class Made:
    """What came of making a part: None where no cell is sound; the corrupt cells, in no part, with the reason."""

    part: Part | None = None
    corrupt: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def part_path(dataset: Path, table: str, launch: str) -> Path:
    """The file of a launch's part of a table, or of a trace's."""
    return dataset / table / f"{launch}.parquet"


def open_part(dataset: Path, launch: str, by_this_code: bool = True) -> Part | None:
    """The part of `launch`, or None where there is none (that this code made, unless any will do)."""
    path = part_path(dataset, "requests", launch)
    try:
        footer = (pq.read_metadata(path).metadata or {}).get(FOOTER.encode())
        written = json.loads(footer) if footer else {}
    except (OSError, ValueError):  # absent, or not ours to read: made again
        return None
    if not written or (by_this_code and written["code"] != CODE):
        return None
    entries = [Entry(**{**entry, "row_groups": tuple(entry["row_groups"])}) for entry in written["cells"]]
    return Part(path, {entry.cell: entry for entry in entries})


def make_part(
    results: Path, dataset: Path, launch: str, cells: Mapping[str, str], slos: Iterable[Mapping[str, float]]
) -> Made:
    """Write the parts of `launch` from `cells` (cell -> SHA-256 of its cell.json), whole or not at all.

    Without cells the parts disappear. The goodput under each of `slos` is kept in the footer.
    """
    made = Made()
    entries: list[Entry] = []
    slos = list(slos)
    paths = {table: part_path(dataset, table, launch) for table in parted()}
    with ExitStack() as stack:
        # Leaving the stack renames in the reverse order: the requests, whose footer vouches for all, come last.
        writers = {table: stack.enter_context(_Writer(paths[table], schema)) for table, schema in parted().items()}
        for cell, cell_sha256 in cells.items():
            try:
                entries.append(_add(results / "cells" / cell, cell_sha256, launch, writers, slos, made.warnings))
            except NewerRecord as error:
                made.warnings.append(str(error))
            except CorruptCell as error:
                made.corrupt[cell] = str(error)
        if entries:
            footer = {"code": CODE, "launch": launch, "cells": [asdict(entry) for entry in entries]}
            writers["requests"].footer = json.dumps(footer, allow_nan=False)
            made.part = Part(paths["requests"], {entry.cell: entry for entry in entries})
    return made


def goodput(requests: pa.Table, limits: Mapping[str, float], row: Row) -> dict[str, Any]:
    """Columns of CELL_SLOS for the requests of a cell with this row of CELLS; only SLO_COLUMNS of them are read."""
    narrow = requests.select([name for name in SLO_COLUMNS if name in requests.column_names])
    return dict(metrics.goodput(narrow, limits, row["window_s"], row["loop"]))


class _Writer:
    """One part being written, opened by its first table; where none comes, an older part disappears."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.schema = path, schema
        self.groups = 0
        self.footer: str | None = None
        self._stack = ExitStack()
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> _Writer:
        return self

    def _open(self) -> pq.ParquetWriter:
        temporary = self._stack.enter_context(whole_file(self.path))
        stamps = [column.name for column in self.schema if column.type == pa.int64()]
        words = [column.name for column in self.schema if column.type == tables.WORD]
        if "chunk_ns" in self.schema.names:  # the bulk of the dataset: differences are small, counts repeat
            stamps.append("chunk_ns.list.element")
            words.append("chunk_tokens.list.element")
        return self._stack.enter_context(
            pq.ParquetWriter(
                temporary,
                self.schema,
                compression="zstd",
                compression_level=1,
                use_dictionary=words,
                column_encoding=dict.fromkeys(stamps, "DELTA_BINARY_PACKED"),
            )
        )

    def write(self, table: pa.Table) -> tuple[int, int]:
        """Append `table` in row groups of its own; returns the first and how many."""
        self._writer = self._writer or self._open()
        first = self.groups
        if table.num_rows:
            self._writer.write_table(table, row_group_size=ROW_GROUP)
            self.groups += -(-table.num_rows // ROW_GROUP)
        return first, self.groups - first

    def __exit__(self, *error: Any) -> None:
        if self._writer and self.footer:
            self._writer.add_key_value_metadata({FOOTER: self.footer})
        self._stack.__exit__(*error)
        if self._writer is None and error[0] is None:
            self.path.unlink(missing_ok=True)


def read_cell(folder: Path, cell_sha256: str) -> CellRecord:
    """The cell.json in `folder`; CorruptCell where it is not one, NewerRecord where we cannot read it yet."""
    data = (folder / "cell.json").read_bytes()
    if hashlib.sha256(data).hexdigest() != cell_sha256:
        raise CorruptCell("cell.json changed while it was read")
    try:
        record = decode(data, CellRecord, folder / "cell.json")
    except NewerRecord:
        raise
    except DamagedRecord as error:
        raise CorruptCell(f"cell.json is not readable: {error.reason}") from error
    if record.cell != folder.name:
        raise CorruptCell(f"cell.json is of another cell, {record.cell}")
    if record.window is None:
        raise CorruptCell("cell.json has no window")
    if "requests.parquet" not in record.files:
        raise CorruptCell("cell.json names no requests.parquet")
    return record


def read_file(folder: Path, name: str, written: FileHash) -> pa.Table:
    """One Parquet file of a cell, if its bytes are those that were written."""
    try:
        data = (folder / name).read_bytes()
    except FileNotFoundError as error:
        raise CorruptCell(f"{name} is gone") from error
    found = FileHash(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    if damage := written.damage(name, found):
        raise CorruptCell(damage)
    try:
        return pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise CorruptCell(f"{name} is not a readable Parquet file: {error}") from error


def _add(
    folder: Path,
    cell_sha256: str,
    launch: str,
    writers: Mapping[str, _Writer],
    slos: Sequence[Mapping[str, float]],
    warnings: list[str],
) -> Entry:
    """Verify one cell, append it to the parts, and summarise it."""
    record = read_cell(folder, cell_sha256)
    if record.launch != launch:
        raise CorruptCell(f"cell.json is of the launch {record.launch}, expected {launch}")
    found = {
        name.removesuffix(".parquet"): read_file(folder, name, written)
        for name, written in record.files.items()
        if name.endswith(".parquet")
    }
    try:
        raw = tables.conform(found.pop("requests"), cell_tables.REQUESTS_RAW)
        requests = tables.conform(metrics.derive(raw), cell_tables.REQUESTS)
    except tables.SchemaError as error:
        raise CorruptCell(str(error)) from error
    rest = {}
    for name in found.keys() & writers.keys():
        try:
            rest[name] = _with_keys(found[name], folder.name, launch, parted()[name])
        except tables.SchemaError as error:  # beside the measurement: it is left out, the measurement is not
            warnings.append(f"{folder}/{name}.parquet is left out: {error}")
    row = measured(record, requests, rest.get("gpu"), rest.get("server_metrics"))
    window_s = record.window.duration_s if record.window else None
    row |= activity.during(
        window_s, rest.get("server_metrics"), rest.get("gpu"), rest.get("node"), _gpus_of_launch(record)
    )
    groups = writers["requests"].write(requests)
    for name, table in rest.items():
        writers[name].write(table)
    kept = {canonical_json(limits): goodput(requests, limits, row) for limits in slos}
    return Entry(folder.name, cell_sha256, groups, row, kept)


def _with_keys(table: pa.Table, cell: str, launch: str, schema: pa.Schema) -> pa.Table:
    """`table` of one cell with the cell's and launch's names as columns."""
    for name, value in (("launch", launch), ("cell", cell)):
        if name not in table.column_names:
            table = table.add_column(0, name, constant(value, table))
    return tables.conform(table, schema)


def constant(word: str, table: pa.Table) -> pa.Array:
    """A column for `table` that holds one word."""
    return pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), table.num_rows), [word])


def texts_sha256(window: pa.Table) -> str | None:
    """One digest of the window's output texts in the order of the requests; None where no text was kept."""
    texts = window.select(["request", "text_sha256"]).sort_by("request")["text_sha256"]
    if texts.null_count == len(texts):
        return None
    return hashlib.sha256("\n".join(text or "-" for text in texts.to_pylist()).encode()).hexdigest()


def _gpus_of_launch(record: CellRecord) -> Sequence[str]:
    """Numbers or UUIDs, as the launch was given them; none where nothing recorded them."""
    return record.recorders.get("sampler", {}).get("launch_gpus") or ()


def measured(
    record: CellRecord, requests: pa.Table, gpu: pa.Table | None = None, server: pa.Table | None = None
) -> dict[str, Any]:
    """Columns of CELLS that a measured cell has beside its factors.

    `gpu`: the samples of its GPUs, `server`: what its servers reported of themselves, if any.
    """
    load = requests.select(_SUMMARISED).filter(metrics.in_load(requests))
    window = load.filter(metrics.in_window(load))
    window_s = record.window.duration_s if record.window else None
    loop = record.spec.load.loop
    clock, instrument = record.clock or Clock(), record.instrument or {}
    zero, start, end = clock.window_start_ns, clock.epoch_offset_start_ns, clock.epoch_offset_end_ns
    used = energy.used(gpu, _gpus_of_launch(record), window_s)
    joules = None if used is None else used.joules
    accepted = speculation.acceptance_length(server, window_s)
    summary = metrics.summarise(
        load,
        window_s,
        loop,
        to_last_answer=record.protocol < 2,
        joules=joules,
        acceptance_length=accepted,
        capacity=metrics.capacity_of(plain(record.capacity)),
    )
    row = {
        **{name: getattr(record, name) for name in _KEPT},
        "loop": loop,
        "epoch_offset_ns": None if start is None or zero is None else zero + start,
        "clock_drift_ns": None if start is None or end is None else end - start,
        "flags": sorted({flag.flag for flag in record.flags}),
        "flag_details": plain(record.flags),
        "texts_sha256": texts_sha256(window),
        "energy_source": None if used is None else used.source,
        "energy_error": None if used is None else used.error,
        "capacity_low_rps": record.capacity and record.capacity.low_rps,
        "capacity_high_rps": record.capacity and record.capacity.high_rps,
        "instrument_cpu_s": instrument.get("cpu_s"),
        **{f"instrument_{name}": instrument.get(name) for name in ("workers", "wakeup_p99_s", "wakeup_max_s")},
        **_calibrated(instrument.get("calibration") or {}),
        **summary,
    }
    row["p99_supported"] = (row["requests_ok"] or 0) >= metrics.required_sample(0.99)
    return row


def _calibrated(point: Mapping[str, Any]) -> dict[str, Any]:
    """The instrument's own error at the calibrated load nearest to the cell's."""
    errors = {
        metric.error_column(which): (point.get(f"{metric.name}_error_s") or {}).get(which)
        for metric, which in metric_registry.calibrated()
    }
    return {**errors, "instrument_load": canonical_json(point["load"]) if point.get("load") else None}
