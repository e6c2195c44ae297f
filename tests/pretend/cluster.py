"""Slurm commands, and what the tests ask of the cluster of tests/slurm/slurm-up.sh."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(os.environ.get("SERVEGAUGE_SLURM_ROOT", "/tmp/servegauge-slurm"))
LATE = ROOT / "late"  # every node and this machine see late what others write there
AT_ONCE = ROOT / "late.d"  # the same, as it is


def slurm(*argv: str, check: bool = True) -> str:
    """Run a Slurm command; its output."""
    return subprocess.run(argv, capture_output=True, text=True, check=check, timeout=60).stdout.strip()


def platform(**keys) -> dict:
    """A platform on the partition of bare metal, with further keys of `slurm:`."""
    return {
        "name": "bare-metal",
        "gpus_per_node": 4,
        "slurm": {
            "partition": "bm", "account": "hpcbench", "gres": "gpu:h100:{gpus}", "cpus_per_task": 2, "mem_gb": 2,
            "time_min": 5, **keys,
        },
    }  # fmt: skip


def jobs_of(site) -> list[str]:
    """Jobs of this site that have not ended."""
    lines = slurm("squeue", "--me", "-h", "-o", "%i|%o").splitlines()
    return [line.split("|")[0] for line in lines if str(site.root) in line]


def daemon(name: str) -> int:
    """Process id of `slurmctld` or `slurmd.<node>`."""
    return int((ROOT / "run" / f"{name}.pid").read_text())


def on_node(node: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run a command as another user of that node would: in its network, with its name and its view of the files."""
    enter = ["nsenter", f"--target={daemon(f'slurmd.{node}')}", "--net", "--uts", "--mount"]
    return subprocess.run([*enter, *argv], capture_output=True, text=True, timeout=60)
