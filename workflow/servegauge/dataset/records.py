"""What is under results/ beside the measured cells, read once: plans, specifications, attempts, and what was damaged.

A damaged document is left out with a warning, so that one bad file holds nothing back.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from servegauge.base.files import read_json
from servegauge.contract.records.base import DamagedRecord, R, read
from servegauge.contract.records.cell import CellRecord
from servegauge.contract.records.launch import LaunchRecord
from servegauge.contract.records.order import ATTEMPT, attempt_folder
from servegauge.contract.records.outcome import Outcome
from servegauge.contract.records.plan import Plan
from servegauge.contract.records.specs import CellSpec, LaunchSpec
from servegauge.dataset.spec_columns import factors
from servegauge.plan import stop


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


class Records:
    """The documents of a results folder. `cells` and `launches` are those of every plan, by id."""

    def __init__(self, results: Path) -> None:
        self.results = results
        self.warnings: list[str] = []
        plans = (self.document(path, Plan) for path in sorted((results / "plan").glob("*.json")))
        self.plans: list[Plan] = [plan for plan in plans if plan]
        self.launches = {launch.id: launch for plan in self.plans for launch in plan.launches}
        self.trace_launches = {launch.id: launch for plan in self.plans for launch in plan.trace_launches}
        self.traces = {trace.id: trace for plan in self.plans for trace in plan.traces}
        self.cells: dict[str, CellSpec] = {}
        for cell in (cell for plan in self.plans for cell in plan.cells):
            # A cell that one study's plan skips and another's does not is measured for the other.
            if cell.id not in self.cells or self.cells[cell.id].skipped:
                self.cells[cell.id] = cell
        self._factors: dict[str, dict[str, Any]] = {}
        self._launch_records: dict[tuple[str, int], LaunchRecord | None] = {}

    def json(self, path: Path) -> dict[str, Any] | None:
        """The JSON object at `path`; None and a warning where it is none."""
        try:
            data = read_json(path)
        except (OSError, ValueError) as error:
            self.warnings.append(f"{path} could not be read and is left out: {error}")
            return None
        if not isinstance(data, dict):
            self.warnings.append(f"{path} is damaged and is left out: it holds no JSON object")
            return None
        return data

    def document(self, path: Path, kind: type[R]) -> R | None:
        """The document at `path`; None and a warning where it is damaged, None where there is none."""
        try:
            return read(path, kind)
        except FileNotFoundError:
            return None
        except DamagedRecord as error:
            self.warnings.append(f"{error} It is left out.")
            return None

    def add_measured(self, cell: str, record: CellRecord) -> None:
        """A measured cell that no plan asks for any more; its specification is in its cell.json."""
        self.cells[cell] = msgspec.structs.replace(record.spec, id=cell, skipped=None)

    def launch(self, launch: str) -> LaunchSpec | None:
        """A launch as a plan has it, else as its own folder has it."""
        if launch not in self.launches:
            spec = self.document(self.results / "launches" / launch / "spec.json", LaunchSpec)
            if spec is None:
                return None
            self.launches[launch] = spec
        return self.launches[launch]

    def factors(self, launch: str) -> dict[str, Any]:
        """The columns that say what a launch's server is; none where its specification is gone."""
        if launch not in self._factors:
            spec = self.launch(launch)
            self._factors[launch] = factors(spec) if spec else {}
        return self._factors[launch]

    def launch_record(self, launch: str, attempt: int) -> LaunchRecord | None:
        """launch.json of an attempt."""
        key = (launch, attempt)
        if key not in self._launch_records:
            path = attempt_folder(self.results, launch, attempt) / "launch.json"
            self._launch_records[key] = self.document(path, LaunchRecord)
        return self._launch_records[key]

    @cached_property
    def attempts(self) -> dict[str, list[Attempt]]:
        """Launch -> its finished attempts, in order, damaged ones included."""
        found: dict[str, list[Attempt]] = {}
        for folder in sorted((self.results / "launches").glob("*/")):
            attempts = []
            for path in folder.glob("attempt-*.json"):
                if number := ATTEMPT.fullmatch(path.name):
                    try:
                        attempts.append(Attempt(int(number[1]), read(path, Outcome)))
                    except DamagedRecord as error:
                        self.warnings.append(str(error))
                        attempts.append(Attempt(int(number[1]), None, f"{path.name} is damaged: {error.reason}"))
            found[folder.name] = sorted(attempts, key=lambda attempt: attempt.number)
        return found

    @cached_property
    def unneeded(self) -> dict[str, str]:
        """Launch -> why no study needs it any more (job.stop)."""
        found: dict[str, str] = {}
        needed: set[str] = set()
        for plan in self.plans:
            enough = stop.not_needed(plan.study, self.results)
            for one in plan.launches:
                if enough and one.repeat > enough[0]:
                    found[one.id] = enough[1]
                else:
                    needed.add(one.id)
        return {launch: reason for launch, reason in found.items() if launch not in needed}

    @cached_property
    def set_aside(self) -> dict[str, dict[str, Any]]:
        """Cell -> what was wrong with it when it was last set aside."""
        found: dict[str, dict[str, Any]] = {}
        for path in (self.results / "corrupt").glob("*/corrupt.json"):
            data = self.json(path)
            if data and data["found_utc"] >= found.get(data["cell"], data)["found_utc"]:
                found[data["cell"]] = {**data, "folder": str(path.parent)}
        return found

    def outcome(self, spec: CellSpec) -> dict[str, Any]:
        """Status, reason, attempt and log of a cell (or trace) that is not measured."""
        cell, launch = spec.id, spec.launch
        if spec.skipped:
            return {"status": "skipped", "reason": spec.skipped}
        if launch in self.unneeded:
            return {"status": "skipped", "reason": self.unneeded[launch]}
        tried = reversed(self.attempts.get(launch, []))
        last = next((one.outcome for one in tried if one.outcome and cell in one.outcome.cells), None)
        corrupt = self.set_aside.get(cell)
        if corrupt and (last is None or corrupt["found_utc"] >= (last.finished_utc or "")):
            damage = f"its files were corrupt and were set aside: {corrupt['reason']}"
            return {"status": "failed", "reason": damage, "log": corrupt["folder"]}
        if last is None:
            return {"status": "planned"}
        own = last.cells[cell]
        there = any((self.results / kind / cell).exists() for kind in ("cells", "traces"))
        where = "its record is a newer servegauge's" if there else "its folder is gone"
        gone = f"attempt {last.attempt} measured it, {where}" if own.status == "ok" else None
        reason = gone or own.reason or last.reason
        if own.status != "failed":
            return {"status": "planned", "reason": reason}
        folder = attempt_folder(self.results, launch, last.attempt)
        logs = (folder / "server-0.log", folder / "progress.log")
        log = str(next((log for log in logs if log.exists()), folder))
        return {"status": "failed", "reason": reason, "attempt": last.attempt, "log": log}
