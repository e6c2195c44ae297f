#!/usr/bin/env python3
"""What conducting costs: wall time of a study beside the sum of its server start-ups and windows.

    python benchmarks/orchestration/run.py                      # on this machine
    python benchmarks/orchestration/run.py --submit slurm       # on the cluster of `make slurm-up`, queue wait aside
    python benchmarks/orchestration/run.py --one-job-per-cell   # beside it: each cell in a launch of its own
    python benchmarks/orchestration/run.py --vllm-sweep         # beside it: vllm bench sweep serve (installs vLLM)

Two launches x 12 cells on a real server (llama.cpp, the tiny model), in a copy of the repository. Everything that must
be there before (environment, model, plan, workloads) is made first and not counted. Asked: at most 5 % beyond the sum
plus 3 s for each launch. There is no warm-up, and the load generator was calibrated before, as a study may ask
(`calibrate: once`); otherwise each launch begins with that. Run it on a machine that does nothing else.
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
from datetime import datetime
from pathlib import Path
from typing import Any

import sweep
import yaml

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.pretend.tree import copy_of_the_tree  # noqa: E402

SLURM = {"partition": "bm", "account": "hpcbench", "cpus_per_task": 2, "mem_gb": 4, "time_min": 60}
SHARE, PER_LAUNCH_S = 0.05, 3.0


def study(repeats: int, rates: list[float], seconds: float) -> dict[str, Any]:
    """A study of `repeats` launches, each with a cell for each rate, its window about `seconds` long."""
    return {
        "question": "What does conducting cost?",
        "matrix": {"model": "tiny", "framework": "llamacpp", "platform": ["own-cpu"], "prompts": ["chat-short"],
                   "rate": rates, "repeat": repeats},
        "server": {"threads": 1, "context_tokens": 512, "max_batch": 4},
        "load": {"arrival": "constant", "duration_s": seconds, "warmup_requests": 0, "seed": 1, "timeout_s": 30},
        "job": {"calibrate": "once"},
    }  # fmt: skip


def clone(folder: Path, submit: str) -> None:
    """A copy of the tree without results, the platform adapted to the test cluster."""
    copy_of_the_tree(folder)
    if submit == "slurm":
        file = folder / "config/platforms/own-cpu.yaml"
        file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"slurm": SLURM}, sort_keys=False))


def snakemake(folder: Path, submit: str, name: str, *more: str) -> float:
    """Run the one command in the copy; its wall time in seconds. The other launches wait: one machine, one launch."""
    argv = [
        sys.executable, "-m", "snakemake", "--profile", "profiles/local" if submit == "local" else "profiles/hlrs",
        "--resources", "machine=1", "--config", f"study={name}", f"submit={submit}", "poll_s=5", *more,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(folder / "workflow")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    started = time.monotonic()
    done = subprocess.run(
        argv, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        sys.exit(f"{' '.join(argv)} ended with status {done.returncode}:\n{done.stdout[-4000:]}")
    return time.monotonic() - started


def seconds_between(first: str, last: str) -> float:
    """Between two times in ISO 8601."""
    ends = [datetime.fromisoformat(text.replace("Z", "+00:00")) for text in (first, last)]
    return (ends[1] - ends[0]).total_seconds()


def spent(results: Path, study_name: str) -> dict[str, float]:
    """Where the time of a study's launches went, in seconds, from what they wrote down."""
    launches = [
        (record, json.loads((path.parent / "job.json").read_text()))
        for path in results.glob("launches/*/attempt-*/launch.json")
        if (record := json.loads(path.read_text()))["study"] == study_name
    ]
    cells = [
        cell
        for path in results.glob("cells/[!.]*/cell.json")
        if (cell := json.loads(path.read_text()))["study"] == study_name
    ]
    return {
        "launches": len(launches),
        "cells": len(cells),
        "startup_s": sum(start["ready_s"] for record, _ in launches for start in record["server_starts"]),
        "window_s": sum(cell["window"]["duration_s"] for cell in cells),
        "cell_s": sum(seconds_between(cell["started_utc"], cell["finished_utc"]) for cell in cells),
        "queue_s": sum(
            max(0.0, _epoch(record["started_utc"]) - job["submitted_s"]) if job["mode"] == "slurm" else 0.0
            for record, job in launches
        ),
    }


def _epoch(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def report(title: str, wall_s: float, parts: dict[str, float]) -> bool:
    """Print one study's figures; True when they are within what is asked."""
    known = parts["startup_s"] + parts["window_s"]
    beyond = wall_s - known - parts["queue_s"]
    allowed = SHARE * known + PER_LAUNCH_S * parts["launches"]
    print(f"\n{title}: {parts['launches']:.0f} launches, {parts['cells']:.0f} cells")
    rows = [
        ("wall time", wall_s),
        ("server start-ups", parts["startup_s"]),
        ("windows", parts["window_s"]),
        ("waiting in the queue", parts["queue_s"]),
        ("beyond them", beyond),
        ("  of it in cells: resets, last answers, saving", parts["cell_s"] - parts["window_s"]),
        ("  of it around them", wall_s - parts["queue_s"] - parts["startup_s"] - parts["cell_s"]),
        (f"allowed: {SHARE:.0%} and {PER_LAUNCH_S:g} s for each launch", allowed),
    ]
    for what, value in rows:
        print(f"  {what:47} {value:8.1f} s")
    return beyond <= allowed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--submit", choices=("local", "slurm"), default="local")
    parser.add_argument("--launches", type=int, default=2)
    parser.add_argument("--cells", type=int, default=12, help="of each launch (default: 12)")
    parser.add_argument("--seconds", type=float, default=10, help="length of a window (default: 10)")
    parser.add_argument("--one-job-per-cell", action="store_true", help="measure that, too")
    parser.add_argument("--vllm-sweep", action="store_true", help="measure vllm bench sweep serve on the same cells")
    given = parser.parse_args()
    rates = [2 + 0.25 * number for number in range(given.cells)]
    with tempfile.TemporaryDirectory(prefix="servegauge-benchmark-") as name:
        folder = Path(name)
        clone(folder, given.submit)
        for study_name, repeats, of_it in (("prime", 1, [1.0]), ("together", given.launches, rates)):
            text = yaml.safe_dump(study(repeats, of_it, given.seconds), sort_keys=False)
            (folder / f"config/studies/{study_name}.yaml").write_text(text)
        # The calibration of this node, the page cache, and Python's compiled files: as on any day but the first.
        snakemake(folder, given.submit, "prime")
        snakemake(folder, given.submit, "together", "--until", "compile_workloads")
        wall_s = snakemake(folder, given.submit, "together")
        fine = report(
            f"one launch for {given.cells} cells ({given.submit})", wall_s, spent(folder / "results", "together")
        )
        if given.vllm_sweep:
            records = [json.loads(path.read_text()) for path in folder.glob("results/launches/*/attempt-*/launch.json")]
            mine = [record for record in records if record["study"] == "together"]
            spent_there = sweep.vllm_sweep(ROOT, mine, rates, given.seconds, folder)
            beyond_s = spent_there["wall_s"] - spent_there["startup_s"] - spent_there["window_s"]
            print("\nvllm bench sweep serve: {launches} launches, {cells} cells".format_map(spent_there))
            print("  wall time {wall_s:.1f} s, windows {window_s:.1f} s".format_map(spent_there), end="")
            print(f", beyond them {beyond_s:.1f} s")
        if given.one_job_per_cell:
            apart(folder, given, wall_s)
    print("\nwithin what is asked" if fine else "\nbeyond what is asked")
    return 0 if fine else 1


def apart(folder: Path, given: argparse.Namespace, together_s: float) -> None:
    """The same cells again, each in a job with a server of its own."""
    plan = json.loads((folder / "results/plan/together.json").read_text())
    shutil.rmtree(folder / "results/cells")
    shutil.rmtree(folder / "results/launches")
    cells = [f"results/cells/{cell['id']}/cell.json" for cell in plan["cells"]]
    wall_s = snakemake(folder, given.submit, "together", "--", *cells)
    report("one job for each cell", wall_s, spent(folder / "results", "together"))
    print(f"  {'times the wall time of one launch':47} {wall_s / together_s:8.2f} x")


if __name__ == "__main__":
    sys.exit(main())
