#!/usr/bin/env python3
"""Build the virtual environments of engines and tools from their lock files, if they are not there yet."""

from __future__ import annotations

import argparse
from pathlib import Path

from servegauge.base.errors import run_and_exit
from servegauge.inputs.environments import build_environment, environment_name


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="environments: envs/NAME.txt each")
    parser.add_argument(
        "--folder", action="append", default=[], help="the same by its folder in .cache/envs/, as the workflow asks"
    )
    parser.add_argument("--root", type=Path, default=Path(), help="the repository; default: here")
    arguments = parser.parse_args()
    names = [*arguments.names, *(environment_name(folder, arguments.root) for folder in arguments.folder)]
    if not names:
        parser.error("name at least one environment")
    for name in names:
        print(build_environment(name, arguments.root, lambda line: print(line, flush=True)))
    return 0


if __name__ == "__main__":
    run_and_exit(main)
