"""The other nodes' part in a platform's probes, where a job has several: answer the network, join the collectives.

The nodes find each other through files in the output folder, which all of them see, named by the job's meeting port so
that an earlier job's are never taken for this one's.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from servegauge.base.errors import UserError
from servegauge.base.files import read_json, write_json
from servegauge.contract.config_types import Platform
from servegauge.probes.harness.process import LIMIT_S, child_environment

WAIT_S = 120.0


def _file(out: Path, node: Mapping[str, Any], rank: int) -> Path:
    return out / f".node-{node['head']}-{node['head_port']}-{rank}.json"


def peers(out: Path, node: Mapping[str, Any]) -> list[dict[str, Any]]:
    """[{"host", "port"}] of the other nodes, once all of them answer; UserError when one does not in two minutes."""
    end = time.monotonic() + WAIT_S
    found = []
    for rank in range(1, int(node["nodes"])):
        file = _file(out, node, rank)
        while not file.exists():
            if time.monotonic() > end:
                raise UserError(
                    f"node {rank} of this job did not write {file} within {WAIT_S:g} s; do all nodes see it?"
                )
            time.sleep(0.1)
        found.append(read_json(file))
        file.unlink()
    return found


def take_part(
    platform: Platform,
    probes: Sequence[str],
    out: Path,
    size: str,
    node: Mapping[str, Any],
    python: str,
    processes: int = 1,
) -> None:
    """A further node's whole work: answer the network probe until its ranks of the collectives have ended.

    Without collectives it answers until the first node's network document is there. RuntimeError if the ranks fail.
    """
    with contextlib.ExitStack() as stack:
        if "network" in probes:
            process, port = _answer(child_environment(platform))
            stack.callback(process.wait)
            stack.callback(process.terminate)
            write_json(_file(out, node, int(node["rank"])), {"host": socket.gethostname(), "port": port})
        for _ in range(processes if "collectives" in probes else 0):
            _ranks(platform, size, node, python)
        if "network" in probes:
            _until((out / "network.json"), LIMIT_S[size] * processes)


def _answer(environment: Mapping[str, str]) -> tuple[subprocess.Popen[str], int]:
    argv = [sys.executable, "-m", "servegauge.probes.suite.network", "--host", "0.0.0.0"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=dict(environment))
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def _ranks(platform: Platform, size: str, node: Mapping[str, Any], python: str) -> None:
    """This node's ranks, in the environment to measure in: `python -m servegauge.probes.harness.nodes order.json`."""
    with tempfile.TemporaryDirectory() as folder:
        order = Path(folder) / "order.json"
        order.write_text(json.dumps({"platform": dict(platform), "size": size, "node": dict(node)}))
        argv = [python, "-m", "servegauge.probes.harness.nodes", str(order)]
        done = subprocess.run(argv, env=child_environment(platform), check=False)
        if done.returncode:
            raise RuntimeError(f"the ranks of node {node['rank']} ended with status {done.returncode}")


def _until(file: Path, limit_s: float) -> None:
    """Wait for a file that is written after now."""
    begin, end = time.time(), time.monotonic() + limit_s
    while time.monotonic() < end and not (file.exists() and file.stat().st_mtime >= begin - 1):
        time.sleep(0.2)


def main() -> int:
    """The ranks of this node in the group that the first node's probe makes."""
    from servegauge.probes.harness.base import Context
    from servegauge.probes.suite.collectives import local_ranks, run_ranks, specification

    order = read_json(Path(sys.argv[1]))
    context, node = Context(order["platform"], size=order["size"], node=order["node"]), order["node"]
    for local in local_ranks(context):
        run_ranks(specification(context, local, int(node["nodes"])), local, int(node["rank"]), context)
    return 0


if __name__ == "__main__":
    sys.exit(main())
