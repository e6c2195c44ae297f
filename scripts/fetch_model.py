#!/usr/bin/env python3
"""Fetch models from their hub at the pinned revision, with hashes, on a machine that reaches it."""

from __future__ import annotations

import argparse
from pathlib import Path

from servegauge.base.errors import run_and_exit
from servegauge.inputs.hub import fetch_folder, fetch_named


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="models: config/models/NAME.yaml each")
    parser.add_argument(
        "--folder", action="append", default=[], help="the same by its folder in .cache/models/, as the workflow asks"
    )
    parser.add_argument("--root", type=Path, default=Path(), help="the repository; default: here")
    arguments = parser.parse_args()
    if not arguments.names and not arguments.folder:
        parser.error("name at least one model")

    def say(line: str) -> None:
        print(line, flush=True)

    for name in arguments.names:
        print(fetch_named(name, arguments.root, say))
    for folder in arguments.folder:
        print(fetch_folder(folder, arguments.root, say))
    return 0


if __name__ == "__main__":
    run_and_exit(main)
