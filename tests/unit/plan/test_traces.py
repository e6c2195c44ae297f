"""Traces in the plan: a launch of its own for each, whose time is counted, and no name of anything else changes."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from servegauge.base.errors import UserError
from servegauge.base.files import write_json
from servegauge.contract.records.base import plain, write
from servegauge.contract.records.outcome import CellOutcome, Outcome
from servegauge.contract.records.plan import Plan
from servegauge.plan import documents, estimate, preview
from servegauge.plan.expand import expand
from servegauge.submit.orders import make_order, read_plan
from tests.unit.study_tree import Fast, Tree

TRACE = {"profiler": "torch", "steps": 8}
BUSY = {"framework": "fast"}


@pytest.fixture(autouse=True)
def traceable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fast, "profilers", ("torch",))


def traced(tree: Tree, **parts: object) -> Plan:
    return expand(tree.study(matrix=BUSY, trace={**TRACE, **parts}))


def test_no_launch_cell_or_workload_gets_another_name(tree: Tree) -> None:
    before, after = expand(tree.study(matrix=BUSY)), traced(tree)
    assert [launch.id for launch in after.launches] == [launch.id for launch in before.launches]
    assert [one.id for one in after.cells] == [one.id for one in before.cells]
    assert [one.id for one in after.workloads] == [one.id for one in before.workloads]
    added = ("study", "trace_launches", "traces")
    left = {name: value for name, value in plain(after).items() if name not in added}
    assert left == {name: value for name, value in plain(before).items() if name not in added}


def test_each_chosen_cell_has_a_trace_with_its_frozen_load_on_a_launch_of_its_own(tree: Tree) -> None:
    plan = traced(tree)
    first = [one for one in plan.cells if plan.launch(one.launch).repeat == 1]
    assert len(first) == len(plan.traces) == len(plan.trace_launches) == 4
    for cell, trace, launch in zip(first, plan.traces, plan.trace_launches, strict=True):
        timed = plan.launch(cell.launch)
        assert trace.skipped is None
        assert launch.trace == {"cell": cell.id, "profiler": "torch", "steps": 8, "after_s": 2, "most_s": 10}
        assert trace.launch == launch.id
        assert trace.workload.id == cell.workload.id
        assert (trace.load, trace.prompts) == (cell.load, cell.prompts)
        assert (launch.platform, launch.options, launch.layout) == (timed.platform, timed.options, timed.layout)
    names = {launch.id for launch in plan.every_launch}
    assert len(names) == len(plan.every_launch)
    assert all("-torch-" in launch.id for launch in plan.trace_launches)
    assert msgspec.convert(json.loads(json.dumps(plain(plan))), Plan) == plan


def test_a_trace_takes_its_cells_time_and_its_profilers(tree: Tree) -> None:
    plan = traced(tree)
    trace, assumed = plan.traces[0], estimate.assumed(plan.study)
    launch = plan.launch(trace.launch)
    timed = plan.launch(plan.cells[0].launch)
    with_it, without = (estimate.estimate_cells(one, [trace], tree.root, assumed) for one in (launch, timed))
    assert with_it.cells_s - without.cells_s == pytest.approx(estimate.TRACE_S)


def test_another_way_of_tracing_is_another_trace(tree: Tree) -> None:
    names = {tuple(one.id for one in traced(tree, **how).traces) for how in ({}, {"steps": 9}, {"after_s": 3})}
    assert len(names) == 3


def test_a_pattern_chooses_cells_and_one_that_chooses_none_is_told(tree: Tree) -> None:
    assert len(traced(tree, cells="*metal*-rate1-*").traces) == 2
    with pytest.raises(UserError, match=r"x\.yaml: trace\.graphs: 'node' is for nsys"):
        traced(tree, graphs="node")
    with pytest.raises(UserError, match=r"x\.yaml: trace\.cells: '\*nothing\*' matches no cell; their ids are like"):
        traced(tree, cells="*nothing*")


def test_what_cannot_work_or_be_traced_is_no_job(tree: Tree) -> None:
    plan = expand(tree.study(trace=TRACE))
    assert {one.skipped for one in plan.traces} == {"Plain cannot be traced with torch here (it has: nsys)"}
    state = documents.state(plan, Path("nowhere"))
    assert all(not state[launch.id].missing for launch in plan.trace_launches)
    skipped = expand(tree.study(matrix={**BUSY, "prompts": ["chat", "book"], "context_tokens": [512]}, trace=TRACE))
    assert {one.prompts["name"] for one in skipped.traces} == {"chat"}


def test_the_baseline_measured_again_is_not_traced_again(tree: Tree) -> None:
    compare = {"factor": "platform", "baseline": "metal"}
    plan = expand(tree.study(matrix=BUSY, aa=True, compare=compare, trace=TRACE))
    assert len(plan.launches) == 6
    assert len(plan.traces) == 4


@pytest.mark.parametrize(
    ("trace", "said"),
    [({"profiler": "perf"}, "torch"), ({"steps": 8}, "profiler"), ({"profiler": "torch", "steps": 0}, "steps")],
)
def test_a_mistake_in_the_study_is_told(tree: Tree, trace: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        tree.study({**json.loads(json.dumps(STUDY)), "trace": trace})


STUDY = {
    "question": "?",
    "matrix": {"model": "small", "framework": "fast", "platform": "metal", "prompts": "chat", "rate": 1},
    "load": {"duration_s": 10},
}


def test_its_launches_and_minutes_are_in_the_plan_and_the_budget(tree: Tree, tmp_path: Path) -> None:
    results = tmp_path / "results"
    bare, plan = expand(tree.study(matrix=BUSY)), traced(tree)
    sums = {}
    for name, one in (("bare", bare), ("traced", plan)):
        state = documents.state(one, results)
        sums[name] = documents.totals(one, state, documents.estimate(one, state, results), results)
    assert (sums["bare"]["launches"], sums["traced"]["launches"]) == (4, 8)
    assert sums["traced"]["missing"] == sums["bare"]["missing"] == 8
    assert sums["traced"]["traces_missing"] == 4
    assert sums["traced"]["minutes"] > sums["bare"]["minutes"] + 4 * 1
    assert sums["traced"]["gpu_hours"] > sums["bare"]["gpu_hours"]
    text = documents.render(plan, results)
    assert "4 traces in launches of their own (0 measured, 4 to measure)" in text
    assert text.count("traced with torch, repeat 1: 1 trace, 0 measured") == 4
    assert "4 traces in launches of their own" in preview.preview(plan, documents.state(plan, results), results)
    between = (sums["bare"]["gpu_hours"] + sums["traced"]["gpu_hours"]) / 2
    tight = expand(tree.study(matrix=BUSY, trace=TRACE, budget={"gpu_hours": between}))
    with pytest.raises(UserError, match=r"budget\.gpu_hours"):
        documents.total(tight, documents.state(tight, results), results)


def test_only_what_is_missing_is_ordered_again(tree: Tree, tmp_path: Path) -> None:
    results = tmp_path / "results"
    plan = traced(tree)
    write(tmp_path / "x.json", plan)
    document = read_plan(tmp_path / "x.json")
    launch, trace = plan.trace_launches[0], plan.traces[0]
    assert document.cell(trace.id).launch == launch.id
    order = make_order(document, launch.id, 0, results, tmp_path)
    assert [cell.id for cell in order.cells] == [trace.id]
    assert order.launch == launch
    assert order.cells[0] == trace
    failed = {trace.id: CellOutcome(status="failed", reason="no")}
    outcome = Outcome(launch=launch.id, attempt=0, study="x", status="ok", cells=failed)
    write(results / "launches" / launch.id / "attempt-0.json", outcome)
    assert documents.state(plan, results)[launch.id] == documents.LaunchState(1, (), (trace.id,), 0)
    write_json(results / "traces" / trace.id / "trace.json", {})
    assert documents.state(plan, results)[launch.id] == documents.LaunchState(1, (trace.id,), (), 0)
    assert make_order(document, launch.id, 1, results, tmp_path).cells == ()
