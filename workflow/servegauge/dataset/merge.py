"""Everything under results/ as tidy tables: `merge` reads plans, launches, cells and probes, writes results/dataset/.

Every cell of every study is a row, whatever became of it: ok, failed, skipped or planned, with the reason. A cell whose
files are not what its cell.json says is moved to results/corrupt/, is a failed row, and is missing again for the next
run of the same command. The large tables are made per launch by `launch_parts.py`, where a launch's cells changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from servegauge.base.errors import UserError
from servegauge.base.files import move_folder, read_json, whole_file, write_json
from servegauge.base.progress import utc_now
from servegauge.contract import tables
from servegauge.contract.records import base as records
from servegauge.contract.records.base import DamagedRecord, NewerRecord, R, plain
from servegauge.contract.records.cell import CellRecord
from servegauge.contract.records.launch import LaunchRecord
from servegauge.contract.records.order import attempt_folder
from servegauge.contract.records.outcome import Outcome
from servegauge.contract.records.plan import PlanDocument
from servegauge.contract.records.specs import LaunchSpec
from servegauge.contract.spec import Launch, canonical_json
from servegauge.dataset import allocation, economics, launch_parts, trace_parts
from servegauge.dataset.catalogue import parted
from servegauge.dataset.joined import labels
from servegauge.dataset.launch_parts import Part
from servegauge.dataset.lifetimes import mark_servers
from servegauge.dataset.quality import quality_rows
from servegauge.dataset.spec_columns import attempt_columns, factors, load_factors
from servegauge.dataset.study_inputs import model_rows, platform_rows
from servegauge.dataset.text_agreement import compare_texts
from servegauge.plan import stop
from servegauge.probes.harness.run import dataset_rows

NOT_SPECULATIVE = "the server runs without speculative decoding"
UNTOLD = "the server does not tell how many drafts there were and how many of their tokens were accepted"
ATTEMPT = re.compile(r"attempt-(\d+)\.json")


@dataclass(frozen=True)
class Attempt:
    """A finished attempt of a launch: its outcome, or None with what is wrong with its file."""

    number: int
    outcome: Outcome | None
    damage: str | None = None

    @property
    def status(self) -> str:
        """ok, failed or damaged."""
        return self.outcome.status if self.outcome else "damaged"

    @property
    def reason(self) -> str | None:
        return self.outcome.reason if self.outcome else self.damage


@dataclass
class Merged:
    """What a merge did: cells by status, parts made and kept, cells found corrupt with the reason, other warnings."""

    statuses: dict[str, int] = field(default_factory=dict)
    parts_made: list[str] = field(default_factory=list)
    parts_kept: int = 0
    corrupt: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)  # written, below results/dataset/

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for the stamp that Snakemake waits for."""
        return {
            "merged_utc": utc_now(),
            "cells": self.statuses,
            "parts_made": len(self.parts_made),
            "parts_kept": self.parts_kept,
            "corrupt": self.corrupt,
            "warnings": self.warnings,
            "tables": self.tables,
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
    """One merge: what lies under results/, read once."""

    def __init__(self, results: Path) -> None:
        self.results = results
        self.dataset = results / "dataset"
        self.merged = Merged()
        plans = [self._document(path, PlanDocument) for path in sorted((results / "plan").glob("*.json"))]
        self.plans: list[dict[str, Any]] = [plain(plan) for plan in plans if plan]
        self.launches: dict[str, Mapping[str, Any]] = {}
        self.cells: dict[str, Mapping[str, Any]] = {}  # cell -> Cell dict with "skipped"
        self.trace_launches: dict[str, Mapping[str, Any]] = {}
        self.traces: dict[str, Mapping[str, Any]] = {}  # as `cells`
        for plan in self.plans:
            self.launches.update((launch["id"], launch) for launch in plan["launches"])
            for cell in plan["cells"]:
                # A cell that one study's plan skips and another's does not is measured for the other.
                if self.cells.get(cell["id"], cell).get("skipped") or cell["id"] not in self.cells:
                    self.cells[cell["id"]] = cell
            self.trace_launches.update((launch["id"], launch) for launch in plan["trace_launches"])
            self.traces.update((trace["id"], trace) for trace in plan["traces"])
        self.parts: dict[str, Part] = {}

    def run(self) -> Merged:
        measured = self._measured()
        for launch, cells in sorted(measured.items()):
            self._bring_up_to_date(launch, cells)
        self._forget(measured)
        rows = self._cell_rows()
        compare_texts(rows, self.parts, self.plans)
        mark_servers(rows, self._launch_record)
        for row in rows:
            row["flag_details"] = (
                json.dumps(row["flag_details"], ensure_ascii=False) if row.get("flag_details") else None
            )
            self.merged.statuses[row["status"]] = self.merged.statuses.get(row["status"], 0) + 1
        self._write("studies", self._study_rows())
        self._write("study_cells", self._study_cell_rows())
        self._write("study_models", model_rows(self.plans, self._before("study_models")))
        self._write("study_platforms", platform_rows(self.plans))
        self._write("launches", self._launch_rows())
        self._write("attempts", self._attempt_rows(rows))
        self._write("cells", rows)
        self._write("cell_slos", self._slo_rows())
        self._write("looks", self._look_rows())
        measured_cells = {row["cell"]: row for row in rows}
        self._write("economics", list(economics.rows(self.plans, measured_cells, self._launch_record)))
        self._write("probes", self._probe_rows())
        self._write("traces", self._trace_rows(rows))
        self._write("quality", quality_rows(self.results, self._json))
        return self.merged

    def _json(self, path: Path) -> dict[str, Any] | None:
        """The JSON object at `path`; None and a warning where it is none, so that one bad file holds nothing back."""
        try:
            data = read_json(path)
        except (OSError, ValueError) as error:
            self.merged.warnings.append(f"{path} could not be read and is left out: {error}")
            return None
        if not isinstance(data, dict):
            self.merged.warnings.append(f"{path} is damaged and is left out: it holds no JSON object")
            return None
        return data

    def _document(self, path: Path, kind: type[R]) -> R | None:
        """The document at `path`; None and a warning where it is damaged, None where there is none."""
        try:
            return records.read(path, kind)
        except FileNotFoundError:
            return None
        except DamagedRecord as error:
            self.merged.warnings.append(f"{error} It is left out.")
            return None

    def _spec(self, launch: str) -> Mapping[str, Any] | None:
        """A launch as a plan has it, else as its own folder has it."""
        if launch not in self.launches:
            spec = self._document(self.results / "launches" / launch / "spec.json", LaunchSpec)
            if spec is None:
                return None
            self.launches[launch] = plain(spec)
        return self.launches[launch]

    def _before(self, table: str) -> list[dict[str, Any]]:
        """The rows of a table as the last merge left them."""
        path = self.dataset / f"{table}.parquet"
        return pq.read_table(path).to_pylist() if path.exists() else []

    def _write(self, table: str, rows: list[dict[str, Any]]) -> None:
        with whole_file(self.dataset / f"{table}.parquet") as temporary:
            pq.write_table(tables.from_rows(rows, tables.TABLES[table]), temporary, compression="zstd")
        self.merged.tables.append(f"{table}.parquet")

    # -- measured cells -----------------------------------------------------

    def _measured(self) -> dict[str, dict[str, str]]:
        """Launch -> its cells under results/cells/ -> SHA-256 of their cell.json."""
        found: dict[str, dict[str, str]] = defaultdict(dict)
        folder = self.results / "cells"
        names = sorted(entry.name for entry in os.scandir(folder)) if folder.is_dir() else []
        for name in names:
            if name.startswith("."):  # being written, or left by a process that was killed
                continue
            try:
                data = (folder / name / "cell.json").read_bytes()
                launch = self.cells[name]["launch"] if name in self.cells else self._orphan(folder / name, data)
            except FileNotFoundError:
                if any((folder / name).iterdir()):  # Snakemake makes the folder of a target before it runs the rule
                    self._set_aside(name, "it has no cell.json")
            except NewerRecord as error:
                self.merged.warnings.append(str(error))
            except DamagedRecord as error:
                self._set_aside(name, f"cell.json is not readable: {error.reason}")
            except NotADirectoryError:
                self.merged.warnings.append(f"{folder / name} is no folder and is left out")
            else:
                found[launch][name] = hashlib.sha256(data).hexdigest()
        return found

    def _orphan(self, folder: Path, data: bytes) -> str:
        """The launch of a measured cell that no plan asks for any more; its specification is in its cell.json."""
        record = records.decode(data, CellRecord, folder / "cell.json")
        self.cells[folder.name] = {**plain(record.spec), "id": folder.name, "skipped": None}
        return record.launch

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
        named = [limits for plan in self.plans for limits in (plan["study"].get("slo") or {}).values()]
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

    # -- what became of the others ------------------------------------------

    @cached_property
    def attempts(self) -> dict[str, list[Attempt]]:
        """Launch -> its finished attempts, in order; a damaged one is one, and said."""
        found: dict[str, list[Attempt]] = {}
        for folder in sorted((self.results / "launches").glob("*/")):
            attempts = []
            for path in folder.glob("attempt-*.json"):
                if number := ATTEMPT.fullmatch(path.name):
                    try:
                        attempts.append(Attempt(int(number[1]), records.read(path, Outcome)))
                    except DamagedRecord as error:
                        self.merged.warnings.append(str(error))
                        attempts.append(Attempt(int(number[1]), None, f"{path.name} is damaged: {error.reason}"))
            found[folder.name] = sorted(attempts, key=lambda attempt: attempt.number)
        return found

    @cached_property
    def unneeded(self) -> dict[str, str]:
        """Launch -> why no study needs it any more (job.stop)."""
        found: dict[str, str] = {}
        needed: set[str] = set()
        for plan in self.plans:
            enough = stop.not_needed(plan["study"], self.results)
            for one in plan["launches"]:
                if enough and one["repeat"] > enough[0]:
                    found[one["id"]] = enough[1]
                else:
                    needed.add(one["id"])
        return {launch: reason for launch, reason in found.items() if launch not in needed}

    @cached_property
    def set_aside(self) -> dict[str, dict[str, Any]]:
        """Cell -> what was wrong with it when it was last set aside."""
        found: dict[str, dict[str, Any]] = {}
        for path in (self.results / "corrupt").glob("*/corrupt.json"):
            data = self._json(path)
            if data and data["found_utc"] >= found.get(data["cell"], data)["found_utc"]:
                found[data["cell"]] = {**data, "folder": str(path.parent)}
        return found

    def _outcome(self, cell: str, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Status, reason, attempt and log of a cell (or trace) that is not measured."""
        launch = spec["launch"]
        if spec.get("skipped"):
            return {"status": "skipped", "reason": spec["skipped"]}
        if launch in self.unneeded:
            return {"status": "skipped", "reason": self.unneeded[launch]}
        tried = reversed(self.attempts.get(launch, []))
        last = next((one.outcome for one in tried if one.outcome and cell in one.outcome.cells), None)
        corrupt = self.set_aside.get(cell)
        if corrupt and (last is None or corrupt["found_utc"] >= (last.finished_utc or "")):
            reason = f"its files were corrupt and were set aside: {corrupt['reason']}"
            return {"status": "failed", "reason": reason, "log": corrupt["folder"]}
        if last is None:
            return {"status": "planned"}
        said = last.cells[cell]
        there = any((self.results / kind / cell).exists() for kind in ("cells", "traces"))
        where = "its record is a newer servegauge's" if there else "its folder is gone"
        gone = f"attempt {last.attempt} measured it, {where}" if said.status == "ok" else None
        why = gone or said.reason or last.reason
        if said.status != "failed":
            return {"status": "planned", "reason": why}
        folder = attempt_folder(self.results, launch, last.attempt)
        logs = [folder / "server-0.log", folder / "progress.log"]
        log = str(next((log for log in logs if log.exists()), folder))
        return {"status": "failed", "reason": why, "attempt": last.attempt, "log": log}

    # -- rows ---------------------------------------------------------------

    def _server_factors(self, launch: str) -> dict[str, Any]:
        if launch not in self._factors:
            spec = self._spec(launch)
            self._factors[launch] = factors(spec) if spec else {}
        return self._factors[launch]

    @cached_property
    def _factors(self) -> dict[str, dict[str, Any]]:
        return {}

    def _cell_rows(self) -> list[dict[str, Any]]:
        rows = []
        for cell, spec in self.cells.items():
            launch = spec["launch"]
            part = self.parts.get(launch)
            entry = part.entries.get(cell) if part else None
            row = {"cell": cell, "launch": launch, **self._server_factors(launch), **load_factors(spec), "flags": []}
            if entry:
                row |= {"status": "ok", "cell_sha256": entry.cell_sha256, **entry.row}
                self._add_launch_flags(row)
                if row.get("acceptance_length") is None:
                    asked = "speculative" in json.loads(row["options"] or "{}")
                    row["acceptance_reason"] = UNTOLD if asked else NOT_SPECULATIVE
            else:
                row |= self._outcome(cell, spec)
            rows.append(row)
        return rows

    def _add_launch_flags(self, row: dict[str, Any]) -> None:
        """What the server said of itself against what was asked concerns every cell that it served."""
        record = self._launch_record(row["launch"], row["attempt"])
        if record and record.flags:
            row["flags"] = sorted({*row["flags"], *(flag.flag for flag in record.flags)})
            row["flag_details"] = [*row["flag_details"], *plain(record.flags)]

    def _launch_record(self, launch: str, attempt: int) -> LaunchRecord | None:
        key = (launch, attempt)
        if key not in self._launch_records:
            self._launch_records[key] = self._document(
                attempt_folder(self.results, launch, attempt) / "launch.json", LaunchRecord
            )
        return self._launch_records[key]

    @cached_property
    def _launch_records(self) -> dict[tuple[str, int], LaunchRecord | None]:
        return {}

    def _study_rows(self) -> list[dict[str, Any]]:
        rows = []
        for plan in self.plans:
            study = plan["study"]
            compare = study.get("compare") or {}
            rows.append(
                {
                    **{name: study.get(name) for name in ("question", "sha256", "text")},
                    "study": study["name"],
                    "path": None if study.get("path") is None else str(study["path"]),
                    "compare_factor": compare.get("factor"),
                    "compare_baseline": _baseline(study),
                    "expects": canonical_json(study["expects"]) if study.get("expects") else None,
                    "compare_margin": compare.get("margin"),
                    "compare_primary": compare.get("primary"),
                    "slos": canonical_json(study.get("slo") or {}),
                    "matrix": canonical_json(study.get("matrix") or {}),
                    "launches": len(plan["launches"]),
                    "cells": len(plan["cells"]),
                }
            )
        return rows

    def _study_cell_rows(self) -> list[dict[str, Any]]:
        return [
            {"study": plan["study"]["name"], "cell": cell["id"], "launch": cell["launch"], "position": position}
            for plan in self.plans
            for position, cell in enumerate(plan["cells"])
        ]

    def _launch_rows(self) -> list[dict[str, Any]]:
        rows, joined = [], labels(self.results)
        for launch in dict.fromkeys([*self.launches, *self.attempts]):
            spec = self._spec(launch)
            if not spec or spec.get("trace"):  # what started under a profiler says nothing of what starts without
                continue
            attempts = self.attempts.get(launch, [])
            last = attempts[-1] if attempts else None
            started = attempt_columns(self._launch_record(launch, last.number)) if last else {}
            rows.append(
                {
                    "launch": launch,
                    **self._server_factors(launch),
                    "extra_args": list(spec.get("extra_args") or []),
                    "environment": canonical_json(spec.get("environment") or {}),
                    "gpus": Launch.from_dict(spec).layout.gpus,
                    "joined": joined.get(launch),
                    "status": last.status if last else "planned",
                    "reason": last.reason if last else None,
                    "attempts": len(attempts),
                    **{name: started.get(name) for name in ("framework_version", "startup_s")},
                }
            )
        return rows

    def _attempt_rows(self, cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
        rows = []
        measured: dict[tuple[str, int | None], list[dict[str, Any]]] = {}
        for row in cells:
            measured.setdefault((row["launch"], row.get("attempt")), []).append(row)
        for launch, attempts in self.attempts.items():
            for attempt in attempts:
                outcome = attempt.outcome
                said = {name: getattr(outcome, name, None) for name in ("study", "started_utc", "finished_utc")}
                said |= {"attempt": attempt.number, "status": attempt.status, "reason": attempt.reason}
                said["job"] = canonical_json(plain(outcome.job)) if outcome and outcome.job else None
                record = self._launch_record(launch, attempt.number)
                starts = [start.ready_s for start in record.server_starts] if record else []
                own = [{**row, "window_s": self._windows_s(row)} for row in measured.get((launch, attempt.number), [])]
                spent = record.spent_s if record else {}
                said |= allocation.columns(said["started_utc"], said["finished_utc"], starts, own, spent)
                rows.append({"launch": launch, **said, **attempt_columns(record)})
        return rows

    def _windows_s(self, row: Mapping[str, Any]) -> float | None:
        """Length of a cell's window; of a search, of the windows of all its rates."""
        path = launch_parts.part_path(self.dataset, "capacity_steps", row["launch"])
        if row.get("capacity") is None or not path.exists():
            return row.get("window_s")
        steps = pq.read_table(path, columns=["window_s"], filters=pc.field("cell") == row["cell"])
        return pc.sum(steps["window_s"]).as_py() or row.get("window_s")

    def _look_rows(self) -> list[dict[str, Any]]:
        rows = []
        for plan in self.plans:
            study = plan["study"]
            if (asked := stop.asked(study)) is None:
                continue
            for look in stop.valid_looks(study, self.results):
                about = {"study": study["name"], "after": look.after, "utc": look.utc, "at_most": asked["at_most"]}
                about |= {"asked": asked["half_width"], "narrow": look.narrow(asked["half_width"])}
                rows += [{**about, **plain(one), "half_width": one.half} for one in look.widths] or [about]
        return rows

    def _slo_rows(self) -> list[dict[str, Any]]:
        rows = []
        for plan in self.plans:
            slos = plan["study"].get("slo") or {}
            for cell in plan["cells"] if slos else []:
                part = self.parts.get(cell["launch"])
                if not part or cell["id"] not in part.entries:
                    continue
                for slo, limits in slos.items():
                    names = {"study": plan["study"]["name"], "cell": cell["id"], "slo": slo}
                    rows.append({**names, "limits": canonical_json(limits), **part.goodput(cell["id"], limits)})
        return rows

    def _trace_rows(self, cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        timed = {row["cell"]: row.get("tpot_p50_s") for row in cells}
        found = trace_parts.merge_traces(self.results, self.dataset, timed)
        self.merged.warnings += found.warnings
        for trace, reason in found.corrupt.items():
            self._set_aside(trace, reason, "traces")
        rows = {row["trace"]: row for row in found.rows}
        for trace, spec in self.traces.items():
            if trace not in rows:
                launch = self.trace_launches[spec["launch"]]
                outcome = {name: said for name, said in self._outcome(trace, spec).items() if name != "log"}
                about = {"cell": launch["trace"]["cell"], "profiler": launch["trace"]["profiler"]}
                about |= {"launch": launch["id"], "platform": launch["platform"]["name"]}
                rows[trace] = {"trace": trace, **about, "condition": trace_parts.condition(spec), **outcome}
        return list(rows.values())

    def _probe_rows(self) -> list[dict[str, Any]]:
        rows = []
        for path in sorted((self.results / "probes").glob("*/*.json")):
            document = self._json(path)
            if document and "rows" in document:
                rows += dataset_rows(document, str(path))
        return rows


def _baseline(study: Mapping[str, Any]) -> str | None:
    """The baseline as a text; a mapping as canonical JSON, sampling settings with the temperature that they lack."""
    compare = study.get("compare") or {}
    baseline = compare.get("baseline")
    if isinstance(baseline, Mapping) and compare.get("factor") == "sampling":
        baseline = {"temperature": (study.get("load") or {}).get("temperature", 0), **baseline}
    return canonical_json(baseline) if isinstance(baseline, Mapping) else None if baseline is None else str(baseline)


def read(results: Path, table: str) -> pa.Table:
    """A table of the dataset; UserError where it was not merged yet.

    Columns that a dataset of an older version lacks are null.
    """
    path = results / "dataset" / f"{table}.parquet"
    if not path.exists() and (results / "dataset" / "studies.parquet").exists():
        return tables.from_rows([], tables.TABLES[table])  # a dataset of before there was this table
    if not path.exists():
        raise UserError(f"there is no {path}: run `python scripts/merge_dataset.py --results {results}` first")
    found = pq.read_table(path)
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
