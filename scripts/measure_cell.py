#!/usr/bin/env python3
"""Measure one cell in a launch of its own."""

import argparse
from pathlib import Path

from servegauge.submit import turn

turn.take()  # before anything large is imported

from servegauge.base.errors import run_and_exit
from servegauge.cli.measure import measure_cell
from servegauge.cli.options import add_submit


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plan", type=Path, required=True, help="results/plan/<study>.json")
    parser.add_argument("--cell", required=True, help="id of the cell")
    add_submit(parser.add_argument)
    parser.add_argument("--log", type=Path, help="a file that gets what is printed, too")
    parser.add_argument("--out", type=Path, required=True, help="results/cells/<cell>/cell.json")
    given = parser.parse_args()
    return measure_cell(given.plan, given.cell, given.submit, given.out, given.poll_s, given.log)


if __name__ == "__main__":
    run_and_exit(main)
