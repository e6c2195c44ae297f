"""Handing a batch script to `sbatch`, and telling a refusal from trouble that passes.

An `sbatch` that failed, timed out or was interrupted may have been accepted all the same: a caller of it
looks for the job by its script after `NotSubmitted`, before anything else is concluded.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from servegauge.base.errors import UserError
from servegauge.submit.slurm_commands import run_command

SUBMIT_S = 120.0  # a busy controller may take that long to answer

# What sbatch says when the controller, the network or its database is in trouble.
_DOWN = re.compile(
    "unable to contact|connect failure|connection (refused|reset|timed out)|timed out|transport endpoint|zero bytes"
    "|temporarily (un|not )?able|temporarily unavailable|try again|no route to host|backup controller"
    "|slurmdbd|not responding|communication|io error|unexpected message|in standby|protocol authentication"
    "|message (send|receive) failure|network is unreachable|host is down|broken pipe|unable to (resolve|connect)"
    "|unknown host|dns srv|configuration source|failed to fetch config|munge|(expired|rewound|replayed) credential",
    re.IGNORECASE,
)
# What it says where this user, account or cluster has as many jobs as it may have now.
_FULL = re.compile(
    "maxsubmitjob|grpsubmitjob|submitjobs?(per\\w+)?(limit)?\\b|assocgrp\\w*|qosgrp\\w*|maxjobs?\\w*limit|maxjobcount"
    "|(qos|assoc)maxjobs\\w*|too many jobs|job count limit|maximum number of (queued|submitted) jobs",
    re.IGNORECASE,
)


class NotSubmitted(Exception):
    """`sbatch` did not say that it took the job. `kind`: refused, down (try again) or full (wait for a place)."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind, self.text = kind, text


def sbatch(script: Path, cluster: str = "") -> str:
    """Submit `script`; the job's number. NotSubmitted where sbatch failed or its answer has none."""
    try:
        answer = run_command(["sbatch", "--parsable", str(script)], cluster, SUBMIT_S)
    except subprocess.TimeoutExpired as error:
        raise NotSubmitted("down", f"sbatch did not answer within {SUBMIT_S:.0f} s") from error
    except OSError as error:
        raise UserError(
            f"there is no sbatch on this machine ({error.strerror}). Log in to a node of the cluster that can submit "
            "jobs, or measure here with submit=local."
        ) from error
    if answer.returncode == 0 and (job := job_number(answer.stdout)):
        return job
    raise failure(answer.stderr.strip() or answer.stdout.strip() or f"sbatch ended with status {answer.returncode}")


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
    return NotSubmitted("down" if _DOWN.search(text) else "refused", text)


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
