"""`servegauge export`: a study of the dataset in another form."""

from __future__ import annotations

import argparse
from pathlib import Path

from servegauge.exchange.exporters import exporters

HELP = "Write a study of the dataset in another format."
EXAMPLE = """
  servegauge export demo --format csv --out demo-csv
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    known = exporters()
    add = parser.add_argument
    add("study", help="name of the study")
    formats = "; ".join(f"{one.name}: {one.writes}" for one in known.values())
    add("--format", choices=list(known), required=True, help=formats)
    add("--results", type=Path, default=Path("results"), help="folder with dataset/; default: results")
    add("--out", type=Path, required=True, help="folder for the files")


def run(arguments: argparse.Namespace) -> int:
    written = exporters()[arguments.format].export(arguments.results, arguments.study, arguments.out)
    print("\n".join(map(str, written)))
    return 0
