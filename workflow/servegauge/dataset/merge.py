"""Everything under results/ as tidy tables: `merge` reads plans, launches, cells and probes, writes results/dataset/.

Every cell of every study is a row, whatever became of it: ok, failed, skipped or planned, with the reason. A cell whose
files are not what its cell.json says is moved to results/corrupt/, is a failed row, and is missing again for the next
run of the same command. The large tables are made per launch by `launch_parts.py`, where a launch's cells changed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from servegauge.base.errors import UserError
from servegauge.base.files import move_folder, write_json
from servegauge.base.progress import utc_now
from servegauge.contract import tables
from servegauge.contract.columns import Row
from servegauge.contract.records.base import DamagedRecord, NewerRecord, decode
from servegauge.contract.records.cell import CellRecord
from servegauge.contract.spec import canonical_json
from servegauge.dataset import economics, launch_parts, rows, trace_parts
from servegauge.dataset.catalogue import parted, read_parquet
from servegauge.dataset.launch_parts import Part
from servegauge.dataset.lifetimes import mark_servers
from servegauge.dataset.records import Records
from servegauge.dataset.text_agreement import compare_texts


@dataclass
class Merged:
    """What a merge did: cells by status, parts made and kept, cells found corrupt with the reason, other warnings."""

    statuses: dict[str, int] = field(default_factory=dict)
    parts_made: list[str] = field(default_factory=list)
    parts_kept: int = 0
    corrupt: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for the stamp that Snakemake waits for."""
        return {
            "merged_utc": utc_now(),
            "cells": self.statuses,
            "parts_made": len(self.parts_made),
            "parts_kept": self.parts_kept,
            "corrupt": self.corrupt,
            "warnings": self.warnings,
        }


def merge(results: Path) -> Merged:
    """Bring results/dataset/ up to date with everything under `results`."""
    if not (results / "plan").is_dir() and not (results / "cells").is_dir():
        raise UserError(
            f"there is nothing to merge under {results}/: it has neither plan/ nor cells/. "
            "Run a study first (`snakemake --profile profiles/local`), or name the folder with --results."
        )
    return _Merge(results).run()


class _Merge:
    """One merge. `parts`: the large tables of each launch that has measured cells."""

    def __init__(self, results: Path) -> None:
        self.results = results
        self.dataset = results / "dataset"
        self.records = Records(results)
        self.merged = Merged(warnings=self.records.warnings)
        self.parts: dict[str, Part] = {}

    def run(self) -> Merged:
        records = self.records
        measured = self._measured()
        for launch, hashes in sorted(measured.items()):
            self._bring_up_to_date(launch, hashes)
        self._forget(measured)
        cells = list(rows.cell_rows(records, self.parts))
        compare_texts(cells, self.parts, records.plans)
        mark_servers(cells, records.launch_record)
        for row in cells:
            details = row.get("flag_details")
            row["flag_details"] = json.dumps(details, ensure_ascii=False) if details else None
            self.merged.statuses[row["status"]] = self.merged.statuses.get(row["status"], 0) + 1
        models = self.dataset / "study_models.parquet"
        try:
            before = read_parquet(models).to_pylist()  # as the last merge left them
        except UserError:  # absent, or cut: it is written anew
            before = []
        by_cell = {row["cell"]: row for row in cells}
        found: dict[str, Iterable[dict[str, Any]]] = {
            "studies": rows.study_rows(records),
            "study_cells": rows.study_cell_rows(records),
            "study_models": rows.model_rows(records, before),
            "study_platforms": rows.platform_rows(records),
            "launches": rows.launch_rows(records),
            "attempts": rows.attempt_rows(records, self.dataset, cells),
            "cells": cells,
            "cell_slos": rows.slo_rows(records, self.parts),
            "looks": rows.look_rows(records),
            "economics": economics.rows(records.plans, by_cell, records.launch_record),
            "probes": rows.probe_rows(records),
            "traces": self._trace_rows(cells),
            "quality": rows.quality_rows(records),
        }
        for table, own in found.items():
            write(self.results, table, own)
        return self.merged

    def _measured(self) -> dict[str, dict[str, str]]:
        """Launch -> its cells under results/cells/ -> SHA-256 of their cell.json."""
        found: dict[str, dict[str, str]] = defaultdict(dict)
        folder, known = self.results / "cells", self.records.cells
        names = sorted(entry.name for entry in os.scandir(folder)) if folder.is_dir() else []
        for name in names:
            if name.startswith("."):  # being written, or left by a process that was killed
                continue
            path = folder / name / "cell.json"
            try:
                data = path.read_bytes()
                if name not in known:
                    self.records.add_measured(name, decode(data, CellRecord, path))
            except FileNotFoundError:
                if not (folder / name).is_dir():
                    self.merged.warnings.append(f"{folder / name} is a link to nothing and is left out")
                elif any((folder / name).iterdir()):  # Snakemake makes a target's folder before it runs the rule
                    self._set_aside(name, "it has no cell.json")
            except NewerRecord as error:
                self.merged.warnings.append(str(error))
            except (DamagedRecord, IsADirectoryError) as error:
                self._set_aside(name, f"cell.json is not readable: {getattr(error, 'reason', 'it is a folder')}")
            except NotADirectoryError:
                self.merged.warnings.append(f"{folder / name} is no folder and is left out")
            else:
                found[known[name].launch][name] = hashlib.sha256(data).hexdigest()
        return found

    def _bring_up_to_date(self, launch: str, cells: Mapping[str, str]) -> None:
        """Make the part of `launch` again if its cells are not those that it was made from."""
        part = launch_parts.open_part(self.dataset, launch)
        if part and {entry.cell: entry.cell_sha256 for entry in part.entries.values()} == cells:
            self.merged.parts_kept += 1
        else:
            made = launch_parts.make_part(self.results, self.dataset, launch, cells, self._limits)
            part = made.part
            self.merged.parts_made.append(launch)
            self.merged.warnings += made.warnings
            for cell, reason in made.corrupt.items():
                self._set_aside(cell, reason)
        if part:
            self.parts[launch] = part

    @cached_property
    def _limits(self) -> list[Mapping[str, float]]:
        """The limits of every SLO of every study, once."""
        named = [limits for plan in self.records.plans for limits in (plan.study.get("slo") or {}).values()]
        return list({canonical_json(limits): limits for limits in named}.values())

    def _forget(self, measured: Mapping[str, Any]) -> None:
        """Remove parts of launches that have no measured cell any more."""
        for table in parted():
            for path in (self.dataset / table).glob("*.parquet"):
                if path.stem not in measured:
                    path.unlink()

    def _set_aside(self, cell: str, reason: str, kind: str = "cells") -> None:
        """Move a corrupt cell (or one of `traces`) out of the way, whole, with the reason beside it."""
        number = 0
        while (target := self.results / "corrupt" / f"{cell}-{number}").exists():
            number += 1
        move_folder(self.results / kind / cell, target)
        write_json(target / "corrupt.json", {"cell": cell, "reason": reason, "found_utc": utc_now()})
        self.merged.corrupt[cell] = reason

    def _trace_rows(self, cells: Sequence[Row]) -> Iterator[dict[str, Any]]:
        timed = {row["cell"]: row.get("tpot_p50_s") for row in cells}
        found = trace_parts.merge_traces(self.results, self.dataset, timed)
        self.merged.warnings += found.warnings
        for trace, reason in found.corrupt.items():
            self._set_aside(trace, reason, "traces")
        rows = {row["trace"]: row for row in found.rows}
        for trace, spec in self.records.traces.items():
            if trace not in rows:
                launch = self.records.trace_launches[spec.launch]
                asked = launch.trace or {}
                about = {"trace": trace, "launch": launch.id, "platform": launch.platform["name"]}
                about |= {name: asked[name] for name in ("cell", "profiler")}
                outcome = {name: value for name, value in self.records.outcome(spec).items() if name != "log"}
                rows[trace] = {**about, "condition": trace_parts.condition(spec), **outcome}
        yield from rows.values()


def write(results: Path, table: str, rows: Iterable[dict[str, Any]]) -> None:
    """Write a table of the dataset from its rows, whole or not at all."""
    tables.write(tables.from_rows(rows, tables.TABLES[table]), results / "dataset" / f"{table}.parquet")


def read(results: Path, table: str) -> pa.Table:
    """A table of the dataset; UserError where it was not merged yet.

    Columns that a dataset of an older version lacks are null.
    """
    path = results / "dataset" / f"{table}.parquet"
    if not path.exists() and (results / "dataset" / "studies.parquet").exists():
        return tables.from_rows([], tables.TABLES[table])  # a dataset of before there was this table
    if not path.exists():
        raise UserError(f"there is no {path}: run `python scripts/merge_dataset.py --results {results}` first")
    found = read_parquet(path)
    for column in tables.TABLES.get(table, ()):
        if column.name not in found.column_names:
            found = found.append_column(column.with_nullable(True), pa.nulls(found.num_rows, column.type))
    return found


def sentences(merged: Merged) -> Iterator[str]:
    """What a person should know of a merge, a line each."""
    counts = ", ".join(f"{count} {status}" for status, count in sorted(merged.statuses.items())) or "none"
    made, kept = len(merged.parts_made), merged.parts_kept
    yield f"cells: {counts}; launches merged now: {made}, already up to date: {kept}"
    for cell, reason in merged.corrupt.items():
        yield f"set aside {cell}: {reason}; the same command measures it again"
    yield from merged.warnings
