#!/usr/bin/env python3
"""Bring results/dataset/ up to date with everything measured: plans, launches, cells and probes of every study."""

from __future__ import annotations

import argparse
from pathlib import Path

from servegauge.base.errors import run_and_exit
from servegauge.cli.report import merge_and_compare


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="folder to read and write; default: results"
    )
    parser.add_argument(
        "--stamp",
        type=Path,
        metavar="DIR/dataset/merged/STUDY.json",
        help="file that is written last and says what was merged",
    )
    arguments = parser.parse_args()
    print("\n".join(merge_and_compare(arguments.results, arguments.stamp)))
    return 0


if __name__ == "__main__":
    run_and_exit(main)
