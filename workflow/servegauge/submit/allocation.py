"""What Slurm tells a process on a node about its job: the only place that reads Slurm's variables of a running job.

Outside a job every answer is that of a process on its own: no job, the first start, rank 0 of 1.
"""

from __future__ import annotations

import os


def job() -> str | None:
    """Number of the job that this process is in; None outside Slurm."""
    return os.environ.get("SLURM_JOB_ID")


def start() -> int:
    """How often the job was requeued: 0 in its first start."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def rank() -> tuple[int, int]:
    """This task's rank in its step and how many there are; one task on each node."""
    if "SLURM_PROCID" not in os.environ or "SLURM_STEP_ID" not in os.environ:
        return 0, 1
    return int(os.environ["SLURM_PROCID"]), int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))


def end_s() -> float | None:
    """When the job ends, seconds since the epoch, where the job's own environment says so."""
    end = os.environ.get("SLURM_JOB_END_TIME", "")
    return float(end) if end.isdigit() else None


def node() -> str:
    """The node's name as Slurm knows it; empty where it does not say."""
    return os.environ.get("SLURMD_NODENAME", "")


def nodes() -> str:
    """The job's nodes as Slurm lists them; empty where it does not say."""
    return os.environ.get("SLURM_JOB_NODELIST", "")


def without_rank(environment: dict[str, str]) -> dict[str, str]:
    """`environment` without the rank of a surrounding step, which is not that of a process started from it."""
    return {name: value for name, value in environment.items() if name not in ("SLURM_PROCID", "SLURM_STEP_ID")}
