"""How long planning takes: `snakemake -n` of studies of 10,000 and 100,000 cells, with `servegauge plan` beside it.

Each study is planned in a copy of the workflow in a temporary folder, so nothing of this checkout is touched: once with
nothing measured, and once with everything measured but one cell. Nothing is run and no engine is needed. Beside each
time and peak memory stands what is asked of it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from servegauge.contract.records.plan import Plan
from servegauge.plan.config import load_study
from servegauge.plan.expand import expand

REPOSITORY = Path(__file__).parents[2]
CELLS_PER_LAUNCH = 20
ASKED = {10_000: (5, 300), 100_000: (40, 1500)}  # cells -> seconds and MB for `snakemake -n`


@dataclass(frozen=True)
class Run:
    """One command: what it took."""

    what: str
    seconds: float
    cpu_s: float
    peak_mb: float


def study(launches: int) -> dict:
    """A study of `launches` launches with 20 cells each, on the demo's model and platforms."""
    repeats = 5
    return {
        "question": "How long does planning take?",
        "matrix": {
            "model": "tiny",
            "framework": "llamacpp",
            "platform": ["own-cpu", "shared-cpu"],
            "prompts": ["chat-short", "doc-long"],
            "rate": [number / 2 for number in range(1, CELLS_PER_LAUNCH // 2 + 1)],
            "max_batch": list(range(1, launches // (2 * repeats) + 1)),
            "repeat": repeats,
        },
        "load": {"duration_s": 10},
    }


def measure(root: Path, plan: Plan) -> None:
    """Write what a finished run leaves that planning looks at, for every cell but the last."""
    for kind in ("plan", "workloads"):
        stamp = root / "results" / kind / "planning.json"
        stamp.parent.mkdir(parents=True)
        stamp.write_text("{}")
    for planned in plan.cells[:-1]:
        folder = root / "results" / "cells" / planned.id
        folder.mkdir(parents=True)
        (folder / "cell.json").write_text("{}")
    for launch in plan.launches:
        attempt = root / "results" / "launches" / launch.id / "attempt-0.json"
        attempt.parent.mkdir(parents=True)
        attempt.write_text(json.dumps({"launch": launch.id, "attempt": 0, "status": "ok", "cells": {}}))


def timed(what: str, argv: list[str], root: Path) -> Run:
    """Run `argv` in `root` with its output thrown away; peak memory is of the largest process of it."""
    with (root / "output.txt").open("w") as output:
        start = time.monotonic()
        process = subprocess.Popen(argv, cwd=root, stdout=output, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.monotonic() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        tail = "\n".join((root / "output.txt").read_text().splitlines()[-15:])
        raise SystemExit(f"`{' '.join(argv)}` ended with {process.returncode}:\n{tail}")
    return Run(what, seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def runs(cells: int) -> list[Run]:
    """Plan a study of `cells` cells in every way."""
    with tempfile.TemporaryDirectory(prefix="planning-") as folder:
        root = Path(folder)
        for name in ("workflow", "config", "scripts", "profiles", "envs"):
            shutil.copytree(REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(REPOSITORY / "Snakefile", root / "Snakefile")
        (root / "config/studies/planning.yaml").write_text(yaml.safe_dump(study(cells // CELLS_PER_LAUNCH)))
        plan = expand(load_study(root, "planning"))
        assert len(plan.cells) == cells, len(plan.cells)
        dry_run = [sys.executable, "-m", "snakemake", "--profile", "profiles/local", "-n", "--config", "study=planning"]
        script = [sys.executable, "-m", "servegauge.cli", "plan", "planning"]
        found = [timed("servegauge plan", script, root), timed("snakemake -n, nothing measured", dry_run, root)]
        measure(root, plan)
        return [*found, timed("snakemake -n, one cell missing", dry_run, root)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[10_000, 100_000], help="sizes; multiples of 200")
    arguments = parser.parse_args()
    print("| cells | launches | command | wall s | CPU s | peak MB | asked |\n|---|---|---|---|---|---|---|")
    for cells in arguments.cells:
        for run in runs(cells):
            asked = "{} s, {} MB".format(*ASKED[cells]) if cells in ASKED else ""
            figures = f"{run.seconds:.1f} | {run.cpu_s:.1f} | {run.peak_mb:.0f}"
            print(f"| {cells:,} | {cells // CELLS_PER_LAUNCH:,} | {run.what} | {figures} | {asked} |", flush=True)


if __name__ == "__main__":
    main()
