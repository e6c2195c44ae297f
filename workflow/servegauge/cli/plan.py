"""`servegauge plan`: a study's launches and cells, what is measured, what the rest will take."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from servegauge.plan import documents
from servegauge.plan.config import load_config, load_study
from servegauge.plan.expand import expand

HELP = "Show a study's launches and cells, what is measured, and what the rest will take."
EXAMPLE = """
  servegauge plan demo
  servegauge plan vgpu-vs-bare-metal --format csv > cells.csv
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("study", nargs="?", help="name of a file in config/studies/; default: the one of config/config.yaml")
    formats = ("table", "csv", "json")
    add("--format", choices=formats, default="table", help="a line a launch, a line a cell, or everything")
    add("--cells", default="*", metavar="GLOB", help="only cells whose id matches")
    add("--over-budget", action="store_true", help="exit with 0 although the plan is over the budget")


def run(arguments: argparse.Namespace) -> int:
    root = Path()
    results = root / "results"
    name = arguments.study or load_config(root, {})["study"]
    plan = expand(load_study(root, name)).selected(arguments.cells)
    sys.stdout.write(documents.render(plan, results, arguments.format))
    documents.total(plan, documents.state(plan, results), results, arguments.over_budget)
    return 0
