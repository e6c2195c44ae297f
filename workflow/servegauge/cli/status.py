"""`servegauge status`: what of a study is measured, running, pending and failed."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from servegauge.base.progress import duration, utc_now
from servegauge.cli import options
from servegauge.contract.records.plan import Plan
from servegauge.plan import documents
from servegauge.plan.config import load_config, load_study
from servegauge.plan.expand import expand
from servegauge.submit.status import LaunchStatus, statuses

HELP = "Show what of a study is measured, running, pending and failed."
EXAMPLE = """
  servegauge status demo
  servegauge status vgpu-vs-bare-metal --watch 30
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    options.add_study(add)
    options.add_results(add, "folder with what was measured")
    seconds = options.number("seconds, 1 to 86400", 1, 86400)
    add("--watch", nargs="?", type=seconds, const=10.0, metavar="S", help="show it again every S seconds (10)")


def run(arguments: argparse.Namespace) -> int:
    root = Path()
    plan = expand(load_study(root, arguments.study or load_config(root, {})["study"]))
    while True:
        text = "\n".join(lines(plan, arguments.results))
        if arguments.watch is None:
            print(text)
            return 0
        if sys.stdout.isatty():
            os.write(sys.stdout.fileno(), b"\033[2J\033[H")  # to the terminal itself: what is printed is escaped
        print(f"{utc_now()}\n{text}", flush=True)
        time.sleep(arguments.watch)


def lines(plan: Plan, results: Path) -> Iterator[str]:
    """The status of every launch that was tried, under the study's counts."""
    state = documents.state(plan, results)
    found, trouble = statuses(results, {name: now.attempts for name, now in state.items()})
    measured, missing, traced, untraced = (
        sum(len(getattr(state[launch.id], key)) for launch in launches)
        for launches in (plan.launches, plan.trace_launches)
        for key in ("measured", "missing")
    )
    traces = f" and {traced} of {traced + untraced} traces" if plan.traces else ""
    done = sum(not now.missing for now in state.values())
    # A cell that failed in one attempt and was measured in a later one is no failure.
    failed = {
        cell: (one.launch, why)
        for one in found
        for cell, why in (one.failed or {}).items()
        if cell in state[one.launch].missing
    }
    active = [one for one in found if one.state != "ended"]
    pending = [one for one in active if one.state in ("pending", "submitting")]
    yield (
        f"study {plan.study['name']}: {done} of {len(state)} launches and {measured} of {measured + missing} cells"
        f"{traces} measured; {len(active) - len(pending)} launches running, {len(pending)} pending, "
        f"{len(failed)} cells failed"
    )
    if trouble:
        yield trouble
    for title, some in (("Running", [one for one in active if one not in pending]), ("Pending", pending)):
        if some:
            yield f"\n{title}:"
            for one in some:
                yield from _active(one)
    if failed:
        yield "\nFailed:"
        for cell, (launch, why) in failed.items():
            yield f"  {cell}\n    {why.splitlines()[0] if why else 'no reason was recorded'}  ({launch})"


def _active(one: LaunchStatus) -> Iterator[str]:
    words = [f"attempt {one.attempt}"]
    words += [f"job {one.job}"] if one.job else []
    words += [f"on {one.node}"] if one.node else []
    words += [one.reason] if one.reason else []
    words += [f"{duration(one.left_s)} left"] if one.left_s is not None else []
    yield f"  {one.launch}: {', '.join(words)}"
    if one.doing:
        yield f"    {one.doing}"
