"""`servegauge probe`, and rule `probe`: measure what a platform can do by itself."""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from servegauge.base import environment
from servegauge.base.errors import UserError
from servegauge.base.files import write_json
from servegauge.cli import options
from servegauge.plan.probes import AskedProbes
from servegauge.submit.monitor import Cancelled
from servegauge.submit.probe_order import by_names, submit

HELP = "Measure what a platform can do by itself: products, memory, storage, network, collectives."
EXAMPLE = """
  servegauge probe --platform own-cpu --probes light --quick
  servegauge probe --platform h100-vgpu --submit slurm --nodes 2 --probes collectives,network
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--platform", type=options.name, required=True, help="a file in config/platforms/, by name")
    add("--probes", type=options.name, default="all", help="all, light (no torch needed), or names: gemm,memcpy,...")
    add("--quick", action="store_true", help="few sizes and samples: seconds, not minutes")
    add("--models", default="", help="files in config/models/ whose shapes and storage are measured")
    add("--tp", type=options.counts("sizes"), default="1", help="tensor parallel sizes of model_gemm, such as 1,2")
    processes = "processes of each probe; a comparison's verdict takes 5 a side"
    add("--processes", type=options.count("processes"), default=1, help=processes)
    add("--nodes", type=options.count("nodes"), default=1, help="nodes of the job, for collectives and network")
    python = "interpreter of the environment to measure in (default: envs/probes if built)"
    add("--python", type=options.name, help=python)
    options.add_submit(add)
    add("--out", type=options.new_folder, help="folder of the documents (default results/probes/<platform>)")
    add("--log", type=options.new_file, help="a file that gets what is printed, too")
    add("--stamp", type=options.new_file, help="file that is written last and names the documents")


def run(arguments: argparse.Namespace) -> int:
    environment.restore(os.environ)
    root = Path.cwd()
    if arguments.nodes > 1 and arguments.submit != "slurm":
        raise UserError(f"--nodes {arguments.nodes}: a job of several nodes is one of Slurm; add --submit slurm")
    if arguments.python and not shutil.which(arguments.python):
        raise UserError(f"--python {arguments.python}: there is no such program; give the path of an interpreter")
    asked = AskedProbes(
        names=arguments.probes,
        size="quick" if arguments.quick else "full",
        processes=arguments.processes,
        models=tuple(name for name in arguments.models.split(",") if name),
        tp=tuple(arguments.tp),
    )
    order = by_names(arguments.platform, asked, root, out=arguments.out, python=arguments.python, nodes=arguments.nodes)
    try:
        documents = [str(path) for path in submit(order, arguments.submit, arguments.poll_s, arguments.log)]
    except Cancelled as cancelled:
        return 128 + cancelled.number
    print("\n".join(documents))
    if arguments.stamp:
        write_json(arguments.stamp, {"platform": arguments.platform, "documents": documents})
    return 0
