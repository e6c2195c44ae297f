"""What is measured, what is missing, what it will cost, and what a person is told of it."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from servegauge.base.errors import UserError
from servegauge.base.files import write_json
from servegauge.contract.records.base import write
from servegauge.contract.records.outcome import Outcome
from servegauge.contract.records.plan import Plan
from servegauge.plan import documents as planning
from servegauge.plan import estimate
from servegauge.plan.expand import expand
from tests.unit.study_tree import Tree, copy_config

BUSY = {"framework": "fast"}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def _measure(results: Path, *cells: str) -> None:
    for cell in cells:
        write_json(results / "cells" / cell / "cell.json", {})


def _finish(results: Path, launch: str, attempt: int, minutes: int = 30) -> None:
    outcome = Outcome(
        launch=launch,
        attempt=attempt,
        study="x",
        status="ok",
        cells={},
        started_utc="2026-11-01T10:00:00+00:00",
        finished_utc=f"2026-11-01T10:{minutes:02}:00+00:00",
    )
    write(results / "launches" / launch / f"attempt-{attempt}.json", outcome)


def _cells(plan: Plan, launch: str) -> list[str]:
    return [planned.id for planned in plan.cells_of(launch)]


def test_nothing_is_there_at_first(tree: Tree, results: Path) -> None:
    plan = expand(tree.study())
    state = planning.state(plan, results)
    assert set(state) == {launch.id for launch in plan.launches}
    for launch in plan.launches:
        assert state[launch.id] == planning.LaunchState(0, (), tuple(_cells(plan, launch.id)), 0)


def test_what_is_measured_is_not_missing_and_attempts_are_counted(tree: Tree, results: Path) -> None:
    plan = expand(tree.study())
    first, second, *_ = (launch.id for launch in plan.launches)
    _measure(results, _cells(plan, first)[1], *_cells(plan, second))
    (results / "cells" / f".{_cells(plan, first)[0]}.tmp").mkdir()  # one that is being written
    (results / "cells" / _cells(plan, first)[0]).mkdir()  # made by Snakemake for an output that is to come
    _finish(results, first, 0)
    _finish(results, first, 1)
    (results / "launches" / first / "attempt-2").mkdir()  # runs, or was killed
    state = planning.state(plan, results)
    assert state[first] == planning.LaunchState(2, (_cells(plan, first)[1],), (_cells(plan, first)[0],), 0)
    assert state[second] == planning.LaunchState(0, tuple(_cells(plan, second)), (), 0)


def test_a_skipped_cell_is_never_missing(tree: Tree, results: Path) -> None:
    plan = expand(tree.study(matrix={**BUSY, "tp": [1, 4]}))
    state = planning.state(plan, results)
    assert sum(now.skipped for now in state.values()) == 4
    assert [now.missing for name, now in state.items() if "tp4-virtual" in name] == [(), ()]


def test_seconds_of_a_cell(tree: Tree, results: Path) -> None:
    load = {"duration_s": 100, "requests": 40, "warmup_requests": 10, "bursts": 3}
    matrix = {**BUSY, "rate": [0.5, 2], "concurrency": [4], "burst": [8], "platform": "metal", "repeat": 1}
    plan = expand(tree.study(matrix=matrix, load=load))
    assumed = {"cell_overhead_s": 3, "ttft_s": 0.5, "tpot_s": 0.05}
    request = 0.5 + 30 * 0.05  # answers of 10 to 50 tokens
    seconds = {
        planned.load.words(): estimate.cell_seconds(planned, plan.launches[0], assumed, {}) for planned in plan.cells
    }
    ramp, tail = 1.25 * request, 2 * request  # more than 2 s; the last answers, and those of the tail
    assert seconds["rate0.5"] == pytest.approx(3 + 10 / 0.5 + ramp + 40 / 0.5 + tail)
    assert seconds["rate2"] == pytest.approx(3 + 10 / 2 + ramp + 40 / 2 + tail)
    assert seconds["conc4"] == pytest.approx(3 + 3 * request + 2 * request + 10 * request + tail)
    assert seconds["burst8"] == pytest.approx(3 + request + 3 * request + tail)


def test_a_warm_cache_is_warmed_with_a_whole_window(tree: Tree) -> None:
    assumed = {"cell_overhead_s": 0, "ttft_s": 0.1, "tpot_s": 0}
    load = {"duration_s": 60, "warmup_requests": 3}
    matrix = {**BUSY, "rate": [1], "cache": ["cold", "warm"], "platform": "metal", "repeat": 1}
    plan = expand(tree.study(matrix=matrix, load=load, server={"prefix_cache": True}))
    taken = {
        planned.load.cache: estimate.cell_seconds(planned, plan.launches[0], assumed, {}) for planned in plan.cells
    }
    assert taken == {"cold": pytest.approx(3 + 2 + 60 + 0.2), "warm": pytest.approx(60 + 2 + 60 + 0.2)}


def test_a_ramp_that_the_study_asks_for_takes_its_time(tree: Tree) -> None:
    assumed = {"cell_overhead_s": 0, "ttft_s": 0.1, "tpot_s": 0}
    matrix = {**BUSY, "rate": [1], "platform": "metal", "repeat": 1}
    taken = []
    for ramp in ({}, {"ramp_s": 30}):
        plan = expand(tree.study(matrix=matrix, load={"duration_s": 60, "warmup_requests": 0, **ramp}))
        taken.append(estimate.cell_seconds(plan.cells[0], plan.launches[0], assumed, {}))
    assert taken == [pytest.approx(60 + 2 + 0.2), pytest.approx(60 + 30 + 0.2)]


def test_a_long_closed_loop_stops_at_its_duration(tree: Tree) -> None:
    load = {"duration_s": 5, "requests": 4000, "warmup_requests": 0}
    plan = expand(tree.study(matrix={"concurrency": [1], "rate": [9]}, load=load))
    assumed = {"cell_overhead_s": 0, "ttft_s": 1, "tpot_s": 0}
    closed = next(planned for planned in plan.cells if planned.load.concurrency)
    assert estimate.cell_seconds(closed, plan.launches[0], assumed, {}) == 5 + 2 * 1 + 2 * 1  # ramp and tail


def test_cost_of_a_study(tree: Tree, results: Path) -> None:
    tree.write("config/config.yaml", {"planning": {"startup_s": 600, "cell_overhead_s": 0, "ttft_s": 0, "tpot_s": 0}})
    load = {"duration_s": 1200, "ramp_s": 0, "warmup_requests": 0}
    plan = expand(tree.study(matrix={**BUSY, "rate": [1], "tp": [1]}, load=load))
    costs = planning.estimate(plan, planning.state(plan, results), results)
    by_platform = {plan.launch(name).platform["name"]: cost for name, cost in costs.items()}
    assert by_platform["metal"].minutes == 30
    assert by_platform["metal"].gpu_hours == 0.5
    assert by_platform["virtual"].gpu_hours == 1, "an exclusive node counts with both its GPUs"


def test_only_what_is_missing_costs(tree: Tree, results: Path) -> None:
    plan = expand(tree.study(matrix=BUSY))
    for launch in plan.launches:
        _measure(results, *_cells(plan, launch.id))
    costs = planning.estimate(plan, planning.state(plan, results), results)
    assert {cost.minutes for cost in costs.values()} == {0}


def _dataset(results: Path, plan: Plan, startups: dict[str, list[float]], windows: list[float]) -> None:
    rows = [
        {"configuration": launch.configuration, "framework": launch.framework, "model": launch.model["name"],
         "platform": launch.platform["name"], "startup_s": startup}
        for launch in plan.launches for startup in startups.get(launch.platform["name"], [None])
    ]  # fmt: skip
    (results / "dataset").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), results / "dataset" / "launches.parquet")
    cells = [
        {"configuration": plan.launch(planned.launch).configuration, "prompts": planned.prompts["name"],
         "load": json.dumps(asdict(planned.load), sort_keys=True), "window_s": window}
        for planned in plan.cells for window in windows
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(cells), results / "dataset" / "cells.parquet")


def test_measured_times_are_used_and_the_nearest_launch_lends_its_start_up(tree: Tree, results: Path) -> None:
    before = expand(tree.study(matrix={**BUSY, "rate": [1], "platform": "metal"}, load={"warmup_requests": 0}))
    _dataset(results, before, {"metal": [100.0, 300.0, 200.0]}, [7.0, 9.0, 8.0])
    plan = expand(tree.study(matrix={**BUSY, "rate": [1], "prefix_cache": [False, True]}, load={"warmup_requests": 0}))
    costs = planning.estimate(plan, planning.state(plan, results), results)
    assert {cost.startup_s for cost in costs.values()} == {200}, "another platform of the same model lends it"
    same = [costs[launch.id] for launch in plan.launches if launch.configuration == before.launches[0].configuration]
    around = {cost.cells_s - (3 + 8) for cost in same}  # what ramp and tail take is no part of a window
    assert len(around) == 1
    assert 2 < around.pop() < 20


def test_a_window_measured_under_another_load_says_nothing(tree: Tree, results: Path) -> None:
    parts = {"matrix": {**BUSY, "rate": [1], "platform": "metal", "repeat": 1}}
    _dataset(results, expand(tree.study(**parts, load={"duration_s": 10})), {}, [7.0])
    longer = expand(tree.study(**parts, load={"duration_s": 100, "warmup_requests": 0}))
    (cost,) = planning.estimate(longer, planning.state(longer, results), results).values()
    assert cost.cells_s > 100


def test_a_dataset_of_another_version_is_no_obstacle(tree: Tree, results: Path) -> None:
    (results / "dataset").mkdir(parents=True)
    pq.write_table(pa.table({"other": [1]}), results / "dataset" / "launches.parquet")
    (results / "dataset" / "cells.parquet").write_bytes(b"damaged")
    plan = expand(tree.study(matrix=BUSY))
    assert {cost.startup_s for cost in planning.estimate(plan, planning.state(plan, results), results).values()} == {
        120
    }


def test_a_message_says_what_a_launch_is_and_asks(tree: Tree, results: Path) -> None:
    plan = expand(tree.study(matrix={**BUSY, "tp": [2], "prefix_cache": [True], "repeat": 1}))
    _measure(results, _cells(plan, plan.launches[0].id)[0])
    state = planning.state(plan, results)
    messages = {launch.platform["name"]: planning.message(plan, state, launch.id, results) for launch in plan.launches}
    measured = plan.launches[0].platform["name"]
    for platform, asks in (
        ("metal", "asks for 1 node, 2 GPUs, partition gpu, "),
        ("virtual", "asks for 1 node exclusively, 2 GPUs, partition vgpu, "),
    ):
        have = 1 if platform == measured else 0
        start = f"Fast serves small tp2 on {platform} (prefix_cache true), repeat 1: 2 cells, {have} measured; {asks}"
        assert messages[platform].startswith(start)
        assert "; about " in messages[platform]


def test_a_message_counts_what_cannot_work(tree: Tree, results: Path) -> None:
    plan = expand(tree.study(matrix={"prompts": ["chat", "book"], "platform": "metal", "repeat": 1}))
    message = planning.message(plan, planning.state(plan, results), plan.launches[0].id, results)
    assert message.startswith("Plain serves small tp1 on metal, repeat 1: 2 cells, 0 measured; 2 cannot work; ")


@pytest.mark.parametrize(
    ("job", "minutes", "limit"), [({}, 20, 40), ({}, 200, 120), ({"minutes": 90}, 20, 90), ({"minutes": 500}, 1, 120)]
)
def test_time_limit(tree: Tree, job: dict, minutes: float, limit: int) -> None:
    plan = expand(tree.study(matrix={"platform": "metal"}, job=job))
    assert estimate.time_limit_min(plan.study, plan.launches[0], minutes) == limit


def test_over_the_budget_it_stops_unless_told_otherwise(tree: Tree, results: Path) -> None:
    load = {"duration_s": 3600, "warmup_requests": 0}
    plan = expand(tree.study(matrix={**BUSY, "rate": [1], "platform": "metal"}, load=load, budget={"gpu_hours": 1.5}))
    state = planning.state(plan, results)
    with pytest.raises(
        UserError,
        match=r"x\.yaml: budget\.gpu_hours: the plan takes 2\.1 GPU hours and 0\.0 are spent, the budget is 1\.5\.",
    ):
        planning.total(plan, state, results)
    assert "2.1 GPU hours to come, 0.0 spent, budget 1.5" in planning.total(plan, state, results, over_budget=True)


def test_what_is_spent_counts(tree: Tree, results: Path) -> None:
    load = {"duration_s": 600, "warmup_requests": 0}
    plan = expand(
        tree.study(matrix={**BUSY, "rate": [1], "tp": [4], "platform": "metal"}, load=load, budget={"gpu_hours": 3})
    )
    assert "1.6 GPU hours to come, 0.0 spent, budget 3" in planning.total(plan, planning.state(plan, results), results)
    _finish(results, plan.launches[0].id, 0)
    with pytest.raises(UserError, match=r"takes 1\.6 GPU hours and 2\.0 are spent"):
        planning.total(plan, planning.state(plan, results), results)
    for launch in plan.launches:
        _measure(results, *_cells(plan, launch.id))
    assert "0 of 2 launches to run" in planning.total(plan, planning.state(plan, results), results), (
        "nothing left to stop"
    )


def test_an_attempt_without_times_costs_nothing(tree: Tree, results: Path) -> None:
    plan = expand(tree.study(matrix=BUSY))
    write_json(results / "launches" / plan.launches[0].id / "attempt-0.json", {"status": "failed"})
    assert "0.0 spent" in planning.total(plan, planning.state(plan, results), results)


def test_a_total_without_gpus_does_not_speak_of_them(tree: Tree, results: Path) -> None:
    plan = expand(tree.study(matrix={"platform": "cpu"}))
    text = planning.total(plan, planning.state(plan, results), results)
    assert text.startswith("study x: 2 of 2 launches to run, 4 cells (0 measured, 4 to measure), about ")
    assert "GPU" not in text


def test_table_csv_and_json_say_the_same(tree: Tree, results: Path) -> None:
    plan = expand(tree.study(matrix={"framework": ["fast", "plain"], "tp": [1, 4]}, server={"memory_fraction": 0.5}))
    table = planning.render(plan, results, "table")
    rows = list(csv.DictReader(io.StringIO(planning.render(plan, results, "csv"))))
    data = json.loads(planning.render(plan, results, "json"))
    assert all(launch.id in table for launch in plan.launches)
    assert "8 cells: tp4 takes 4 GPUs, the platform virtual has 2 on one node" in table
    assert "Fast, memory_fraction: counts activations too" in table
    assert [row["cell"] for row in rows] == [planned.id for planned in plan.cells] == [c["cell"] for c in data["cells"]]
    assert [row["reason"] or None for row in rows] == [planned.skipped for planned in plan.cells]
    skipped = sum(row["status"] == "skipped" for row in rows)
    assert data["totals"]["skipped"] == skipped > 0
    assert f"{skipped} cannot work" in table


# -- the plan as text ----------------------------------------------------------


def _plan(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "servegauge.cli", "plan", *arguments]
    return subprocess.run(argv, cwd=root, capture_output=True, text=True, timeout=60)


def test_the_command_shows_a_plan_and_a_mistake_is_one_line(tmp_path: Path) -> None:
    copy_config(tmp_path)
    shown = _plan(tmp_path, "demo", "--format", "csv", "--cells", "*-own-cpu-r1-*")
    assert shown.returncode == 0, shown.stderr
    rows = list(csv.DictReader(io.StringIO(shown.stdout)))
    assert rows
    assert {(row["platform"], row["repeat"]) for row in rows} == {("own-cpu", "1")}
    wrong = _plan(tmp_path, "dmeo")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("error: there is no config/studies/dmeo.yaml. Did you mean 'demo'? There are: demo")
    assert wrong.stderr.count("\n") == 1


def test_the_command_says_when_a_plan_is_over_its_budget(tmp_path: Path) -> None:
    copy_config(tmp_path)
    study = tmp_path / "config/studies/vgpu-vs-bare-metal.yaml"
    study.write_text(study.read_text().replace("gpu_hours: 200", "gpu_hours: 1"))
    over = _plan(tmp_path, "vgpu-vs-bare-metal")
    assert over.returncode == 2
    assert "vgpu-vs-bare-metal-r" not in over.stderr
    assert "the budget is 1. Make the study smaller" in over.stderr
    assert "48 launches" in over.stdout, "the plan is shown all the same"
    assert _plan(tmp_path, "vgpu-vs-bare-metal", "--over-budget").returncode == 0
