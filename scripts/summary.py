#!/usr/bin/env python3
"""Print what a study's run came to: the comparison, the counts, and what failed. Exit status 1 if a cell failed."""

from __future__ import annotations

import argparse
from pathlib import Path

from servegauge.base.errors import door
from servegauge.report.terminal import PROFILE, summarise


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", help="name of the study, a file in config/studies/")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder with dataset/; default: results")
    parser.add_argument(
        "--profile", default=PROFILE, help=f"profile in the commands that it prints; default: {PROFILE}"
    )
    arguments = parser.parse_args()
    text, failed = summarise(arguments.results, arguments.study, arguments.profile)
    print(text)
    return 1 if failed else 0


if __name__ == "__main__":
    door(main)
