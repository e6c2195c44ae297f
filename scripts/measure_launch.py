#!/usr/bin/env python3
"""Measure the missing cells of one launch: submit its job, or find the one that runs, and wait for its outcome."""

import argparse
from pathlib import Path

from servegauge.submit import turn

turn.take()  # before anything large is imported

from servegauge.base.errors import run_and_exit
from servegauge.cli.measure import measure_launch
from servegauge.cli.options import add_submit


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plan", type=Path, required=True, help="results/plan/<study>.json")
    parser.add_argument("--launch", required=True, help="id of the launch")
    parser.add_argument("--attempt", type=int, required=True, help="number of the attempt, from 0")
    add_submit(parser.add_argument)
    parser.add_argument("--cells", default="*", metavar="GLOB", help="only cells whose id matches")
    parser.add_argument(
        "--look", action="store_true", help="only where the study's intervals are not narrow enough yet (job.stop)"
    )
    parser.add_argument("--probes", action="store_true", help="run those of its platform in the same job, afterwards")
    parser.add_argument("--log", type=Path, help="a file that gets what is printed, too")
    parser.add_argument("--out", type=Path, required=True, help="results/launches/<launch>/attempt-<attempt>.json")
    given = parser.parse_args()
    return measure_launch(
        given.plan, given.launch, given.attempt, given.submit, given.out, given.cells, given.poll_s, given.log,
        given.look, given.probes,
    )  # fmt: skip


if __name__ == "__main__":
    run_and_exit(main)
