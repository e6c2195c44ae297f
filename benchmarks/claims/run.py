#!/usr/bin/env python3
"""Claims of the comparison held against simulated studies whose truth is known; prints tables for docs/statistics.md.

    python benchmarks/claims/run.py                  # 1,000 studies a setting, about a quarter of an hour on two cores
    python benchmarks/claims/run.py --studies 100    # a minute

Every study goes through the same `compare()` as a measured one: tests/simulated_studies.py draws them.
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.simulated_studies import Found, Setting, judge, stop

SEED = 20261126
REPEATS = (3, 5, 10)
COVERAGE = [Setting(r, d, t) for r in REPEATS for d in (0.0, 0.01, 0.03, 0.05) for t in (1.0, 1.05)]
HARD = [
    Setting(r, 0.03, 1.05, **how)
    for how in (
        {"unequal": True},
        {"distinct": True},
        {"distinct": True, "unequal": True},
        {"paired": False},
        {"paired": False, "unequal": True},
    )
    for r in REPEATS
]
MARGIN = [Setting(r, d, 1.02) for r in REPEATS for d in (0.001, 0.003, 0.01)]
STOPS = [(Setting(3, d, 1.05), metrics) for metrics in (1, 3) for d in (0.005, 0.01, 0.015, 0.02, 0.03)]
POWER = [Setting(r, 0.01, 1.05) for r in REPEATS]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000, help="simulated studies a setting; default: 1000")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="default: one for each CPU")
    arguments = parser.parse_args()
    settings = list(dict.fromkeys([*COVERAGE, *HARD, *MARGIN, *POWER]))
    with ProcessPoolExecutor(arguments.processes) as pool:
        ask = partial(judge, studies=arguments.studies, seed=SEED)
        found = dict(zip(settings, pool.map(ask, settings), strict=True))
        stopped = pool.map(partial(stop_line, studies=arguments.studies), STOPS)
        stops = [["setting", "primary intervals covered", "repeats"], ["---"] * 3, *stopped]
    for title, lines in [*tables(found), ("Studies that stop when their intervals are narrow", stops)]:
        print(f"\n{title}\n")
        print("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return 0


def stop_line(asked: tuple[Setting, int], studies: int) -> list[str]:
    """A row of the table of `job.stop: {half_width: 0.02, at_most: 12}`."""
    setting, metrics = asked
    found = stop(setting, 0.02, 12, metrics, studies, SEED)
    title = f"{100 * setting.deviation:g} %, {metrics} primary metric{'s' if metrics > 1 else ''}"
    return [title, share(found.coverage), f"{found.repeats / studies:.1f}"]


def tables(found: dict[Setting, Found]) -> list[tuple[str, list[list[str]]]]:
    """Titles, and rows of Markdown tables."""
    head = ["setting", "cells covered", "overall covered", "any cell coloured", "any primary coloured"]
    coverage = [head, ["---"] * 5]
    for setting in (*COVERAGE, *HARD):
        one = found[setting]
        null = setting.truth == 1
        coverage.append(
            [
                setting.words(),
                share(one.coverage),
                share(one.coverage_overall),
                share(one.coloured_cell / one.studies) if null else "",
                share(one.coloured_overall / one.studies) if null else "",
            ]
        )
    margin = [["setting", "cells called equal", "studies with any"], ["---"] * 3]
    for setting in MARGIN:
        one = found[setting]
        margin.append([setting.words(), share(one.equal_cells / one.cells), share(one.equal_cell / one.studies)])
    power = [["setting", "primary ratios seen", "cells of the table seen"], ["---"] * 3]
    for setting in POWER:
        one = found[setting]
        power.append([setting.words(), share(one.seen_overall / one.studies), share(one.seen_cells / one.cells)])
    return [
        ("Coverage of 95 % intervals, and false claims where nothing differs", coverage),
        ("Equality said of a difference as large as the margin (2 %)", margin),
        ("A difference of 5 % that is found", power),
    ]


def share(value: float) -> str:
    return f"{100 * value:.1f} %"


if __name__ == "__main__":
    raise SystemExit(main())
