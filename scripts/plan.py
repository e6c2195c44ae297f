"""Show the plan of a study: its launches and cells, what is measured, what the rest will take."""

import argparse
import sys
from pathlib import Path

from servegauge.base.errors import door
from servegauge.plan import documents
from servegauge.plan.config import load_config, load_study
from servegauge.plan.expand import expand


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "study", nargs="?", help="name of a file in config/studies/; without it, the one of config.yaml"
    )
    parser.add_argument(
        "--format",
        choices=("table", "csv", "json"),
        default="table",
        help="a line a launch, a line a cell, or everything",
    )
    parser.add_argument("--cells", default="*", metavar="GLOB", help="only cells whose id matches")
    parser.add_argument("--over-budget", action="store_true", help="exit with 0 although the plan is over the budget")
    arguments = parser.parse_args()
    root = Path()
    name = arguments.study or load_config(root, {})["study"]
    expanded = expand(load_study(root, name)).selected(arguments.cells)
    sys.stdout.write(documents.render(expanded, root / "results", arguments.format))
    documents.total(expanded, documents.state(expanded, root / "results"), root / "results", arguments.over_budget)


if __name__ == "__main__":
    door(main)
