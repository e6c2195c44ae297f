"""Which launch's job runs a platform's probes, and what it is told."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from servegauge.cli.workflow_api import Pipeline
from servegauge.contract.records.base import read, write
from servegauge.contract.records.job import JobRecord
from servegauge.contract.records.order import Carrier, Order
from servegauge.contract.records.outcome import CellOutcome, Outcome
from servegauge.plan.expand import expand
from servegauge.submit import entrypoint, orders, probe_order
from servegauge.submit.job_outcome import outcome_of
from servegauge.submit.slurm_commands import JobState
from tests.unit.study_tree import Tree

PROBES: dict[str, Any] = {"probes": ["dispatch"], "probe_size": "quick"}


@pytest.fixture
def root(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tree.root)
    return tree.root


def pipeline(tree: Tree, given: dict[str, Any] | None = None, **study: Any) -> Pipeline:
    tree.study(**{"matrix": {"platform": ["cpu"], "repeat": 2}, **PROBES, **study})
    return Pipeline({"study": "x", **(given or {})})


def test_the_first_launch_of_a_platform_that_can_is_the_carrier(root: Path, tree: Tree) -> None:
    found = pipeline(tree)
    first = found.plan.launches[0].id
    assert found.carriers == {"cpu": first}
    assert found.carries(first) == "cpu"
    assert found.probe_after("cpu") == [f"results/launches/{first}/attempt-0.json"]
    assert found.probe_notes() == [f"cpu: dispatch, in the job of {first}, after its cells"]


@pytest.mark.parametrize(
    ("given", "study"),
    [
        ({}, {"job": {"probes": "own"}}),
        ({"submit": "inline"}, {}),
        ({}, {"matrix": {"platform": ["metal"], "repeat": 1}}),  # one of the node's four GPUs
        ({}, {"matrix": {"platform": ["metal"], "framework": "fast", "tp": 8, "repeat": 1}}),  # two nodes
    ],
)
def test_other_probes_have_a_job_of_their_own(root: Path, tree: Tree, given: dict[str, Any], study: Any) -> None:
    found = pipeline(tree, given, **study)
    assert found.carriers == {}
    assert found.probe_after("metal") == []
    assert all(note.endswith("in a job of their own") for note in found.probe_notes())
    assert found.probe_notes()


def test_a_launch_with_all_gpus_of_a_node_is_a_carrier(root: Path, tree: Tree) -> None:
    found = pipeline(tree, matrix={"platform": ["metal"], "framework": "fast", "tp": [1, 4], "repeat": 1})
    [carrier] = found.carriers.values()
    assert found.launch(carrier).layout.tp == 4


def test_a_baseline_that_is_measured_again_carries_nothing(root: Path, tree: Tree) -> None:
    found = pipeline(tree, matrix={"platform": ["cpu", "metal"], "repeat": 2}, aa=True)
    assert list(found.carriers) == ["cpu"]


def test_probes_that_are_there_wait_for_nothing(root: Path, tree: Tree) -> None:
    [file] = pipeline(tree).probe_files()
    tree.write(file, "{}")
    found = Pipeline({"study": "x"})
    assert found.carriers == {}
    assert found.probe_notes() == []


def test_a_launch_without_a_job_to_come_carries_nothing(root: Path, tree: Tree) -> None:
    found = pipeline(tree)
    first, second = (launch.id for launch in found.plan.launches)
    for cell in found.plan.cells_of(first):
        tree.write(f"results/cells/{cell.id}/cell.json", "{}")
    assert Pipeline({"study": "x"}).carriers == {"cpu": second}
    tree.write(f"results/launches/{first}/attempt-0/job.json", "{}")  # its outcome is still to be taken
    assert Pipeline({"study": "x"}).carriers == {"cpu": first}


# -- what the job is told -----------------------------------------------------


def order_of(tree: Tree, attempt: int = 0, time_min: float = 20.0, **platform: Any) -> Order:
    """The order of the first launch, with what `carried_by` makes of it."""
    tree.write("config/platforms/cpu.yaml", {"description": "no GPU", **platform})
    plan = expand(tree.study(matrix={"platform": ["cpu"]}, **PROBES))
    made = orders.make_order(plan, plan.launches[0].id, attempt, Path("results"), tree.root)
    return probe_order.carried_by(msgspec.structs.replace(made, time_min=time_min), plan)


def test_the_job_asks_for_the_time_of_both(root: Path, tree: Tree) -> None:
    order = order_of(tree)
    assert order.then == "results/probes/launches/probes-cpu/attempt-0/order.json"
    assert order.time_min == 20 + probe_order.MINUTES["quick"]
    written = read(root / order.then, Order)
    assert written.carrier == Carrier(launch=order.launch.id, attempt=0)
    assert written.asked["probes"]["names"] == "dispatch"
    assert order_of(tree).then == order.then, "killed before it was submitted, it is told again"


def test_a_platform_without_time_for_both_leaves_them_to_a_job_of_their_own(root: Path, tree: Tree) -> None:
    order = order_of(tree, slurm={"partition": "p", "time_min": 30})
    assert (order.then, order.time_min) == ("", 20)
    assert not (root / "results/probes").exists()


def test_probes_that_a_job_was_given_are_given_to_no_other(root: Path, tree: Tree) -> None:
    order_of(tree)
    assert order_of(tree, attempt=1).then == ""


@pytest.mark.parametrize("launch", ["../x", "a/b", "", ".x", "/tmp"])
def test_an_order_names_no_carrier_outside_the_results(launch: str) -> None:
    with pytest.raises(ValueError, match="it must be the name of a folder"):
        Carrier(launch=launch, attempt=0)


# -- on the node --------------------------------------------------------------


def test_a_job_that_is_put_back_into_the_queue_in_its_probes_measures_no_cell_again(
    tmp_path: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree.root)
    order = order_of(tree)
    outcome = Outcome(launch=order.launch.id, attempt=0, study="x", status="ok", cells={})
    write(tmp_path / "outcome.json", outcome)
    monkeypatch.setattr(entrypoint.allocation, "start", lambda: 1)
    signals = entrypoint.EndSignals.__new__(entrypoint.EndSignals)  # without its handlers
    assert entrypoint._carry_out(tmp_path / "order.json", order, "nobody:asked", signals) == outcome
    assert not (tmp_path / "running.json").exists()


def test_a_signal_between_the_launch_and_its_probes_ends_the_job(
    tmp_path: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree.root)
    order = msgspec.structs.replace(order_of(tree), cells=())
    signals = entrypoint.EndSignals.__new__(entrypoint.EndSignals)  # without its handlers
    signals.begun = True  # by the launch before
    monkeypatch.setattr(entrypoint.importlib, "import_module", lambda name: signals._end(signal.SIGTERM, None))
    with pytest.raises(entrypoint.Interrupted, match="the job got SIGTERM"):
        entrypoint._carry_out(tmp_path / "order.json", order, "module:probes", signals)


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"])
def test_a_launch_that_ran_through_is_what_it_left_however_its_job_ends(root: Path, tree: Tree, state: str) -> None:
    order = order_of(tree)
    order.folder.mkdir(parents=True)
    write(order.folder / "outcome.json", Outcome(launch=order.launch.id, attempt=0, study="x", status="ok", cells={}))
    record = JobRecord(mode="slurm", state="submitted", folder="job-1a2b3c4d", job="7")
    for cell in order.cells:
        tree.write(f"results/cells/{cell.id}/cell.json", "{}")
    outcome = outcome_of(order, record, JobState("7", state), root / "log")
    assert (outcome.status, outcome.reason) == ("ok", None)
    assert {cell.status for cell in outcome.cells.values()} == {"ok"}
    assert outcome.job is not None
    assert outcome.job.state == state
    (order.folder / "outcome.json").unlink()
    outcome = outcome_of(order, record, JobState("7", state), root / "log")
    assert outcome.status == "failed", "it left nothing"
    assert state in (outcome.reason or "")


@pytest.mark.parametrize(
    ("status", "reason", "cell", "through"),
    [
        ("ok", None, "ok", True),
        ("ok", None, "failed", True),
        ("failed", "the server is never ready", "failed", True),
        ("ok", "the job got SIGTERM", "ok", False),
        ("ok", "no time left", "not_run", False),
        ("failed", "the job got SIGTERM", "not_run", False),
    ],
)
def test_probes_follow_what_ran_through_and_nothing_that_was_stopped(
    status: Any, reason: str | None, cell: Any, through: bool
) -> None:
    cells = {"c": CellOutcome(status=cell)}
    outcome = Outcome(launch="l", attempt=0, study="s", status=status, reason=reason, cells=cells)
    assert outcome.ran_through is through
