"""`servegauge probe`, and rule `probe`: measure what a platform can do by itself."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from servegauge.base import environment
from servegauge.base.files import write_json
from servegauge.inputs.config_files import load_model
from servegauge.plan.config import load_platform
from servegauge.submit.backends import backends
from servegauge.submit.monitor import POLL_S, Cancelled
from servegauge.submit.probe_order import make_order, submit

HELP = "Measure what a platform can do by itself: products, memory, storage, network, collectives."
EXAMPLE = """
  servegauge probe --platform own-cpu --probes light --quick
  servegauge probe --platform h100-vgpu --submit slurm --nodes 2 --probes collectives,network
"""


def sizes(text: str) -> list[int]:
    """Tensor parallel sizes with commas between them."""
    return [int(size) for size in text.split(",")]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--platform", required=True, help="a file in config/platforms/, by name")
    add("--probes", default="all", help="all, light (no torch needed), or names: gemm,memcpy,...")
    add("--quick", action="store_true", help="few sizes and samples: seconds, not minutes")
    add("--models", default="", help="files in config/models/ whose shapes and storage are measured")
    add("--tp", type=sizes, default="1", help="tensor parallel sizes of model_gemm, such as 1,2")
    add("--processes", type=int, default=1, help="processes of each probe; a comparison's verdict takes 5 a side")
    add("--nodes", type=int, default=1, help="nodes of the job, for collectives and network")
    add("--python", help="interpreter of the environment to measure in (default: envs/probes if built)")
    add("--submit", choices=sorted(backends()), default="local", help="how the job reaches its node")
    add("--poll-s", type=float, default=POLL_S, help="seconds between two questions to Slurm")
    add("--out", type=Path, help="folder of the documents (default results/probes/<platform>)")
    add("--log", type=Path, help="a file that gets what is said, too")
    add("--stamp", type=Path, help="file that is written last and names the documents")


def run(arguments: argparse.Namespace) -> int:
    environment.restore(os.environ)
    root = Path.cwd()
    order = make_order(
        load_platform(root, arguments.platform),
        arguments.probes,
        arguments.out or Path("results/probes") / arguments.platform,
        root,
        size="quick" if arguments.quick else "full",
        models=[{**load_model(root, name), "tp": arguments.tp} for name in arguments.models.split(",") if name],
        python=arguments.python,
        nodes=arguments.nodes,
        processes=arguments.processes,
    )
    try:
        documents = [str(path) for path in submit(order, arguments.submit, arguments.poll_s, arguments.log)]
    except Cancelled as cancelled:
        return 128 + cancelled.number
    print("\n".join(documents))
    if arguments.stamp:
        write_json(arguments.stamp, {"platform": arguments.platform, "documents": documents})
    return 0
