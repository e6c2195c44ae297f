"""What one job is asked to do: `order.json` of an attempt, made from the plan.

A plan of 10,000 cells is a large document, and the process that waits for a job must stay small: so the order is made
by a short-lived process (`python -m servegauge.submit.orders`), which reads the plan, writes the order and is gone.
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
from pathlib import Path

import msgspec

from servegauge.base.errors import UserError, ask_child, run_and_exit
from servegauge.contract.config_types import Study
from servegauge.contract.records.base import DamagedRecord, decode, read, write
from servegauge.contract.records.order import Order, attempt_folder, is_measured
from servegauge.contract.records.plan import Plan


def read_plan(path: Path) -> Plan:
    """The plan at `path`; UserError where it is missing or no plan."""
    try:
        return read(path, Plan)
    except FileNotFoundError:
        raise DamagedRecord(path, Plan, "there is no such file") from None


def make_order(
    plan: Plan, launch: str, attempt: int, results: Path, root: Path, cells: str = "*", run: str = ""
) -> Order:
    """The order of one attempt: the launch, and its cells that match the pattern `cells` and are not measured yet.

    Cells keep the plan's order. Cells that the plan skips are never ordered. UserError names the nearest launch.
    """
    spec = plan.launch(launch)
    wanted = tuple(
        cell
        for cell in plan.cells_of(launch)
        if not cell.skipped and fnmatch.fnmatchcase(cell.id, cells) and not is_measured(results, cell.id)
    )
    return Order(
        study=plan.name,
        study_sha256=plan.study.get("sha256"),
        launch=spec,
        attempt=attempt,
        cells=wanted,
        job=plan.job,
        root=str(root.resolve()),
        results=str(results),
        run=run,
    )


def write_order(
    plan_file: Path, launch: str, attempt: int, results: Path, root: Path, cells: str = "*", run: str = "",
    probes: bool = False,
) -> Order:  # fmt: skip
    """Make the order in a process of its own and write it to the attempt's folder, if it has a cell; returns it.

    The launch's `spec.json` is written too. With `probes` its job is to run those of its platform afterwards.
    UserError with the child's message when it fails.
    """
    made = ask_child(
        "servegauge.submit.orders", "--plan", str(plan_file), "--launch", launch, "--attempt", str(attempt),
        "--results", str(results), "--root", str(root), "--cells", cells or "*", "--run", run,
        *(["--probes"] if probes else []), failed=f"making the order of {launch} failed",
    )  # fmt: skip
    return decode(made.encode(), Order, attempt_folder(results, launch, attempt) / "order.json")


def find_launch(plan_file: Path, cell: str) -> str:
    """Id of the launch that `cell` belongs to, looked up in a process of its own."""
    failed = f"looking up {cell} in {plan_file} failed"
    asked = ("--plan", str(plan_file), "--launch-of", cell)
    return ask_child("servegauge.submit.orders", *asked, failed=failed).strip()


def _time_limit(study: Study, order: Order) -> int:
    """Minutes that the job asks for, as the plan says it: from the estimate, where the study does not set them."""
    # Here, in the child: the process that waits imports this module too and must stay small.
    from servegauge.plan.estimate import assumed, estimate_cells, time_limit_min

    for spec in order.cells:
        _ = spec.cell  # UserError where its name is another today
    estimate = estimate_cells(order.launch, order.cells, Path(order.results), assumed(study))
    return time_limit_min(study, order.launch, estimate.minutes)


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
    parser.add_argument("--probes", action="store_true")
    arguments = parser.parse_args()
    plan = read_plan(arguments.plan)
    if arguments.launch_of:
        print(plan.cell(arguments.launch_of).launch)
        return 0
    results = arguments.results
    order = make_order(
        plan, arguments.launch, arguments.attempt, results, arguments.root, arguments.cells, arguments.run
    )
    folder = attempt_folder(results, arguments.launch, arguments.attempt)
    try:
        if order.cells:
            order = msgspec.structs.replace(order, time_min=_time_limit(plan.study, order))
            if arguments.probes:
                from servegauge.submit.probe_order import carried_by

                order = carried_by(order, plan)
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder.parent / "spec.json").exists():
                write(folder.parent / "spec.json", order.launch)
            write(folder / "order.json", order)
        sys.stdout.buffer.write(msgspec.json.encode(order))
    except OSError as error:
        raise UserError(
            f"{error.filename or folder} cannot be written: {error.strerror}. Nothing was submitted."
        ) from error
    return 0


if __name__ == "__main__":
    run_and_exit(main)
