"""A platform's probes as a job: the same submitting, finding again and cancelling as for a launch.

What `scripts/probe.py` does. The order looks like a launch's, without cells, and names the function that runs instead.
Its attempts lie in `results/probes/launches/probes-<platform>/`, away from the launches of studies.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from servegauge.base.errors import UserError
from servegauge.base.files import read_json
from servegauge.contract.spec import Layout
from servegauge.inputs.models import source_folder
from servegauge.probes import get
from servegauge.submit.monitor import POLL_S, submit_and_wait
from servegauge.submit.orders import attempt_folder

RUN = "servegauge.probes.harness.run:run_order"  # the function that the job is given
MINUTES = {"quick": 15, "full": 120}


def make_order(
    platform: Mapping[str, Any],
    names: str,
    out: Path,
    root: Path,
    *,
    size: str = "full",
    models: Sequence[Mapping[str, Any]] = (),
    python: str | None = None,
    nodes: int = 1,
) -> dict[str, Any]:
    """The order of one job that runs `names` (all, light, or names with commas) on `nodes` nodes of `platform`.

    UserError for a probe that does not exist.
    """
    if names not in ("all", "light"):
        for probe in names.split(","):
            get(probe.strip())  # a name that does not exist is said before anything is submitted
    name = f"probes-{platform['name']}"
    layout = Layout(instances=max(1, int(platform.get("gpus_per_node") or 0) * nodes))
    launch = {"id": name, "platform": dict(platform), "layout": dataclasses.asdict(layout), "repeat": 1}
    order = {
        "version": 1,
        "study": name,
        "launch": launch,
        "attempt": 0,
        "cells": [],
        "job": {"minutes": MINUTES[size]},
        "root": str(root.resolve()),
        "results": "results/probes",
        "deadline_utc": None,
        "run": RUN,
        "probes": {
            "names": names,
            "size": size,
            # A hub model lies in a folder of ours once it is fetched.
            "models": [{**model, "source": str(source_folder(model))} for model in models],
            "out": str(out),
            "python": python,
        },
    }
    order["attempt"] = _attempt(order)
    return order


def _attempt(order: Mapping[str, Any]) -> int:
    """The first attempt that has not ended: a job that was submitted before and still runs is waited for."""
    attempt, results = 0, Path(order["root"]) / order["results"]
    while True:
        file = attempt_folder(results, order["launch"]["id"], attempt) / "job.json"
        if not file.exists() or read_json(file).get("state") != "ended":
            return attempt
        attempt += 1


def submit(order: Mapping[str, Any], mode: str, poll_s: float = POLL_S) -> list[Path]:
    """Run the order by `mode` (slurm, local, inline); the documents it wrote. UserError says why it failed."""
    outcome = submit_and_wait(order, mode, poll_s)
    if outcome["status"] != "ok":
        folder = attempt_folder(Path(order["root"]) / order["results"], order["launch"]["id"], order["attempt"])
        name = order["launch"]["platform"]["name"]
        raise UserError(
            f"the probes of {name} did not run: {outcome['reason'] or 'no reason given'}. "
            f"Its output is in {folder}; the same command tries again."
        )
    return [Path(path) for path in outcome["written"].values()]
