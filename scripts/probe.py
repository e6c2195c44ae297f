"""Measure what a platform can do by itself: the door of rule `probe`. Run it on the platform's node."""

import argparse
import sys
from pathlib import Path

from servegauge.config import load_model, load_platform
from servegauge.errors import door
from servegauge.probes import run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--platform", required=True, help="a file in config/platforms/, by name")
    parser.add_argument("--probes", default="all", help="all, light (no torch needed), or names: gemm,memcpy,...")
    parser.add_argument("--quick", action="store_true", help="few sizes and samples: seconds, not minutes")
    parser.add_argument("--models", default="", help="files in config/models/ whose shapes and storage are measured")
    parser.add_argument("--tp", default="1", help="tensor parallel sizes of model_gemm, such as 1,2")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the environment to measure in")
    parser.add_argument("--out", type=Path, help="folder of the documents (default results/probes/<platform>)")
    given = parser.parse_args()
    root = Path.cwd()
    tp = [int(size) for size in given.tp.split(",")]
    models = [{**load_model(root, name), "tp": tp} for name in given.models.split(",") if name]
    written = run.run_platform(
        load_platform(root, given.platform),
        run.names(given.probes, given.python),
        given.out or Path("results/probes") / given.platform,
        size="quick" if given.quick else "full",
        models=models,
        python=given.python,
    )
    for path in written.values():
        print(path)
    return 0


if __name__ == "__main__":
    door(main)
