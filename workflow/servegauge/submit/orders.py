"""What one job is asked to do: `order.json` of an attempt, made from the plan.

A plan of 10,000 cells is a large document, and the process that waits for a job must stay small: so the order is made
by a short-lived process (`python -m servegauge.submit.orders`), which reads the plan, writes the order and is gone.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from servegauge.base.errors import UserError, did_you_mean, run_and_exit
from servegauge.base.files import read_json, write_json


def attempt_folder(results: Path, launch: str, attempt: int) -> Path:
    """Where everything that belongs to one attempt lies."""
    return results / "launches" / launch / f"attempt-{attempt}"


def is_measured(results: Path, cell: str) -> bool:
    """True when `cell` is measured: its folder appears whole or not at all."""
    return (results / "cells" / cell / "cell.json").is_file()


def read_plan(path: Path) -> dict[str, Any]:
    """The plan at `path`; UserError where it is missing or no plan."""
    try:
        plan = read_json(path)
        _check_plan(plan)
    except (OSError, ValueError) as error:
        study = path.stem
        raise UserError(
            f"{path} is not a plan: {error}. Write it with: python scripts/write_plan.py {study} --out {path}"
        ) from error
    return plan


def _check_plan(plan: Any) -> None:
    """ValueError where `plan` lacks what an order is made of: it was edited, or written by another version."""
    if not isinstance(plan, dict) or not all(key in plan for key in ("study", "launches", "cells")):
        raise ValueError("it lacks study, launches or cells")
    if not isinstance(plan["study"], dict) or not isinstance(plan["study"].get("name"), str):
        raise ValueError("its study has no name")
    for part, keys in (("launches", ("id",)), ("cells", ("id", "launch"))):
        if not isinstance(plan[part], list):
            raise ValueError(f"its {part} are no list")
        for number, one in enumerate(plan[part]):
            for key in keys:
                if not isinstance(one, dict) or not isinstance(one.get(key), str):
                    raise ValueError(f"{part}[{number}] has no {key}")


def launch_of_cell(plan: Mapping[str, Any], cell: str) -> str:
    """Id of the launch that `cell` belongs to; UserError names the nearest cell."""
    for planned in plan["cells"]:
        if planned["id"] == cell:
            return str(planned["launch"])
    near = did_you_mean(cell, (planned["id"] for planned in plan["cells"]))
    raise UserError(f"study {plan['study']['name']!r} has no cell {cell!r}.{near}")


def make_order(
    plan: Mapping[str, Any], launch: str, attempt: int, results: Path, root: Path, cells: str = "*", run: str = ""
) -> dict[str, Any]:
    """The order of one attempt: the launch, and its cells that match the pattern `cells` and are not measured yet.

    Cells keep the plan's order. Cells that the plan skips are never ordered. UserError names the nearest launch.
    """
    study = plan["study"]
    spec = next((one for one in plan["launches"] if one["id"] == launch), None)
    if spec is None:
        near = did_you_mean(launch, (one["id"] for one in plan["launches"]))
        raise UserError(f"study {study['name']!r} has no launch {launch!r}.{near}")
    wanted = [
        planned
        for planned in plan["cells"]
        if planned["launch"] == launch
        and not planned.get("skipped")
        and fnmatch.fnmatchcase(planned["id"], cells)
        and not is_measured(results, planned["id"])
    ]
    return {
        "version": 1,
        "study": study["name"],
        "study_sha256": study.get("sha256"),
        "launch": spec,
        "attempt": attempt,
        "cells": wanted,
        "job": study.get("job") or {},
        "root": str(root.resolve()),
        "results": str(results),
        "deadline_utc": None,
        "run": run,
    }


def write_order(
    plan_file: Path, launch: str, attempt: int, results: Path, root: Path, cells: str = "*", run: str = ""
) -> dict[str, Any]:
    """Make the order in a process of its own and write it to the attempt's folder, if it has a cell; returns it.

    The launch's `spec.json` is written too. UserError with the child's message when it fails.
    """
    argv = [
        sys.executable, "-m", "servegauge.submit.orders", "--plan", str(plan_file), "--launch", launch,
        "--attempt", str(attempt), "--results", str(results), "--root", str(root), "--cells", cells or "*",
        "--run", run,
    ]  # fmt: skip
    made = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if made.returncode != 0:
        raise UserError(made.stderr.strip().removeprefix("error: ") or f"making the order of {launch} failed")
    return dict(json.loads(made.stdout))


def find_launch(plan_file: Path, cell: str) -> str:
    """Id of the launch that `cell` belongs to, looked up in a process of its own."""
    argv = [sys.executable, "-m", "servegauge.submit.orders", "--plan", str(plan_file), "--launch-of", cell]
    found = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if found.returncode != 0:
        raise UserError(found.stderr.strip().removeprefix("error: ") or f"looking up {cell} in {plan_file} failed")
    return found.stdout.strip()


def _time_limit(study: Mapping[str, Any], order: Mapping[str, Any], results: Path) -> int:
    """Minutes that the job asks for, as the plan says it: from the estimate, where the study does not set them."""
    # Here, in the child: the process that waits imports this module too and must stay small.
    from servegauge.contract.spec import Cell, Launch
    from servegauge.plan.estimate import assumed, estimate_cells, time_limit_min

    try:
        launch, cells = Launch.from_dict(order["launch"]), [Cell.from_dict(cell) for cell in order["cells"]]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"the plan of study {study['name']!r} was edited, or written by another version: {order['launch']['id']} "
            f"or a cell of it lacks {error}. Write it again with: python scripts/write_plan.py {study['name']}"
        ) from error
    return time_limit_min(study, launch, estimate_cells(launch, cells, results, assumed(study)).minutes)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--launch-of", metavar="CELL")
    parser.add_argument("--launch")
    parser.add_argument("--attempt", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--root", type=Path, default=Path())
    parser.add_argument("--cells", default="*")
    parser.add_argument("--run", default="")
    arguments = parser.parse_args()
    plan = read_plan(arguments.plan)
    if arguments.launch_of:
        print(launch_of_cell(plan, arguments.launch_of))
        return 0
    results = arguments.results
    order = make_order(
        plan, arguments.launch, arguments.attempt, results, arguments.root, arguments.cells, arguments.run
    )
    folder = attempt_folder(results, arguments.launch, arguments.attempt)
    try:
        if order["cells"]:
            order["time_min"] = _time_limit(plan["study"], order, results)
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder.parent / "spec.json").exists():
                write_json(folder.parent / "spec.json", order["launch"])
            write_json(folder / "order.json", order)
        json.dump(order, sys.stdout)
    except OSError as error:
        raise UserError(
            f"{error.filename or folder} cannot be written: {error.strerror}. Nothing was submitted."
        ) from error
    return 0


if __name__ == "__main__":
    run_and_exit(main)
