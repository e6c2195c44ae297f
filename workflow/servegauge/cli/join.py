"""`servegauge join`: bring in what the same study measured on another cluster."""

from __future__ import annotations

import argparse
from pathlib import Path

from servegauge.cli import options
from servegauge.exchange.join import join

HELP = "Bring another results folder's cells, launches, traces and probes in."
EXAMPLE = """
One side of a study on each of two clusters, A and B, then both in one report:
  A$ snakemake --profile hlrs --config study=vgpu-vs-bare-metal platforms=h100-bare-metal
  B$ snakemake --profile hlrs --config study=vgpu-vs-bare-metal platforms=h100-vgpu
On A, with B's folder on a disk that both see, or a copy of it; then the command of A without platforms=:
  servegauge join /from-b/results --label cluster-b
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("other", type=options.path, metavar="OTHER/results", help="the results folder to take from; it is only read")
    label = "what the report calls the place it comes from; default: elsewhere"
    add("--label", type=options.name, default="elsewhere", help=label)
    here = "the results folder to bring it into; default: results"
    add("--results", type=options.new_folder, default=Path("results"), metavar="DIR", help=here)


def run(arguments: argparse.Namespace) -> int:
    found = join(arguments.other, arguments.results, arguments.label)
    counts = [f"{len(names)} {kind}" for kind in ("launches", "cells", "traces") if (names := found.names(kind))]
    print(f"{arguments.results}: {', '.join(counts) or 'nothing'} new; {found.same} files were here already")
    if found.unfinished:
        print(
            f"left for the next time: {len(found.unfinished)} cells or traces of attempts that have not ended, "
            f"the first is {found.unfinished[0]}"
        )
    if found.new:
        print("The same snakemake command, without platforms=, merges them and writes the report.")
    return 0
