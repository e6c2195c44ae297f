"""What a launch's job asks of Slurm. Every value that belongs to a site comes from `slurm:` in the platform's file."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from typing import Any

from servegauge.base import environment
from servegauge.base.errors import UserError
from servegauge.contract import sbatch_lines
from servegauge.contract.config_types import Platform
from servegauge.contract.records.order import Order
from servegauge.contract.spec import Layout

TIME_MIN = 60  # where neither the order nor the platform says how long a job may take
# Slurm's warning comes this long before the end, or up to a minute earlier. The launch knows its end and needs no
# warning, unless the job is shortened while it runs.
SIGNAL_S = 1


def cluster(platform: Platform) -> str:
    """The cluster that a platform names, where the site has several; empty for this machine's own."""
    name = str((platform.get("slurm") or {}).get("cluster") or "")
    if name == "all" or not re.fullmatch(r"[\w.-]*", name):
        # A job's number says which job only within one cluster.
        raise UserError(f"config/platforms/{platform['name']}.yaml: slurm: cluster: {name!r}: name one cluster")
    return name


def partition(platform: Platform) -> str:
    """The partition that a platform names, by the key or in a line for sbatch; empty for the site's default."""
    slurm = platform.get("slurm") or {}
    return str(slurm.get("partition") or sbatch_lines.merged(slurm.get("sbatch") or (), slurm).get("partition") or "")


def shape(layout: Layout, platform: Platform) -> tuple[int, int]:
    """(nodes, GPUs on each) for a launch; (1, 0) on a platform without GPUs."""
    per_node = int(platform.get("gpus_per_node") or 0)
    if per_node == 0:
        return 1, 0
    nodes = math.ceil(layout.gpus / per_node)
    return nodes, math.ceil(layout.gpus / nodes)


def shape_of(order: Order) -> tuple[int, int]:
    """(nodes, GPUs on each) for the job of an order: those of its layout, but for probes, which name their nodes."""
    nodes, gpus = shape(order.layout, order.launch.platform)
    return order.job.nodes or nodes, gpus


def parameters(order: Order, exclude: Sequence[str] = ()) -> dict[str, Any]:
    """What submitit's Slurm executor is given, from the launch's platform. Absent keys leave it to the site."""
    launch, platform = order.launch, order.launch.platform
    slurm = platform.get("slurm") or {}
    nodes, gpus = shape_of(order)
    asked: dict[str, Any] = {
        "job_name": launch.id,
        "comment": order.study,
        "nodes": nodes,
        "ntasks_per_node": 1,
        "time": time_limit(order),
        "signal_delay_s": SIGNAL_S,
        "stderr_to_stdout": True,
        "wckey": None,  # submitit's own, which sites that check wckeys refuse
    }
    asked |= {
        key: slurm[key] for key in ("partition", "account", "qos", "constraint", "cpus_per_task") if slurm.get(key)
    }
    if slurm.get("mem_gb") is not None:
        # Slurm's own "0" means all of the node's memory.
        asked["mem"] = "0" if slurm["mem_gb"] == 0 else f"{math.ceil(slurm['mem_gb'] * 1024)}M"
    if slurm.get("gres") and (gpus or "{gpus}" not in slurm["gres"]):
        asked["gres"] = slurm["gres"].replace("{gpus}", str(gpus))
    try:
        lines = sbatch_lines.merged(slurm.get("sbatch") or (), slurm, gpus)
    except sbatch_lines.Refused as error:
        raise UserError(f"config/platforms/{platform['name']}.yaml: slurm: sbatch: {error}") from error
    if "gres" in lines and "gres" in asked:
        lines["gres"] = f"{asked.pop('gres')},{lines['gres']}"
    if slurm.get("exclusive"):
        asked["exclusive"] = True
    away = [slurm["exclude"]] if slurm.get("exclude") else []
    if away := [*away, *([str(lines.pop("exclude"))] if "exclude" in lines else []), *exclude]:
        asked["exclude"] = ",".join(away)
    # A preempted job comes back and measures what is missing; `sbatch:` may say --no-requeue. sbatch takes a backslash
    # for an escape inside of quotes too.
    texts = {name: value.replace("\\", r"\\") if isinstance(value, str) else value for name, value in lines.items()}
    asked["additional_parameters"] = {"requeue": True, **texts}
    if "no-requeue" in lines:
        del asked["additional_parameters"]["requeue"]
    # Without these, srun of Slurm 22.05 and later gives the task one CPU of the job's and binds it there.
    given = slurm.get("cpus_per_task") or lines.get("cpus-per-task")
    cpus = [f"--cpus-per-task={given}"] if given else []
    asked["srun_args"] = ["--cpu-bind=none", "--kill-on-bad-exit=1", *cpus]
    setup = [*(platform.get("setup") or ()), *(_load(module, platform) for module in platform.get("modules") or ())]
    if setup:
        asked["setup"] = environment.around_setup(setup)
    return asked


def _load(module: str, platform: Platform) -> str:
    """A line that loads `module`; the job ends where that fails, because it would measure something else without it."""
    say = shlex.quote(f"module load {module} failed; correct `modules:` in config/platforms/{platform['name']}.yaml")
    return f"module load {module} || {{ echo {say}; exit 1; }}"


def time_limit(order: Order) -> int:
    """Minutes to ask for: as the order says, which has it from the plan, at most the platform's limit."""
    limit = (order.launch.platform.get("slurm") or {}).get("time_min")
    wanted = order.time_min or limit or TIME_MIN
    return int(min(wanted, limit) if limit else wanted)
