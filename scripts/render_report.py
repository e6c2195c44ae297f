#!/usr/bin/env python3
"""Write a study's report: one self-contained page, its figures as SVG and its comparison as CSV."""

from __future__ import annotations

import argparse
from pathlib import Path

from servegauge.base.errors import door
from servegauge.report.page import render


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", help="name of the study, a file in config/studies/")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder with dataset/; default: results")
    parser.add_argument("--out", type=Path, help="page to write; default: RESULTS/report/STUDY.html")
    arguments = parser.parse_args()
    out = arguments.out or arguments.results / "report" / f"{arguments.study}.html"
    render(arguments.results, arguments.study, out)
    print(out)
    return 0


if __name__ == "__main__":
    door(main)
