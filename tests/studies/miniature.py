"""Running a study as it is, in this process and fast: no Snakemake, no jobs, a calibration that is not measured."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from servegauge.base.errors import UserError
from servegauge.compare.tables import write_tables
from servegauge.contract.records.base import write
from servegauge.contract.records.calibration import Calibration, Limits
from servegauge.contract.records.order import JobContext
from servegauge.contract.records.plan import Plan
from servegauge.dataset.merge import merge
from servegauge.inputs.environments import build_environment
from servegauge.inputs.models import source_folder
from servegauge.launch import node_calibration, run, server
from servegauge.plan.config import load_study
from servegauge.plan.documents import state
from servegauge.plan.expand import expand
from servegauge.probes import get
from servegauge.probes.harness.run import run_platform
from servegauge.submit.attempts import Run
from servegauge.submit.orders import make_order, read_plan
from servegauge.workloads.compile import compile_plan

CALIBRATION = Calibration(limits=Limits(rate_rps=100.0, streams=100))
RESULTS = Path("results")
ROOT = Path(__file__).parents[2]


def quicken(monkeypatch: pytest.MonkeyPatch) -> None:
    """No calibration, and no long goodbye for servers."""
    monkeypatch.setattr(node_calibration.calibrate, "calibrate", lambda *_, **__: CALIBRATION)
    monkeypatch.setattr(server, "GRACE_S", 0.5)


def _probe(study: Mapping[str, Any], platform: dict[str, Any]) -> None:
    """The probes of a study on a platform, each once for all studies; those that need torch in its environment."""
    out = RESULTS / "probes" / platform["name"]
    for name in study.get("probes") or ():
        if not (out / f"{name}.json").exists():
            python = _with_torch() if get(name).needs == "torch" else sys.executable
            sources = [{"name": one["name"], "source": str(source_folder(one))} for one in study["models"].values()]
            run_platform(platform, [name], out, size=study["probe_size"], models=sources, python=python)


@cache
def _with_torch() -> str:
    """The probes' environment, or this one where PyTorch's CPU build is not to be had: the probe then says so."""
    try:
        return str(build_environment("probes", ROOT))
    except UserError:
        return sys.executable


def measure(name: str) -> Plan:
    """Every cell of the study `name` that is not measured yet, in the working folder; then the dataset's tables."""
    plan = expand(load_study(Path(), name))
    file = RESULTS / "plan" / f"{name}.json"
    write(file, plan)
    compile_plan(file, RESULTS / "workloads" / f"{name}.json", RESULTS, Path())
    said = io.StringIO()
    for launch, now in state(plan, RESULTS).items():
        if not now.missing:
            continue
        order = make_order(read_plan(file), launch, now.attempts, RESULTS, Path())
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            outcome = run.run_launch(order, JobContext())
        assert outcome is not None
        Run(file, launch, "local", RESULTS, "x:y")._write(now.attempts, outcome)
        wrong = {cell: one.reason for cell, one in outcome.cells.items() if one.status != "ok"}
        assert not wrong, f"{wrong}\n{said.getvalue()[-2000:]}"
    for platform in plan.study["platforms"].values():
        _probe(plan.study, platform)
    merge(RESULTS)
    assert write_tables(RESULTS) == []
    return plan
