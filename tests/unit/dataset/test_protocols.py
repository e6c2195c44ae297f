"""What was measured by an earlier protocol is found, read and marked, and is never compared with another."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from servegauge.base.files import read_json, write_json
from servegauge.compare.compare import compare
from servegauge.contract.records.base import plain, read, write
from servegauge.contract.records.plan import Plan
from servegauge.contract.records.specs import CellSpec
from servegauge.contract.spec import Cell, Load, Workload
from servegauge.dataset import merge
from servegauge.dataset.study_view import Study
from servegauge.plan import documents
from tests import synthetic

BEFORE = Path(__file__).parents[2] / "data" / "results_protocol_1"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    shutil.copytree(BEFORE, tmp_path / "results")
    return tmp_path / "results"


def plan_now(results: Path) -> Plan:
    """The study of the old results, as this version would plan it."""
    old = read(results / "plan" / "before.json", Plan)
    cells = []
    for planned in old.cells:
        workload = Workload.of(old.launches[0].model, planned.prompts, planned.load, 1)
        cells.append(CellSpec.of(replace(planned.cell, workload=workload, protocol=2)))
    return msgspec.structs.replace(old, cells=tuple(cells))


def test_names_of_protocol_1_are_what_they_were(results: Path) -> None:
    plan = read_json(results / "plan" / "before.json")
    assert len(plan["cells"]) == 2
    for said in plan["cells"]:
        cell = msgspec.convert(said, CellSpec).cell
        assert cell.protocol == 1
        assert (cell.id, cell.workload.id) == (said["id"], said["workload"]["id"])
        assert (results / "cells" / cell.id / "cell.json").is_file()
        assert (results / "workloads" / cell.workload.id / "workload.json").is_file()
        assert msgspec.convert(json.loads(json.dumps(plain(CellSpec.of(cell)))), CellSpec).cell == cell


def test_a_new_cell_is_another_one_and_knows_its_earlier_self(results: Path) -> None:
    for planned in plan_now(results).cells:
        assert planned.protocol == 2
        [earlier] = planned.cell.earlier
        assert earlier.id in {folder.name for folder in (results / "cells").iterdir()}
        assert planned.id != earlier.id
        assert msgspec.convert(json.loads(json.dumps(plain(planned))), CellSpec).cell.id == planned.id
    burst = replace(plan_now(results).cells[0].cell, load=Load(burst=4))
    assert burst.earlier == []


def test_only_streams_that_think_and_start_spread_are_of_protocol_3(results: Path) -> None:
    one = plan_now(results).cells[0].cell
    loads = [
        Load(concurrency=4, think_s=1),
        Load(concurrency=4, think_s=1, start="together"),
        Load(concurrency=4),
        Load(rate_rps=4),
    ]
    cells = [Cell(one.launch, one.words, one.prompts, load, one.workload, load.protocol) for load in loads]
    assert [cell.protocol for cell in cells] == [3, 2, 2, 2]
    assert [cell.protocol for cell in cells[0].earlier] == [1, 2]
    plan = plan_now(results)
    plan = msgspec.structs.replace(plan, cells=(CellSpec.of(cells[0]),))
    for earlier in cells[0].earlier:
        (results / "cells" / earlier.id).mkdir()
    [why] = documents.measured_before(plan, documents.state(plan, results), results).values()
    assert why.startswith("measured before by protocol 2 ("), why
    assert "; protocol 3: as 2, but streams that think start spread" in why


def test_results_of_before_are_merged_and_marked(results: Path) -> None:
    assert merge.merge(results).statuses == {"ok": 2}
    rows = {row["loop"]: row for row in merge.read(results, "cells").to_pylist()}
    assert {row["protocol"] for row in rows.values()} == {1}
    assert {row["requests"] for row in rows.values()} == {12}
    assert rows["open"]["offered_rps"] == pytest.approx(20, rel=0.7)
    assert rows["closed"]["offered_rps"] is None
    # Protocol 1 counted until the last answer: every answer lies in its window.
    for row in rows.values():
        assert row["achieved_rps"] == pytest.approx(12 / row["window_s"])
        assert row["output_tokens_per_s"] == pytest.approx(12 * 16 / row["window_s"])


def test_the_plan_measures_again_and_says_why(results: Path) -> None:
    plan = plan_now(results)
    state = documents.state(plan, results)
    assert [len(now.missing) for now in state.values()] == [2]
    before = documents.measured_before(plan, state, results)
    assert set(before) == {planned.id for planned in plan.cells}
    text = documents.render(plan, results)
    assert "To be measured again, and what was measured stays:\n    2 cells: measured before by protocol 1" in text
    assert "no ramp and no tail" in text
    shutil.rmtree(results / "cells")
    assert "measured again" not in documents.render(plan, results)


def test_what_was_measured_before_stays_beside_the_new_plan(results: Path) -> None:
    write(results / "plan" / "before.json", plan_now(results))
    assert merge.merge(results).statuses == {"ok": 2, "planned": 2}
    protocols = {(row["status"], row["protocol"]) for row in merge.read(results, "cells").to_pylist()}
    assert protocols == {("ok", 1), ("planned", 2)}
    assert {row["status"] for row in Study(results, "before").cells} == {"planned"}


@pytest.mark.parametrize(("protocol", "compared"), [(1, False), (2, True)])
def test_a_ratio_never_mixes_two_protocols(tmp_path: Path, protocol: int, compared: bool) -> None:
    """Every cell of one platform is of `protocol`, every cell of the other of the present one."""
    results = tmp_path / "results"
    synthetic.make_results(tmp_path)
    plan = read_json(results / "plan" / "demo.json")
    cells = []
    for said in plan["cells"]:
        cell, folder = msgspec.convert(said, CellSpec).cell, results / "cells" / said["id"]
        if "own-cpu" in cell.launch and folder.is_dir():
            cell = replace(cell, protocol=protocol)
            record = {
                **read_json(folder / "cell.json"),
                "cell": cell.id,
                "spec": plain(CellSpec.of(cell)),
                "protocol": protocol,
            }
            write_json(folder / "cell.json", record)
            folder.rename(results / "cells" / cell.id)
        cells.append(plain(CellSpec.of(cell, said["skipped"], said["thresholds"])))
    write_json(results / "plan" / "demo.json", {**plan, "cells": cells})
    merge.merge(results)
    comparison = compare(Study(results, "demo"))
    assert comparison is not None
    assert bool(comparison.ratios) == compared
    if not compared:
        assert any("protocol" in one for one in map(comparison.label, comparison.conditions))
