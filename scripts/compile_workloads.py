#!/usr/bin/env python3
"""Freeze the workloads of a study's plan: prompts, arrival times and answer lengths, the same bytes everywhere."""

from __future__ import annotations

import argparse
from pathlib import Path

from servegauge.base.errors import run_and_exit
from servegauge.workloads.compile import compile_plan


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plan", type=Path, required=True, help="results/plan/STUDY.json")
    parser.add_argument("--out", type=Path, required=True, help="list to write: results/workloads/STUDY.json")
    parser.add_argument("--results", type=Path, default=Path("results"), help="default: results")
    parser.add_argument("--root", type=Path, default=Path(), help="the repository; default: here")
    parser.add_argument("--processes", type=int, default=1, help="compile this many at a time; default: 1")
    asked = parser.parse_args()
    compile_plan(
        asked.plan, asked.out, asked.results, asked.root, asked.processes, lambda line: print(line, flush=True)
    )
    return 0


if __name__ == "__main__":
    run_and_exit(main)
