"""A launch that measures nothing but behaves as the real one does towards its job: order, signals, deadline, outcome.

What a cell does stands in its prompt set's description, which makes no other cell of it:
`{"s": seconds, "does": "ok" | "fail" | "crash" | "deaf"}`; `claims_s` is what it is held for before it starts, and a
file `until` in the results folder ends it sooner. Each start is noted in `pretend.log` in the results folder, with the
process and the job, so that a test sees what ran where.
"""

from __future__ import annotations

import json
import os
import time

from servegauge.base.files import whole_folder, write_json
from servegauge.contract.records.base import plain
from servegauge.contract.records.outcome import CellOutcome, Outcome
from servegauge.launch.stop import Stop


def measure(order, job):
    """Stand-in for `servegauge.launch.run.run_launch`: as there, signals are its own as long as it runs."""
    stop = Stop(None)
    with stop.on_signals():
        return _measure(order, job, stop)


def _measure(order, job, stop):
    results, folder = order.results_folder, order.folder
    log = results / "pretend.log"

    def note(what, **more):
        entry = {"what": what, "time": time.time(), "pid": os.getpid(), "job": os.environ.get("SLURM_JOB_ID"), **more}
        with log.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    note("start", attempt=order.attempt, start=job.start, node=plain(job.node), deadline=job.deadline_s,
         gpus=os.environ.get("CUDA_VISIBLE_DEVICES"), cpus=len(os.sched_getaffinity(0)),
         nodename=os.environ.get("SLURMD_NODENAME"), from_setup=os.environ.get("FROM_SETUP"))  # fmt: skip
    if job.node.rank != 0:
        return None
    cells = {}
    for cell in order.cells:
        name, pretend = cell.id, cell.prompts["description"]
        end = time.time() + pretend.get("claims_s", pretend.get("s", 0.1))
        if (results / "cells" / name / "cell.json").exists():
            cells[name] = CellOutcome(status="ok")
            continue
        if job.deadline_s and end > job.deadline_s - 5:
            stop.ask("the job's time limit is near")
        if stop():
            cells[name] = CellOutcome(status="not_run", reason=f"stopped: {stop.reason}")
            continue
        note("cell", cell=name, attempt=order.attempt)
        with (folder / "progress.log").open("a") as file:
            file.write(f"cell {name}\n")
        end = time.time() + pretend.get("s", 0.1)
        until = results / pretend.get("until", "never")
        while time.time() < end and not until.exists() and (not stop() or pretend.get("does") == "deaf"):
            time.sleep(0.02)
        if stop():
            cells[name] = CellOutcome(status="not_run", reason=f"stopped: {stop.reason}")
        elif pretend.get("does") == "fail":
            cells[name] = CellOutcome(status="failed", reason="pretended")
        elif pretend.get("does") == "crash":
            raise RuntimeError("pretended crash")
        else:
            with whole_folder(results / "cells" / name) as target:
                write_json(target / "cell.json", {"cell": name, "attempt": order.attempt, "status": "ok"})
            cells[name] = CellOutcome(status="ok")
    reason = f"stopped: {stop.reason}" if stop() else None
    note("end", attempt=order.attempt)
    return Outcome(
        launch=order.launch.id, attempt=order.attempt, study=order.study, status="ok", reason=reason, cells=cells
    )
