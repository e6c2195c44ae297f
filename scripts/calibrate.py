#!/usr/bin/env python3
"""Measure the load generator's own error on this node, against the paced server, over a grid of loads.

Writes every point as JSON and prints a table: error = reported - true. The short form takes some seconds and is what
runs before every launch; the full one takes a few minutes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from servegauge.base.errors import door
from servegauge.cli import calibrate


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--short", action="store_true", help="the few points that run before every launch")
    options.add_argument("--cpus", metavar="N,N,...", help="pin the generator to these CPUs")
    options.add_argument("--server-cpus", metavar="N,...", help="pin the paced server; default: a CPU outside --cpus")
    options.add_argument("--out", type=Path, default=Path("calibration.json"), help="default: calibration.json")
    options.add_argument("--json", action="store_true", help="print the result as JSON")
    given = options.parse_args()
    return calibrate.run(given.short, given.cpus, given.server_cpus, given.out, given.json)


if __name__ == "__main__":
    door(main)
