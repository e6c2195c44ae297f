"""`servegauge plan`: a study's launches and cells, what is measured, what the rest will take."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path

from servegauge.base.errors import UserError
from servegauge.cli import options
from servegauge.contract.config_types import Study
from servegauge.plan import documents
from servegauge.plan.config import load_config, load_study
from servegauge.plan.expand import expand

HELP = "Show a study's launches and cells, what is measured, and what the rest will take."
EXAMPLE = """
  servegauge plan demo
  servegauge plan vgpu-vs-bare-metal --format csv > cells.csv
  servegauge plan vgpu-vs-bare-metal --power 0.02
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    options.add_study(add)
    formats = ("table", "csv", "json")
    add("--format", choices=formats, default="table", help="a line a launch, a line a cell, or everything")
    add("--cells", default="*", metavar="GLOB", help="only cells whose id matches")
    difference = options.number("a difference such as 0.02 for 2 %", 1e-4, 0.999)
    add("--power", type=difference, metavar="SHARE", help="say how many repeats see a difference: 0.02 for 2 %%")
    add("--over-budget", action="store_true", help="exit with 0 although the plan is over the budget")


def run(arguments: argparse.Namespace) -> int:
    root = Path()
    results = root / "results"
    plan = expand(load_study(root, arguments.study or load_config(root, {})["study"])).selected(arguments.cells)
    sys.stdout.write(documents.render(plan, results, arguments.format))
    if arguments.format == "table":
        print(f"\n{what_it_sees(plan.study, results, arguments.power)}")
    documents.total(plan, documents.state(plan, results), results, arguments.over_budget)
    return 0


def what_it_sees(study: Study, results: Path, effect: float | None = None) -> str:
    """What the repeats of a study can see: by the scatter that its dataset measured, else by an assumed one."""
    from servegauge.compare.compare import primary_metrics  # reading a dataset costs a second
    from servegauge.compare.measured import launch_deviations
    from servegauge.compare.power import plan_text
    from servegauge.compare.results import MARGIN
    from servegauge.dataset.study_view import Study

    known: dict[str, tuple[float, int]] = {}
    titles: dict[str, str] = {}
    try:
        measured = Study(results, study["name"])
        found = launch_deviations(measured)
        known = {name: found[name] for name in primary_metrics(measured) if name in found}
        titles = {metric.name: metric.title for metric in measured.metrics}
    except UserError:  # nothing was merged yet, or nothing of this study
        pass
    margin = study.get("compare", {}).get("margin", MARGIN)
    return "\n".join([plan_text(study["matrix"]["repeat"], known, margin, effect, titles), *_windows_see(study)])


def _windows_see(study: Study) -> Iterator[str]:
    """What one cell can see, whatever is repeated: an overload, a capacity."""
    from servegauge.contract.capacity import PRECISION, scatter
    from servegauge.contract.flag_registry.saturated import overload_seen

    matrix, load = study["matrix"], study.get("load", {})
    slowest = min(matrix.get("rate") or [0])
    requests = load.get("requests") or int(slowest * (load.get("duration_s") or 0))
    if matrix.get("rate") and requests:
        often, seldom = (100 * overload_seen(requests, spread) for spread in (0.0, 1.0))
        yield (
            f"  windows of {requests} requests show an overload of 5 % (saturated) in about {often:.0f} % of cells "
            f"whose answers take equal time, {seldom:.0f} % where their times deviate by their mean"
        )
    if matrix.get("capacity") and load.get("requests"):
        enough = math.ceil((scatter(1) / PRECISION) ** 2 / 100) * 100
        yield (
            f"  a search for the capacity with {load['requests']} requests a rate scatters by chance by up to "
            f"{100 * scatter(load['requests']):.0f} % between repeats; {100 * PRECISION:.0f} % takes about {enough} "
            "(fewer with constant arrivals, answers of equal time or many slots)"
        )
