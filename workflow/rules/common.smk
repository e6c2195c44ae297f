"""What the rules share: the study of this run, and functions that hand a rule's wildcards to it."""

import atexit
import re
import sys

from snakemake.logging import logger

from servegauge.base.errors import UserError
from servegauge.base.text import visible
from servegauge.submit.interrupts import after_a_kill, cancel_on_signals
from servegauge.cli.workflow_api import Pipeline, use_this_interpreter

use_this_interpreter()

try:
    PIPELINE = Pipeline(config)
    TOTAL = PIPELINE.total()
except (UserError, OSError) as error:
    # A user's mistake, or a file where a folder has to be, is one message, not a traceback through Snakemake.
    raise SystemExit(f"error: {visible(str(error))}")


if (
    workflow.is_main_process
    and not workflow.dryrun
    and not {"--unlock", "--lint"} & set(sys.argv)
):
    if lost := PIPELINE.lost_folder():
        raise SystemExit(f"error: {lost}")
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


# While the rules are read Snakemake does not know yet whether it is a dry-run; the command line does.
DRY_RUN = any(
    word in ("--dry-run", "--dryrun") or re.fullmatch("-[a-zA-Z]*n[a-zA-Z]*", word)
    for word in sys.argv[1:]
)
if DRY_RUN and not {"-np", "-pn", "-p", "--printshellcmds", "--verbose"} & set(
    sys.argv
):
    # The preview at the end says it in one screen; Snakemake's own lines are for who asks for them.
    logger.addFilter(lambda record: record.levelno >= 30)


def needed(ask, *what):
    """What a job waits for; a dry-run goes on without what is missing, which its preview lists."""
    try:
        return ask(*what)
    except UserError as error:
        if DRY_RUN:
            return []
        raise SystemExit(f"error: {visible(str(error))}")


def user_errors(ask, *what):
    """`ask(*what)`, where a user's mistake ends the run with its message alone."""
    try:
        return ask(*what)
    except (UserError, OSError) as error:
        raise SystemExit(f"error: {visible(str(error))}")


def workload_needs(wildcards):
    """Tokenizers that the study's prompts are made with."""
    return ancient(needed(PIPELINE.tokenizers))


def launch_needs(wildcards):
    """Model files and environment of a launch; older or newer, they do not make it stale: its name says what it is."""
    platform = probes_beside(wildcards)
    needs = needed(PIPELINE.probe_needs, platform) if platform else []
    return ancient([*needed(PIPELINE.needs, wildcards.launch), *needs])


def launch_earlier(wildcards):
    """Launches of the repeat before, where a study adds repeats only as far as needed (job.stop)."""
    return ancient(user_errors(PIPELINE.earlier, wildcards.launch))


def launch_look(wildcards):
    """--look for a launch of which the intervals so far decide whether it is needed."""
    return user_errors(PIPELINE.looks, wildcards.launch)


def of_the_whole_study():
    """Whether all of the study is asked for: of single targets, none brings what another one would."""
    return not set(workflow.dag_settings.targets) - {"all"}


def carried(platform):
    """Whether a launch's job runs the probes of a platform."""
    return of_the_whole_study() and platform in PIPELINE.carriers


def probes_beside(wildcards):
    """The platform whose probes run in the job of a launch, or nothing."""
    platform = PIPELINE.carries(wildcards.launch)
    return platform if carried(platform) else ""


def launch_probes(wildcards):
    """--probes for the launch whose job runs those of its platform, too."""
    return "--probes" if probes_beside(wildcards) else ""


def launch_message(wildcards):
    """The readable line of a launch in a dry-run."""
    text = user_errors(PIPELINE.message, wildcards.launch)
    platform = probes_beside(wildcards)
    return f"{text}; then the probes of {platform}" if platform else text


def launch_priority(wildcards):
    """Launches run in the order that the plan randomised."""
    return user_errors(PIPELINE.priority, wildcards.launch)


def cell_needs(wildcards):
    """What the launch of a single cell needs."""
    return ancient(
        needed(PIPELINE.needs, user_errors(PIPELINE.launch_of, wildcards.cell))
    )


def probe_needs(wildcards):
    """The environment of probes that need more than numpy, and the models whose shapes are measured."""
    return ancient(needed(PIPELINE.probe_needs, wildcards.platform))


def probe_after(wildcards):
    """The attempt of the launch whose job runs the probes; none where they have a job of their own."""
    platform = wildcards.platform
    if PIPELINE.failed_probes(platform):
        # As `-R probe` for this platform alone: the same command tries again what failed.
        workflow.dag.forcefiles.add(PIPELINE.probe_file(platform))
    return ancient(PIPELINE.probe_after(platform) if carried(platform) else [])


def probe_priority(wildcards):
    """Probes that run already, in a launch's job, are waited for before another launch is."""
    return len(PIPELINE.attempts) + 1 if carried(wildcards.platform) else 0


def dataset_needs(wildcards):
    """The attempts that the dataset is made of; where it is hollow its rule runs, however new its stamp is."""
    if user_errors(PIPELINE.has_a_hollow_dataset, not DRY_RUN):
        # As `-R merge_dataset`, which is asked for too early: the times of files would not show it.
        workflow.dag.forcerules.add(workflow.get_rule("merge_dataset"))
    return PIPELINE.attempt_files()


def finished():
    """Say how the run ended; the exit status is 1 unless everything that was asked for is measured."""
    from servegauge.report import terminal

    # Independent of Snakemake's graph: the plan against what is there. A target of one's own asks for less.
    targets = set(workflow.dag_settings.targets) - {"all"}
    alone = targets == {"traces"}  # no dataset comes of them
    status = 0 if alone else terminal.show(PIPELINE.results, PIPELINE.name)
    asked = PIPELINE.asks_for_probes if not targets else targets == {"probes"}
    if failed := PIPELINE.failed_probes() if asked else []:
        print(f"probes that failed: {', '.join(failed)}", file=sys.stderr)
    if targets and not alone:
        return 1 if failed else status
    # A cell that failed is not measured; one of another platform, or that `cells` leaves out, was not asked for.
    if left := PIPELINE.unmeasured(traces_only=alone):
        print(
            f"not measured: {len(left)} cells or traces, the first is {left[0]}",
            file=sys.stderr,
        )
    return 1 if left or failed else 0


def cut_off():
    """The dataset and the report of what there is, however the run ended, then how it did."""
    from servegauge.cli.report import what_there_is

    try:
        what_there_is(PIPELINE.results, PIPELINE.name)
    except (UserError, OSError) as error:
        print(f"not merged: {visible(str(error))}", file=sys.stderr)
    finished()


@atexit.register
def dry_run_total():
    """A dry-run ends with the matrix, what is missing and what all of it would cost."""
    if workflow.is_main_process and workflow.dryrun:
        print(PIPELINE.preview(), file=sys.stderr)
