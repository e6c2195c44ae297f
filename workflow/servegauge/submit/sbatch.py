"""Handing a batch script to `sbatch`, and telling a refusal from trouble that passes.

An `sbatch` that failed, timed out or was interrupted may have been accepted all the same: a caller of it
looks for the job by its script after `NotSubmitted`, before anything else is concluded.
"""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

from servegauge.base.errors import UserError
from servegauge.submit.slurm_commands import SlurmSilent, cancel, find_submitted, run_command

SUBMIT_S = 120.0  # a busy controller may take that long to answer

# What sbatch says when the controller, the network, its database or what they need is in trouble, or takes no jobs for
# a while: the texts of Slurm's errors from 22.05 to 26.05, of libc, and of sbatch's own attempts to go on.
_DOWN = re.compile(
    # Connections and names.
    "unable to contact|connect failure|connection (refused|reset|timed out|rejected|forced closed|closed|aborted)"
    "|timed out|transport endpoint|zero bytes|no route to host|not responding|communications? (connection|shutdown)"
    "|delayed socket error|missing socket|file descriptor|would block|unexpected message|insane message"
    "|message (send|receive) failure|network is unreachable|host is down|broken pipe|unable to (resolve|connect)"
    "|unknown host|name or service not known|name resolution|control machine address|can't find an address|dns srv"
    # The controller, and who vouches for the user.
    "|backup controller|in standby|shutting down|incompatible (versions|plugin)|failed to initialize|slurmdbd"
    "|slurm_persist|configuration (source|file)|failed to fetch config|munge|credential|protocol authentication"
    "|invalid user id|slurm internal error|i/o error|io error"
    # Not now.
    "|rate limit|temporarily|try again( later| in a| shortly)|job record, try again|retry(ing)? (later|momentarily)"
    "|nodes are busy|ports are in use|partition in down state|inactive or drain|down, drained or reserved"
    "|submissions disabled|licenses currently unavailable|operation now in progress|interrupted system call"
    "|cannot allocate memory|no space left|too many open files|stale file handle|input/output error",
    re.IGNORECASE,
)
# What it says where this user, account or cluster has as many jobs as it may have now.
_FULL = re.compile(
    "maxsubmitjob|grpsubmitjob|submitjobs?(per\\w+)?(limit)?\\b|maxjobs?\\w*limit|maxjobcount|job queue full"
    "|(qos|assoc)(max|grp)jobs\\w*|too many jobs|job count limit|maximum number of (queued|submitted) jobs",
    re.IGNORECASE,
)
# A limit of what a group of jobs holds: Slurm says so at submission where this job alone is more than it, sites also
# where others use it up. It may pass, and is not waited for without end.
_SHARE = re.compile("(assoc|qos)grp\\w+", re.IGNORECASE)


class NotSubmitted(Exception):
    """`sbatch` did not say that it took the job. `kind`: refused, down (try for a while) or full (wait for a place)."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind, self.text = kind, text


def sbatch(script: Path, cluster: str = "") -> str:
    """Submit `script`; the job's number. NotSubmitted where sbatch failed or its answer has none."""
    try:
        answer = run_command(["sbatch", "--parsable", str(script)], cluster, SUBMIT_S)
    except subprocess.TimeoutExpired as error:
        said = error.stderr.decode(errors="replace").strip() if isinstance(error.stderr, bytes) else error.stderr or ""
        text = f"sbatch did not answer within {SUBMIT_S:.0f} s"
        # Its own attempts take as long: where the cluster has as many jobs as it may, it says so and tries again.
        raise NotSubmitted(
            "full" if _FULL.search(said) else "down", f"{text}: {short(said)}" if said else text
        ) from error
    except (FileNotFoundError, PermissionError) as error:
        raise UserError(
            f"there is no sbatch on this machine ({error.strerror}). Log in to a node of the cluster that can submit "
            "jobs, or measure here with submit=local."
        ) from error
    except OSError as error:  # this machine has no room for another process now
        raise NotSubmitted("down", f"sbatch could not be started: {error.strerror}") from error
    if answer.returncode == 0 and (job := job_number(answer.stdout)):
        other = re.search(rf"^(?:{job};|Submitted batch job {job} on cluster )(\S+)\s*$", answer.stdout, re.MULTILINE)
        if other and other[1].casefold() != cluster.casefold() and not _is_here(script.parent, cluster):
            cancel(job, other[1])
            why = f"the job {job} went to the cluster {other[1]} and was cancelled; write `cluster: {other[1]}`"
            raise NotSubmitted("refused", why)
        return job
    if cluster and re.search("invalid entry for|no cluster '|no clusters can be reached", answer.stderr, re.IGNORECASE):
        # Said before anything is submitted, and squeue would say the same for ever.
        raise UserError(
            f"Slurm does not know the cluster {cluster}, or cannot reach it: {short(answer.stderr)}. Nothing was "
            "submitted. `sacctmgr list clusters` lists the names for `slurm: cluster` of the platform's file."
        )
    raise failure(answer.stderr.strip() or answer.stdout.strip() or f"sbatch ended with status {answer.returncode}")


def _is_here(folder: Path, cluster: str) -> bool:
    """Whether the queue that is asked from now on has the job of `folder`; true where Slurm stays silent.

    A site may send a job to another cluster. Some name the cluster in every answer, this one's too.
    """
    for wait_s in (0, 1, 3):
        time.sleep(wait_s)
        try:
            if find_submitted(folder, cluster):
                return True
        except SlurmSilent:
            return True
    return False


def job_number(text: str) -> str | None:
    """The number in sbatch's answer, whatever a wrapper prints around it; None where there is none.

    `--parsable` gives `501` or `501;cluster` on a line of its own; a wrapper that drops it gives a sentence.
    """
    lines = [line.strip() for line in text.splitlines()]
    for line in reversed(lines):
        if found := re.fullmatch(r"(\d+)(;\S+)?", line):
            return found[1]
    for line in reversed(lines):
        if found := re.fullmatch(r"Submitted batch job (\d+)( on cluster \S+)?", line):
            return found[1]
    return None


def failure(text: str) -> NotSubmitted:
    """What the words of a failed sbatch mean."""
    if _FULL.search(text):
        return NotSubmitted("full", text)
    return NotSubmitted("down" if _DOWN.search(text) or _SHARE.search(text) else "refused", text)


def short(printed: str) -> str:
    """Slurm's own lines of what a failed sbatch printed, in one line."""
    lines = [line.strip() for line in printed.splitlines() if line.strip().startswith(("sbatch:", "slurm_"))]
    text = "; ".join(dict.fromkeys(line.removeprefix("sbatch: ").removeprefix("error: ") for line in lines))
    return text or " ".join(printed.split())


def refused(message: str, platform: str) -> UserError:
    """Slurm's own words about a request that it refused, and the file to change."""
    text = short(message)
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
        f"Slurm refused the job: {text}. Correct `slurm:` in config/platforms/{platform}.yaml"
        + (f" ({'; '.join(dict.fromkeys(hints))})" if hints else "")
        + " and give the same command again."
    )
