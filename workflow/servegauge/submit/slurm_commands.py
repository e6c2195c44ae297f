"""What Slurm is asked and what it answers: the request for a launch's job, the queue, an end and its reason.

Every site-specific value comes from `slurm:` in the platform's file. Slurm is asked seldom: all launches that wait on
one results folder share one `squeue` call every `poll_s` seconds through a file there, and `sacct` is asked once, about
a job that has left the queue, and only where there is accounting.
"""

from __future__ import annotations

import fcntl
import math
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from servegauge.base.errors import UserError
from servegauge.base.files import read_json, write_json
from servegauge.contract.spec import Layout

TIME_MIN = 60  # where neither the order nor the platform says how long a job may take
# Slurm's warning comes this long before the end, or up to a minute earlier. The launch knows its end and needs no
# warning, unless somebody shortens the job while it runs.
SIGNAL_S = 1
ASK_S = 30.0  # an answer that takes longer is none

# States in which a job has not ended (squeue's long names).
LIVE = frozenset(
    {
        *("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "RESIZING", "SIGNALING", "STAGE_OUT"),
        *("REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "STOPPED"),
    }
)

# What a state means to somebody who did not choose it.
MEANING = {
    "TIMEOUT": "it reached its time limit",
    "NODE_FAIL": "its node failed",
    "OUT_OF_MEMORY": "the node's out-of-memory killer ended it; ask for more with mem_gb",
    "PREEMPTED": "another job took its place",
    "CANCELLED": "it was cancelled",
    "DEADLINE": "it reached its deadline",
    "BOOT_FAIL": "its node did not boot",
}


class SlurmSilent(Exception):
    """Slurm did not answer: its controller is down or restarting. Nothing is known, so nothing is concluded."""


@dataclass(frozen=True)
class JobState:
    """One line of the queue. `reason` is why it is pending, or how it failed; `nodes` where it runs or ran."""

    job: str
    state: str
    reason: str = ""
    nodes: str = ""
    name: str = ""
    command: str = ""

    @property
    def live(self) -> bool:
        return self.state in LIVE


# -- the request ----------------------------------------------------------


def shape(layout: Layout, platform: Mapping[str, Any]) -> tuple[int, int]:
    """(nodes, GPUs on each) for a launch; (1, 0) on a platform without GPUs."""
    per_node = int(platform.get("gpus_per_node") or 0)
    if per_node == 0:
        return 1, 0
    nodes = math.ceil(layout.gpus / per_node)
    return nodes, math.ceil(layout.gpus / nodes)


def parameters(order: Mapping[str, Any], exclude: Sequence[str] = ()) -> dict[str, Any]:
    """What submitit's Slurm executor is told, from the launch's platform. Absent keys leave it to the site."""
    launch, platform = order["launch"], order["launch"]["platform"]
    slurm = platform.get("slurm") or {}
    nodes, gpus = shape(Layout(**launch["layout"]), platform)
    asked: dict[str, Any] = {
        "job_name": launch["id"],
        "comment": order["study"],
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
    if slurm.get("exclusive"):
        asked["exclusive"] = True
    if away := [*([slurm["exclude"]] if slurm.get("exclude") else []), *exclude]:
        asked["exclude"] = ",".join(away)
    # A preempted job comes back and measures what is missing; `sbatch:` may say --no-requeue.
    asked["additional_parameters"] = {"requeue": True, **dict(_extra(slurm.get("sbatch") or ()))}
    if "no-requeue" in asked["additional_parameters"]:
        del asked["additional_parameters"]["requeue"]
    # Without these, srun of Slurm 22.05 and later gives the task one CPU of the job's and binds it there.
    cpus = [f"--cpus-per-task={slurm['cpus_per_task']}"] if slurm.get("cpus_per_task") else []
    asked["srun_args"] = ["--cpu-bind=none", "--kill-on-bad-exit=1", *cpus]
    if platform.get("modules"):
        asked["setup"] = [f"module load {module}" for module in platform["modules"]]
    return asked


def time_limit(order: Mapping[str, Any]) -> int:
    """Minutes to ask for: as the order says, which has it from the plan, at most the platform's limit."""
    limit = (order["launch"]["platform"].get("slurm") or {}).get("time_min")
    wanted = order.get("time_min") or limit or TIME_MIN
    return int(min(wanted, limit) if limit else wanted)


def _extra(lines: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """`--licenses=gpfs` -> ("licenses", "gpfs"), `--exclusive` -> ("exclusive", True)."""
    for line in lines:
        key, given, value = line.removeprefix("#SBATCH").strip().lstrip("-").partition("=")
        yield key.strip(), value.strip() if given else True


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Without what a surrounding job or the user's shell would silently override the platform's file with."""
    ours = {name: value for name, value in environment.items() if not name.startswith(("SLURM_", "SBATCH_", "SRUN_"))}
    return ours | {name: environment[name] for name in ("SLURM_CONF", "SLURM_CONF_SERVER") if name in environment}


def refused(message: str, platform: str) -> UserError:
    """Slurm's own words about a request that it refused, and the file to mend."""
    said = [line.strip() for line in message.splitlines() if line.strip().startswith(("sbatch:", "slurm_"))]
    text = "; ".join(dict.fromkeys(line.removeprefix("sbatch: ").removeprefix("error: ") for line in said))
    look = {
        "partition": "`sinfo -s` lists the partitions",
        "account": "`sacctmgr show assoc user=$USER format=account,partition,qos` lists your accounts",
        "qos": "`sacctmgr show assoc user=$USER format=account,partition,qos` lists your QOS",
        "feature": "`sinfo -o '%P %f'` lists the features for `constraint`",
        "gres": "`sinfo -o '%P %G'` lists the GPUs",
        "node configuration": "`sinfo -o '%P %c %m %G'` lists what nodes have",
        "time limit": "`sinfo -o '%P %l'` lists the time limits",
    }
    hints = [hint for word, hint in look.items() if word in text.lower()]
    return UserError(
        f"Slurm refused the job: {text or message.strip()}. Mend `slurm:` in config/platforms/{platform}.yaml"
        + (f" ({'; '.join(dict.fromkeys(hints))})" if hints else "")
        + " and give the same command again."
    )


# -- the queue ------------------------------------------------------------

_FORMAT = "%i|%T|%r|%N|%j|%o"


def squeue() -> dict[str, JobState]:
    """All jobs of this user that Slurm still knows, ended ones included; SlurmSilent where it does not answer."""
    text = _ask(["squeue", "--me", "--noheader", "--states=all", "--format", _FORMAT])
    jobs = {}
    for line in text.splitlines():
        fields = [field.strip() for field in line.split("|", 5)]
        if len(fields) == 6:
            jobs[fields[0]] = JobState(*fields)
    return jobs


class Queue:
    """The queue as last seen by any of the processes that wait on one results folder: `results/.slurm/queue.json`."""

    def __init__(self, results: Path, poll_s: float) -> None:
        self.file = results / ".slurm" / "queue.json"
        self.poll_s = poll_s

    def look(self) -> tuple[float, dict[str, JobState]]:
        """(when, in seconds since the epoch; jobs), asked anew if the last look is older than `poll_s`.

        Where several processes find it too old at once, one asks and the others wait for its answer.
        """
        seen = self._read()
        if not self._fresh(seen[0]):
            with _locked(self.file.with_suffix(".lock")):
                seen = self._read()
                if not self._fresh(seen[0]):
                    now = time.time()
                    seen = now, squeue()
                    jobs = [asdict(job) for job in seen[1].values()]
                    write_json(self.file, {"seen_s": now, "jobs": jobs}, mode=0o600)
        return seen

    def _fresh(self, seen_s: float) -> bool:
        return 0 <= time.time() - seen_s < self.poll_s

    def _read(self) -> tuple[float, dict[str, JobState]]:
        try:
            data = read_json(self.file)
            return float(data["seen_s"]), {job["job"]: JobState(**job) for job in data["jobs"]}
        except (OSError, ValueError, KeyError, TypeError):
            return 0.0, {}


def find_submitted(folder: Path) -> JobState | None:
    """The job whose batch script lies in `folder`, although nobody noted its number; the newest where there are two."""
    ours = [job for job in squeue().values() if Path(job.command).parent == folder]
    return max(ours, key=lambda job: int(job.job), default=None)


def ended(job: str) -> JobState | None:
    """How a job that has left the queue ended, asked once: of the controller's memory, then of accounting if any."""
    try:
        text = _ask(["scontrol", "show", "job", "-o", job])
    except SlurmSilent:
        text = ""  # "Invalid job id": the controller has forgotten it
    fields = dict(field.split("=", 1) for field in text.split() if "=" in field)
    if fields.get("JobState"):
        return JobState(job, fields["JobState"], fields.get("Reason", ""), fields.get("NodeList", ""))
    if not has_accounting():
        return None
    text = _ask(["sacct", "-X", "-n", "-P", "-j", job, "-o", "State,Reason,NodeList"])
    for line in text.splitlines():
        state, reason, nodes = line.split("|")
        return JobState(job, state.split()[0], "" if reason == "None" else reason, nodes)
    return None


def failed_nodes(nodes: str) -> dict[str, str]:
    """Of `nodes`, in Slurm's notation, those that are out of service now: name -> state and the reason given."""
    failed = {}
    for line in _ask(["scontrol", "show", "node", "-o", nodes]).splitlines() if nodes else []:
        facts, _, reason = line.partition(" Reason=")
        fields = dict(field.split("=", 1) for field in facts.split() if "=" in field)
        state = fields.get("State", "")
        if any(word in state for word in ("DOWN", "FAIL", "NOT_RESPONDING")):
            # Slurm adds who said so and when, in brackets.
            failed[fields.get("NodeName", nodes)] = f"{state}: {reason.partition(' [')[0].strip() or 'no reason given'}"
    return failed


def say_failed(failed: Mapping[str, str]) -> str:
    """`node bm01 failed (Slurm: NODE_FAIL, DOWN: kernel panic)`, for one or several."""
    return "; ".join(f"node {node} failed (Slurm: NODE_FAIL, {why})" for node, why in failed.items())


def has_accounting() -> bool:
    """True where `sacct` has somebody to ask; without, it would wait for nobody."""
    for line in _ask(["scontrol", "show", "config"]).splitlines():
        if line.startswith("AccountingStorageType"):
            return "slurmdbd" in line
    return False


def cancel(job: str) -> str:
    """`scancel`: what it says, empty when it did it."""
    try:
        return subprocess.run(
            ["scancel", job], capture_output=True, text=True, timeout=ASK_S, stdin=subprocess.DEVNULL
        ).stderr.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)


def _ask(argv: list[str]) -> str:
    """Standard output of a Slurm command; SlurmSilent where it fails or takes too long."""
    try:
        answer = subprocess.run(argv, capture_output=True, text=True, timeout=ASK_S, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise UserError(f"there is no {argv[0]} on this machine. Is it a login node of the cluster?") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmSilent(str(error)) from error
    if answer.returncode != 0:
        raise SlurmSilent(answer.stderr.strip() or f"{argv[0]} ended with status {answer.returncode}")
    return answer.stdout


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold `path` alone among the processes of this machine; where the file system knows no locks, go on without."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
