#!/usr/bin/env python3
"""Measure what a platform can do by itself: the door of rule `probe`."""

import argparse
from pathlib import Path

from servegauge.base.errors import door
from servegauge.base.files import write_json
from servegauge.plan.config import load_model, load_platform
from servegauge.submit.monitor import MODES, POLL_S
from servegauge.submit.probe_order import make_order, submit


def sizes(text: str) -> list[int]:
    return [int(size) for size in text.split(",")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--platform", required=True, help="a file in config/platforms/, by name")
    parser.add_argument("--probes", default="all", help="all, light (no torch needed), or names: gemm,memcpy,...")
    parser.add_argument("--quick", action="store_true", help="few sizes and samples: seconds, not minutes")
    parser.add_argument("--models", default="", help="files in config/models/ whose shapes and storage are measured")
    parser.add_argument("--tp", type=sizes, default="1", help="tensor parallel sizes of model_gemm, such as 1,2")
    parser.add_argument("--nodes", type=int, default=1, help="nodes of the job, for collectives and network")
    parser.add_argument("--python", help="interpreter of the environment to measure in (default: envs/probes if built)")
    parser.add_argument("--submit", choices=MODES, default="local", help="how the job reaches its node")
    parser.add_argument("--poll-s", type=float, default=POLL_S, help="seconds between two questions to Slurm")
    parser.add_argument("--out", type=Path, help="folder of the documents (default results/probes/<platform>)")
    parser.add_argument("--stamp", type=Path, help="file that is written last and names the documents")
    given = parser.parse_args()
    root = Path.cwd()
    order = make_order(
        load_platform(root, given.platform),
        given.probes,
        given.out or Path("results/probes") / given.platform,
        root,
        size="quick" if given.quick else "full",
        models=[{**load_model(root, name), "tp": given.tp} for name in given.models.split(",") if name],
        python=given.python,
        nodes=given.nodes,
    )
    documents = [str(path) for path in submit(order, given.submit, given.poll_s)]
    print("\n".join(documents))
    if given.stamp:
        write_json(given.stamp, {"platform": given.platform, "documents": documents})
    return 0


if __name__ == "__main__":
    door(main)
