"""`servegauge join`: bring in what the same study measured on another cluster."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from servegauge.base.errors import UserError
from servegauge.cli import options
from servegauge.contract.records.base import DamagedRecord, read
from servegauge.contract.records.specs import LaunchSpec
from servegauge.exchange.join import join
from servegauge.plan.config import load_platform

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
        for line in named_otherwise(arguments.results, found.names("launches"), Path()):
            print(line)
        print("The same snakemake command, without platforms=, merges them and writes the report.")
    return 0


def named_otherwise(results: Path, launches: Iterable[str], root: Path) -> list[str]:
    """A line for each platform of `launches` whose file below `root` is not the one that they were measured with.

    What decides a launch's name differs then, so the study here would ask for the same launches once more, here.
    """
    lines: dict[str, str] = {}
    for launch in launches:
        with contextlib.suppress(FileNotFoundError, DamagedRecord, UserError):
            was = read(results / "launches" / launch / "spec.json", LaunchSpec).launch
            now = replace(was, platform=load_platform(root, was.platform["name"]))
            before, after = was.identity["platform"], now.identity["platform"]
            if keys := [key for key in before if (before[key] or None) != (after[key] or None)]:
                name = was.platform["name"]
                lines[name] = (
                    f"{name}: config/platforms/{name}.yaml has another {' and '.join(keys)} here than where it was "
                    "measured, so the study here asks for launches of other names. Copy the file from there, or they "
                    "are measured again here."
                )
    return list(lines.values())
