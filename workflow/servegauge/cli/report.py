"""`servegauge report`, and rule `render_report`: a study's page, its figures, its comparison; or a summary here."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from servegauge.cli import options
from servegauge.report.terminal import PROFILE, summarise

HELP = "Write a study's report from the dataset, or print its summary."
EXAMPLE = """
  servegauge report demo
  servegauge report demo --text
  servegauge report demo --results copied/results --out demo.html
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("study", type=options.name, help="name of the study, a file in config/studies/")
    options.add_results(add)
    add("--out", type=options.new_file, metavar="FILE", help="page to write; default: DIR/report/STUDY.html")
    add("--text", action="store_true", help="print the summary instead; exit status 1 if a cell failed")
    add("--profile", default=PROFILE, help=f"profile in the commands that --text prints; default: {PROFILE}")


def bring_up_to_date(results: Path, study: str) -> list[str]:
    """Merge what a run left that was cut off before it came to that; what a person should know of it, a line each.

    Nothing happens where the dataset is newer than everything measured, or was copied here without it.
    """
    from servegauge.compare.tables import write_tables
    from servegauge.dataset.merge import merge, sentences

    if not (results / "plan" / f"{study}.json").is_file():
        return []
    dataset = results / "dataset" / "cells.parquet"
    made = dataset.stat().st_mtime_ns if dataset.is_file() else 0
    left = [
        *results.glob("cells/*/cell.json"),
        *results.glob("launches/*/attempt-*.json"),
        *results.glob("plan/*.json"),
    ]
    if all(path.stat().st_mtime_ns <= made for path in left):
        return []
    return [*sentences(merge(results)), *write_tables(results)]


def what_there_is(results: Path, study: str) -> None:
    """The dataset and the page of a run that did not come to its end; nothing where it had no plan yet."""
    from servegauge.report.page import render

    bring_up_to_date(results, study)
    if (results / "dataset" / "studies.parquet").is_file():
        render(results, study, results / "report" / f"{study}.html")


def run(arguments: argparse.Namespace) -> int:
    for line in bring_up_to_date(arguments.results, arguments.study):
        print(line, file=sys.stderr)
    if arguments.text:
        text, failed = summarise(arguments.results, arguments.study, arguments.profile)
        print(text)
        return 1 if failed else 0
    from servegauge.report.page import render  # the figures' library takes a second to import

    out = arguments.out or arguments.results / "report" / f"{arguments.study}.html"
    render(arguments.results, arguments.study, out)
    print(out)
    return 0
