"""Slurm's word to a process on a node, read in one place."""

from __future__ import annotations

import re

import pytest

from servegauge.base import allocation
from tests.conftest import ROOT

NAMES = ("JOB_ID", "RESTART_COUNT", "PROCID", "STEP_ID", "STEP_NUM_TASKS", "JOB_END_TIME", "JOB_NODELIST")


@pytest.fixture(autouse=True)
def no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*(f"SLURM_{name}" for name in NAMES), "SLURMD_NODENAME"):
        monkeypatch.delenv(name, raising=False)


def test_outside_a_job_a_process_is_alone() -> None:
    assert (allocation.job(), allocation.start(), allocation.rank(), allocation.end_s()) == (None, 0, (0, 1), None)
    assert (allocation.node(), allocation.nodes()) == ("", "")


def test_inside_a_job_it_is_what_slurm_says(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"JOB_ID": "17", "RESTART_COUNT": "2", "PROCID": "1", "STEP_ID": "0", "STEP_NUM_TASKS": "4"}
    said |= {"JOB_END_TIME": "1700000000", "JOB_NODELIST": "n[1-4]"}
    for name, value in said.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SLURMD_NODENAME", "n2")
    assert (allocation.job(), allocation.start(), allocation.rank()) == ("17", 2, (1, 4))
    assert (allocation.end_s(), allocation.node(), allocation.nodes()) == (1_700_000_000.0, "n2", "n[1-4]")
    around = {"SLURM_PROCID": "1", "SLURM_STEP_ID": "0", "SLURM_EXPORT_ENV": "NONE", "A": "b"}
    assert allocation.without_rank(around) == {"A": "b"}


def test_a_rank_without_a_step_is_of_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert allocation.rank() == (0, 1)


def test_no_other_module_names_a_variable_of_slurm() -> None:
    package = ROOT / "workflow" / "servegauge"
    named = [path for path in package.rglob("*.py") if re.search("SLURMD?_[A-Z]", path.read_text(encoding="utf-8"))]
    assert named == [package / "base" / "allocation.py"]
