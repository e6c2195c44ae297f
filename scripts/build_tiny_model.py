#!/usr/bin/env python3
"""Build the random-weight model that needs no hub: .cache/models/random-llama-SIZE as a folder and as .gguf."""

from __future__ import annotations

import argparse
from pathlib import Path

from servegauge.base.errors import run_and_exit
from servegauge.inputs.engines.tiny_sizes import SIZES
from servegauge.inputs.models import build_model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=sorted(SIZES), default="tiny")
    parser.add_argument("--root", type=Path, default=Path(), help="the repository; default: here")
    arguments = parser.parse_args()
    print(build_model(arguments.size, arguments.root, lambda line: print(line, flush=True)))
    return 0


if __name__ == "__main__":
    run_and_exit(main)
