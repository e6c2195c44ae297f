"""What the rules share: the study of this run, and functions that hand a rule's wildcards to it."""

import atexit
import os
import sys
from pathlib import Path

from servegauge.errors import UserError
from servegauge.pipeline import Pipeline

# `.venv/bin/snakemake` works without activating .venv: `python` in a rule is the interpreter that runs Snakemake.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

try:
    PIPELINE = Pipeline(config)
    TOTAL = PIPELINE.total()
except UserError as error:
    # A user's mistake is one message, not a traceback through Snakemake.
    raise SystemExit(f"error: {error}")


wildcard_constraints:
    study=r"[A-Za-z0-9][A-Za-z0-9_.-]*",
    launch=r"[a-z0-9][a-z0-9.-]*",
    cell=r"[a-z0-9][a-z0-9.-]*",
    environment=r"[A-Za-z0-9][A-Za-z0-9.-]*",
    size="tiny|small",
    revision="[0-9a-f]{40}",
    platform=r"[A-Za-z0-9][A-Za-z0-9_.-]*",
    attempt=r"\d+",


def user_errors(ask, *what):
    """`ask(*what)`, where a user's mistake ends the run with its message alone."""
    try:
        return ask(*what)
    except UserError as error:
        raise SystemExit(f"error: {error}")


def launch_needs(wildcards):
    """Model files and environment of a launch; older or newer, they do not make it stale: its name says what it is."""
    return ancient(user_errors(PIPELINE.needs, wildcards.launch))


def launch_message(wildcards):
    """The readable line of a launch in a dry-run."""
    return user_errors(PIPELINE.message, wildcards.launch)


def launch_priority(wildcards):
    """Launches run in the order that the plan randomised."""
    return user_errors(PIPELINE.priority, wildcards.launch)


def cell_needs(wildcards):
    """What the launch of a single cell needs."""
    return ancient(user_errors(PIPELINE.needs, user_errors(PIPELINE.launch_of, wildcards.cell)))


def finished():
    """Say how the run ended; the exit status is 1 when a cell failed."""
    from servegauge import summary

    return summary.show(PIPELINE.results, PIPELINE.name)


@atexit.register
def dry_run_total():
    """A dry-run ends with what all of it would cost."""
    if workflow.is_main_process and workflow.dryrun:
        print(TOTAL, file=sys.stderr)
