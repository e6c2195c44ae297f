"""`servegauge report`, and rule `render_report`: a study's page, its figures, its comparison; or a summary here."""

from __future__ import annotations

import argparse
from pathlib import Path

from servegauge.report.terminal import PROFILE, summarise

HELP = "Write a study's report from the dataset, or print its summary."
EXAMPLE = """
  servegauge report demo
  servegauge report demo --text
  servegauge report demo --results copied/results --out demo.html
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("study", help="name of the study, a file in config/studies/")
    add("--results", type=Path, default=Path("results"), help="folder with dataset/; default: results")
    add("--out", type=Path, help="page to write; default: RESULTS/report/STUDY.html")
    add("--text", action="store_true", help="print the summary instead; exit status 1 if a cell failed")
    add("--profile", default=PROFILE, help=f"profile in the commands that --text prints; default: {PROFILE}")


def run(arguments: argparse.Namespace) -> int:
    if arguments.text:
        text, failed = summarise(arguments.results, arguments.study, arguments.profile)
        print(text)
        return 1 if failed else 0
    from servegauge.report.page import render  # the figures' library takes a second to import

    out = arguments.out or arguments.results / "report" / f"{arguments.study}.html"
    render(arguments.results, arguments.study, out)
    print(out)
    return 0
