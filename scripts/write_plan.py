#!/usr/bin/env python3
"""Write a study's plan: its launches, cells and workloads, as JSON that the later rules read."""

import argparse
from pathlib import Path

from servegauge.base.errors import run_and_exit
from servegauge.contract.records.base import write
from servegauge.plan.config import load_study
from servegauge.plan.expand import expand


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", help="name of a file in config/studies/, without .yaml")
    parser.add_argument("--out", type=Path, required=True, help="results/plan/<study>.json")
    arguments = parser.parse_args()
    write(arguments.out, expand(load_study(Path(), arguments.study)))


if __name__ == "__main__":
    run_and_exit(main)
