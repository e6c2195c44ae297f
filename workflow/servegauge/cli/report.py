"""`servegauge report`, and rule `render_report`: a study's page, its figures, its comparison; or a summary here."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from servegauge.cli import options
from servegauge.report.terminal import PROFILE, summarise
from servegauge.submit.orders import read_plan

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


def merge_and_compare(results: Path, stamp: Path | None = None) -> list[str]:
    """Bring the dataset and its comparisons up to date, then write `stamp`; what a person should know, a line each."""
    from servegauge.compare.tables import write_tables
    from servegauge.dataset.merge import merge, sentences
    from servegauge.dataset.stamp import seen, write_stamp

    # Before anything is read: what changes meanwhile makes the next merge necessary.
    made_of = seen(results, read_plan(results / "plan" / f"{stamp.stem}.json")) if stamp else ""
    merged = merge(results)
    said = [*sentences(merged), *write_tables(results)]
    if stamp:
        write_stamp(stamp, results, made_of, merged.to_dict())
    return said


def bring_up_to_date(results: Path, study: str) -> list[str]:
    """Merge what a run left that was cut off before or while it did; what a person should know of it, a line each.

    Nothing happens where the dataset holds all that was measured, or was copied here without it.
    """
    from servegauge.dataset.stamp import forget_broken_parts, is_whole, stamp_file

    plan = results / "plan" / f"{study}.json"
    copied = (results / "dataset").is_dir() and not any((results / kind).is_dir() for kind in ("cells", "launches"))
    if not plan.is_file() or copied or is_whole(results, read_plan(plan)):
        return []
    forget_broken_parts(results, study)
    return merge_and_compare(results, stamp_file(results, study))


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
