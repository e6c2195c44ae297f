"""What Slurm is asked and what it answers: the queue, an end and its reason.

Slurm is asked seldom: all launches that wait on one results folder share one `squeue` call every `poll_s` seconds,
through a file there. `sacct` is asked once, about a job that has left the queue, and only where there is accounting.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from servegauge.base import allocation
from servegauge.base.errors import UserError
from servegauge.base.files import read_json, write_json

ASK_S = 30.0  # an answer that takes longer is none

# States in which a job has ended (squeue's long names, and two of ours). Newer versions of Slurm have states that this
# list cannot know: an unknown state is not an end.
ENDED = frozenset(
    {
        *("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE"),
        *("OUT_OF_MEMORY", "REVOKED", "LAUNCH_FAILED", "RECONFIG_FAIL", "ENDED", "UNKNOWN"),
    }
)

# What a state means, for a user.
MEANING = {
    "TIMEOUT": "it reached its time limit",
    "NODE_FAIL": "its node failed",
    "OUT_OF_MEMORY": "the node's out-of-memory killer ended it; ask for more with mem_gb",
    "PREEMPTED": "another job took its place",
    "CANCELLED": "it was cancelled",
    "DEADLINE": "it reached its deadline",
    "BOOT_FAIL": "its node did not boot",
    "LAUNCH_FAILED": "its node could not start it",
    "RECONFIG_FAIL": "its node could not be set up for it",
    "REVOKED": "another cluster of the federation took it",
}

# What a pending job's reason means, where waiting alone may not help. The platform's file is what to correct.
PENDING = {
    "PartitionTimeLimit": " (it asks for more time than the partition gives: time_min)",
    "PartitionNodeLimit": " (it asks for more nodes than the partition gives)",
    "ReqNodeNotAvail": " (its nodes are down, drained or reserved)",
    "BadConstraints": " (no node has what it asks for: constraint, gres, cpus_per_task, mem_gb)",
    "JobHeldAdmin": " (held by an administrator)",
    "JobHeldUser": " (held by you; scontrol release lets it go)",
    "InvalidAccount": " (the account may not use this partition: account)",
    "InvalidQOS": " (the QOS may not be used: qos)",
    "Resources": " (waiting for free nodes)",
    "Priority": " (others come first)",
    "launch failed requeued held": " (its node could not start it; scontrol release lets it try again)",
    "BeginTime": " (its earliest start has not come: --begin, or it was put back into the queue)",
    "DependencyNeverSatisfied": " (what it waits for cannot happen any more: --dependency)",
    "ReservationDeleted": " (its reservation is gone: --reservation)",
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
    command: str = ""

    @property
    def live(self) -> bool:
        return self.state not in ENDED


# -- the queue ------------------------------------------------------------

_FORMAT = "%i|%T|%r|%N|%o"  # the batch script last: a path may hold any character


def squeue(cluster: str = "") -> dict[str, JobState]:
    """All jobs of this user that Slurm still knows, ended ones included; SlurmSilent where it does not answer."""
    text = _ask(["squeue", "--me", "--noheader", "--states=all", "--format", _FORMAT], cluster)
    jobs = {}
    for line in text.splitlines():
        fields = [field.strip() for field in line.split("|", 4)]
        if len(fields) == 5:
            if not fields[4].startswith("/"):
                # A bar in a reason, or a further column of a site's own squeue, stands before the path.
                fields[4] = fields[4][fields[4].find("|/") + 1 :]
            jobs[fields[0]] = JobState(*fields)
    return jobs


class Queue:
    """The queue as last seen by any of the processes that wait on one results folder: `results/.slurm/`.

    `cluster` is the one that `slurm: cluster` of the platform names, for a site with several; empty for its own.
    """

    def __init__(self, results: Path, poll_s: float, cluster: str = "") -> None:
        # A file for each user: the queue of `squeue --me` is that of one, and results may be a group's.
        name = "-".join(filter(None, ("queue", str(os.getuid()), cluster)))
        self.file = results / ".slurm" / f"{name}.json"
        self.poll_s, self.cluster = poll_s, cluster
        self._silent: tuple[float, str] | None = None  # when Slurm did not answer this process, and why

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
                    if self._silent and 0 <= now - self._silent[0] < self.poll_s:
                        raise SlurmSilent(self._silent[1])
                    try:
                        seen = now, squeue(self.cluster)
                    except SlurmSilent as error:
                        self._silent = time.time(), str(error)
                        raise
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


def find_submitted(folder: Path, cluster: str = "") -> JobState | None:
    """The job whose batch script is in `folder`, although its number was not recorded; the newest where there are two.

    Slurm keeps a record of some requests that it refused: as a job that failed without a node. That is none.
    """
    ours = [
        job
        for job in squeue(cluster).values()
        if Path(job.command).parent == folder and (job.nodes or job.state != "FAILED")
    ]
    return max(ours, key=lambda job: (job.live, len(job.job), job.job), default=None)


def is_alive(job: str, patience_s: float = 120.0) -> bool:
    """Whether `job` is in the queue and has not ended, asked on a node; true where Slurm stays silent."""
    end = time.monotonic() + patience_s
    while True:
        try:
            state = _ask(["squeue", "--noheader", "--states=all", "--format=%T", "--jobs", job]).strip()
            return bool(state) and state.split()[0] not in ENDED
        except UserError:  # Slurm's commands are not on every node
            return True
        except SlurmSilent as error:
            if "Invalid job id" in str(error):
                return False
            if time.monotonic() > end:
                return True
            time.sleep(2.0)


def time_limit_s(job: str) -> float | None:
    """When `job` reaches its limit, seconds since the epoch; None where it has none or Slurm does not answer."""
    with suppress(SlurmSilent, UserError):
        for field in _ask(["scontrol", "show", "job", "-o", job]).split():
            if field.startswith("EndTime="):
                with suppress(ValueError):  # "Unknown": the partition has no limit
                    return datetime.fromisoformat(
                        field.removeprefix("EndTime=")
                    ).timestamp()  # this machine's time zone
    return None


class AccountingSilent(SlurmSilent):
    """The controller has forgotten a job, and accounting does not tell: only the job's own outcome can."""


def ended(job: str, cluster: str = "") -> JobState | None:
    """How a job that has left the queue ended: by the controller's memory, else by accounting if there is any.

    AccountingSilent where that refuses, as it does for users of some sites, or has not heard of the end: it may never.
    """
    try:
        text = _ask(["scontrol", "show", "job", "-o", job], cluster)
    except (SlurmSilent, UserError):
        text = ""  # "Invalid job id": the controller has forgotten it; or users may not ask
    fields = dict(field.split("=", 1) for field in text.split() if "=" in field)
    if fields.get("JobState"):
        return JobState(job, fields["JobState"], fields.get("Reason", ""), _nodes(fields.get("NodeList", "")))
    if not has_accounting(cluster):
        return None
    try:
        text = _ask(["sacct", "-X", "-n", "-P", "-j", job, "-o", "State,Reason,NodeList"], cluster)
    except (SlurmSilent, UserError) as error:
        raise AccountingSilent(str(error)) from error
    for line in text.splitlines():
        words = line.split("|")
        if len(words) == 3 and words[0].strip():
            state, reason, nodes = words
            found = JobState(job, state.split()[0].rstrip("+"), "" if reason == "None" else reason, _nodes(nodes))
            if found.live:
                raise AccountingSilent(f"the queue has no job {job}, and accounting calls it {found.state.lower()}")
            return found
    return None


def _nodes(text: str) -> str:
    """A list of nodes; empty where Slurm says in words that there are none."""
    return "" if text in ("(null)", "None assigned", "None", "n/a") else text


_OUT = {"DOWN", "FAIL", "FAILING", "NOT_RESPONDING"}


def failed_nodes(nodes: str, cluster: str = "") -> dict[str, str]:
    """Of `nodes`, in Slurm's notation, those that are out of service now: name -> state and the reason given.

    None where users may not ask for nodes.
    """
    failed: dict[str, str] = {}
    try:
        text = _ask(["scontrol", "show", "node", "-o", nodes], cluster) if nodes else ""
    except (SlurmSilent, UserError):
        return failed
    for line in text.splitlines():
        facts, _, reason = line.partition(" Reason=")
        fields = dict(field.split("=", 1) for field in facts.split() if "=" in field)
        state = fields.get("State", "")
        # Words joined by +, each with marks behind it: DOWN*+CLOUD, but not POWERED_DOWN, which is a node at rest.
        if _OUT & {word.rstrip("*~#!%$@^-") for word in state.split("+")}:
            # Slurm adds who set it and when, in brackets.
            failed[fields.get("NodeName", nodes)] = f"{state}: {reason.partition(' [')[0].strip() or 'no reason given'}"
    return failed


def say_failed(failed: Mapping[str, str]) -> str:
    """`node bm01 failed (Slurm: NODE_FAIL, DOWN: kernel panic)`, for one or several."""
    return "; ".join(f"node {node} failed (Slurm: NODE_FAIL, {why})" for node, why in failed.items())


def has_accounting(cluster: str = "") -> bool:
    """True where `sacct` has an accounting daemon to ask, or users may not know; without one it would wait in vain."""
    try:
        text = _ask(["scontrol", "show", "config"], cluster)
    except (SlurmSilent, UserError):
        return True
    return any("slurmdbd" in line for line in text.splitlines() if line.startswith("AccountingStorageType"))


def cancel(job: str, cluster: str = "") -> str:
    """`scancel`: what it says, empty when it did it."""
    try:
        return run_command(["scancel", job], cluster).stderr.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)


def run_command(argv: list[str], cluster: str = "", timeout_s: float = ASK_S) -> subprocess.CompletedProcess[str]:
    """Run a Slurm command, about `cluster` if one is named; names of jobs and nodes may hold any bytes."""
    argv = [argv[0], *(["-M", cluster] if cluster else []), *argv[1:]]
    return subprocess.run(
        argv, capture_output=True, text=True, errors="replace", timeout=timeout_s, stdin=subprocess.DEVNULL,
        env=allocation.without_job(os.environ),
    )  # fmt: skip


def _ask(argv: list[str], cluster: str = "") -> str:
    """Standard output of a Slurm command; SlurmSilent where it fails or takes too long."""
    try:
        answer = run_command(argv, cluster)
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
