"""What the rules share: the study of this run, and functions that hand a rule's wildcards to it."""

import atexit
import re
import sys

from servegauge.base.errors import UserError
from servegauge.submit.interrupts import after_a_kill, cancel_on_term
from servegauge.cli.workflow_api import Pipeline, use_this_interpreter

use_this_interpreter()

try:
    PIPELINE = Pipeline(config)
    TOTAL = PIPELINE.total()
except UserError as error:
    # A user's mistake is one message, not a traceback through Snakemake.
    raise SystemExit(f"error: {error}")


if (
    workflow.is_main_process
    and not workflow.dryrun
    and not {"--unlock", "--lint"} & set(sys.argv)
):
    # Snakemake says that the folder is locked; this says what that means for the jobs.
    print(after_a_kill(), end="", file=sys.stderr)


wildcard_constraints:
    study=re.escape(PIPELINE.name),  # one run, one study
    launch=r"[a-z0-9][a-z0-9.-]*",
    cell=r"[a-z0-9][a-z0-9.-]*",
    environment=r"[A-Za-z0-9][A-Za-z0-9.-]*",
    size="tiny|small",
    revision="[0-9a-f]{40}",
    platform=r"[A-Za-z0-9][A-Za-z0-9_.-]*",
    attempt=r"\d+",
    probes="(quick|full)-[0-9a-f]{10}",


def user_errors(ask, *what):
    """`ask(*what)`, where a user's mistake ends the run with its message alone."""
    try:
        return ask(*what)
    except UserError as error:
        raise SystemExit(f"error: {error}")


def workload_needs(wildcards):
    """Tokenizers that the study's prompts are made with."""
    return ancient(user_errors(PIPELINE.tokenizers))


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
    return ancient(
        user_errors(PIPELINE.needs, user_errors(PIPELINE.launch_of, wildcards.cell))
    )


def probe_needs(wildcards):
    """The environment of probes that need more than numpy, and the models whose shapes are measured."""
    return ancient(user_errors(PIPELINE.probe_needs, wildcards.platform))


def finished():
    """Say how the run ended; the exit status is 1 when a cell failed."""
    from servegauge.report import terminal

    return terminal.show(PIPELINE.results, PIPELINE.name)


@atexit.register
def dry_run_total():
    """A dry-run ends with what all of it would cost."""
    if workflow.is_main_process and workflow.dryrun:
        print(TOTAL, file=sys.stderr)
