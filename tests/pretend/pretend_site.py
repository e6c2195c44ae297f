"""A results folder with a plan, and the scripts run in it with a pretended launch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from servegauge.base.files import read_json, write_json
from servegauge.contract.records.base import plain
from servegauge.contract.records.specs import CellSpec
from servegauge.contract.spec import Cell, Launch, Layout, Load

HERE = Path(__file__).parent


@dataclass
class Site:
    """One working directory, as a user's clone of the repository would be."""

    root: Path
    submit: str = "local"
    platform: dict[str, Any] = field(default_factory=lambda: {"name": "own-cpu"})
    job: dict[str, Any] = field(default_factory=dict)
    layout: Layout = field(default_factory=Layout)
    poll_s: float = 1.0

    @property
    def results(self) -> Path:
        return self.root / "results"

    def plan(self, *cells: dict[str, Any], repeats: int = 1, name: str = "demo") -> list[str]:
        """Write a plan of one launch for each repeat with these cells (their `pretend`); the launches' ids."""
        launches, planned = [], []
        for repeat in range(1, repeats + 1):
            launch = Launch("paced", {"name": "tiny"}, self.platform, self.layout, repeat=repeat)
            launches.append(launch)
            for number, pretend in enumerate(cells, 1):
                cell = Cell.of(launch, {"name": "chat", "description": pretend}, Load(rate_rps=number, requests=4))
                planned.append(plain(CellSpec.of(cell)))
        study = {"name": name, "sha256": "0" * 64, "job": self.job}
        plan = {"study": study, "launches": [one.to_dict() for one in launches], "cells": planned, "workloads": []}
        write_json(self.results / "plan" / f"{name}.json", plan)
        return [launch.id for launch in launches]

    def cells(self, name: str = "demo") -> list[str]:
        """All cells of the plan, in order."""
        return [cell["id"] for cell in read_json(self.results / "plan" / f"{name}.json")["cells"]]

    def argv(self, launch: str, attempt: int = 0, *more: str, study: str = "demo") -> list[str]:
        """The command that the workflow gives for an attempt."""
        out = f"results/launches/{launch}/attempt-{attempt}.json"
        return [
            sys.executable, str(HERE / "measure.py"), "launch", "--plan", f"results/plan/{study}.json",
            "--launch", launch, "--attempt", str(attempt), "--submit", self.submit, "--poll-s", str(self.poll_s),
            "--out", out, *more,
        ]  # fmt: skip

    @property
    def environment(self) -> dict[str, str]:
        # A machine of its own: tests do not wait for what else is measured here.
        lock = str(self.root / "machine.lock")
        path = f"{HERE.parents[1]}:{HERE.parents[1] / 'workflow'}"  # this checkout's package, whatever is installed
        return {**os.environ, "PYTHONPATH": path, "SERVEGAUGE_MACHINE_LOCK": lock}

    def start(self, launch: str, attempt: int = 0, *more: str) -> subprocess.Popen[str]:
        """Start the command, in a session of its own, as snakemake's child would be."""
        return subprocess.Popen(
            self.argv(launch, attempt, *more), cwd=self.root, env=self.environment, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def measure(self, launch: str, attempt: int = 0, *more: str, timeout_s: float = 120) -> tuple[int, str]:
        """Run the command to its end: exit status and what it said."""
        process = self.start(launch, attempt, *more)
        said = process.communicate(timeout=timeout_s)[1]
        return process.returncode, said

    def outcome(self, launch: str, attempt: int = 0) -> dict[str, Any]:
        return read_json(self.results / "launches" / launch / f"attempt-{attempt}.json")

    def statuses(self, launch: str, attempt: int = 0) -> list[str]:
        """Of the attempt's cells, in its order."""
        return [cell["status"] for cell in self.outcome(launch, attempt)["cells"].values()]

    def job_of(self, launch: str, attempt: int = 0) -> dict[str, Any]:
        return read_json(self.results / "launches" / launch / f"attempt-{attempt}" / "job.json")

    def measured(self) -> set[str]:
        return {path.parent.name for path in self.results.glob("cells/*/cell.json")}

    def log(self, what: str) -> list[dict[str, Any]]:
        """What the pretended launches noted, of one kind."""
        try:
            lines = (self.results / "pretend.log").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [entry for entry in map(json.loads, lines) if entry["what"] == what]

    def wait(self, what: str, count: int, timeout_s: float = 60) -> list[dict[str, Any]]:
        """Until so many things of one kind were noted."""
        wait_for(lambda: len(self.log(what)) >= count, timeout_s, f"{count} x {what}")
        return self.log(what)

    def processes(self) -> list[str]:
        """Command lines of living processes that have this site's path in them."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                argv = entry.read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if str(self.root) in argv:
                found.append(argv)
        return found


def wait_for(holds, timeout_s: float = 60, what: str = "it") -> None:
    """Until `holds()`; AssertionError after `timeout_s`."""
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end, f"waited {timeout_s} s for {what}"
        time.sleep(0.05)


def kill(process: subprocess.Popen[str], number: int = signal.SIGKILL) -> str:
    """Send `number` to the whole process group and return what the process had said."""
    os.killpg(process.pid, number)
    return process.communicate(timeout=100)[1]


def of_probes(root: Path) -> list[int]:
    """The processes in which single probes are measured."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            argv = (entry / "cmdline").read_bytes().split(b"\0")
            if b"servegauge.probes.harness.run" in argv and (entry / "cwd").readlink() == root:
                found.append(int(entry.name))
        except OSError:
            continue
    return found
