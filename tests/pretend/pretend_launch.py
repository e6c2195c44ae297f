"""A launch that measures nothing but behaves as the real one does towards its job: order, signals, deadline, outcome.

What a cell does stands in its `pretend`: `{"s": seconds, "does": "ok" | "fail" | "crash" | "deaf"}`;
`claims_s` is what it is held for before it starts. Each start is noted in `pretend.log` in the results folder, with the
process and the job, so that a test sees what ran where.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from servegauge.base.files import whole_folder, write_json


def measure(order):
    """Stand-in for `servegauge.launch.run.run_launch`."""
    results = Path(order["root"]) / order["results"]
    folder = results / "launches" / order["launch"]["id"] / f"attempt-{order['attempt']}"
    log = results / "pretend.log"
    asked = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, lambda number, _frame: asked.append(signal.Signals(number).name))

    def note(what, **more):
        entry = {"what": what, "time": time.time(), "pid": os.getpid(), "job": os.environ.get("SLURM_JOB_ID"), **more}
        with log.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    node = order["node"]
    note("start", attempt=order["attempt"], start=order["start"], node=node, deadline=order["deadline_utc"],
         gpus=os.environ.get("CUDA_VISIBLE_DEVICES"), cpus=len(os.sched_getaffinity(0)),
         nodename=os.environ.get("SLURMD_NODENAME"))  # fmt: skip
    if node["rank"] != 0:
        return {}
    cells = {}
    for cell in order["cells"]:
        name, pretend = cell["id"], cell.get("pretend") or {}
        end = time.time() + pretend.get("claims_s", pretend.get("s", 0.1))
        if (results / "cells" / name / "cell.json").exists():
            cells[name] = {"status": "ok", "reason": None}
            continue
        if order["deadline_utc"] and end > order["deadline_utc"] - 5:
            asked.append("the job's time limit is near")
        if asked:
            cells[name] = {"status": "not_run", "reason": f"stopped: {asked[0]}"}
            continue
        note("cell", cell=name, attempt=order["attempt"])
        with (folder / "progress.log").open("a") as file:
            file.write(f"cell {name}\n")
        end = time.time() + pretend.get("s", 0.1)
        while time.time() < end and (not asked or pretend.get("does") == "deaf"):
            time.sleep(0.02)
        if asked:
            cells[name] = {"status": "not_run", "reason": f"stopped: {asked[0]}"}
        elif pretend.get("does") == "fail":
            cells[name] = {"status": "failed", "reason": "pretended"}
        elif pretend.get("does") == "crash":
            raise RuntimeError("pretended crash")
        else:
            with whole_folder(results / "cells" / name) as target:
                write_json(target / "cell.json", {"cell": name, "attempt": order["attempt"], "status": "ok"})
            cells[name] = {"status": "ok", "reason": None}
    reason = f"stopped: {asked[0]}" if asked else None
    outcome = {"version": 1, "status": "ok", "reason": reason, "cells": cells}
    write_json(folder / "outcome.json", outcome)
    note("end", attempt=order["attempt"])
    return outcome
