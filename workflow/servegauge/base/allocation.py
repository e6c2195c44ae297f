"""What the scheduler tells a process about its job: the only place that reads Slurm's variables.

Outside a job every answer is that of a process on its own: no job, the first start, rank 0 of 1.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

JOB = "SLURM_JOB_ID"
EXPORT = "SLURM_EXPORT_ENV"  # what srun hands to its tasks; sbatch sets it in a job that asks for `--export=NONE`
_COMMANDS = ("SLURM_", "SBATCH_", "SRUN_", "SQUEUE_", "SACCT_", "SCONTROL_", "SCANCEL_")
_CONFIGURATION = ("SLURM_CONF", "SLURM_CONF_SERVER")
_KEPT = (*_CONFIGURATION, "SLURM_JWT", "SLURM_SACK_SOCKET")  # how the cluster is reached, and who asks
# What a job gives to its processes beside Slurm's own variables: its devices, and its part in an MPI program.
_OF_A_JOB = ("PMI_", "PMI2_", "PMIX_", "SPANK_")
_DEVICES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK", "GPU_DEVICE_ORDINAL", "TMPDIR")


def job() -> str | None:
    """Number of the job that this process is in; None outside one."""
    return os.environ.get(JOB)


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


def configuration() -> str:
    """The scheduler's configuration file that the environment names; empty where the site's own holds."""
    return os.environ.get(_CONFIGURATION[0], "")


def node() -> str:
    """The node's name as the scheduler knows it; empty where it does not say."""
    return os.environ.get("SLURMD_NODENAME", "")


def nodes() -> str:
    """The job's nodes as the scheduler lists them; empty where it does not say."""
    return os.environ.get("SLURM_JOB_NODELIST", "")


def variables(environment: Mapping[str, str]) -> dict[str, str]:
    """What the scheduler put into `environment`."""
    return {name: value for name, value in environment.items() if name.startswith(("SLURM_", "SLURMD_"))}


def without_rank(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` without the rank of a surrounding step, which is not that of a process started from it.

    Nor what would keep our environment from a step that we start, in a job of `--export=NONE`.
    """
    return {name: value for name, value in environment.items() if name not in ("SLURM_PROCID", "SLURM_STEP_ID", EXPORT)}


def without_job(environment: Mapping[str, str]) -> dict[str, str]:
    """Without what a surrounding job or the user's shell would silently override the platform's file with.

    SQUEUE_PARTITION and the like narrow what squeue shows: a job that is not shown would seem to have ended. Of a job
    around us, its devices and its folder for temporary files are not those of the job that is submitted.
    """
    away = (*_COMMANDS, *(_OF_A_JOB if JOB in environment else ()))
    own = _DEVICES if JOB in environment else ()
    return {
        name: value
        for name, value in environment.items()
        if name in _KEPT or not (name.startswith(away) or name in own)
    }
