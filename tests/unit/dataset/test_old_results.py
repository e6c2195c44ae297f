"""Results of version 1 are still found and merged; damaged documents among them are said and hold nothing back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from servegauge.base.files import read_json, write_json
from servegauge.contract.records.order import is_measured
from servegauge.dataset.merge import merge, read
from servegauge.submit.orders import make_order, read_plan

OLD = Path(__file__).parents[2] / "samples" / "results-of-version-1"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD, tmp_path / "results"))


def test_they_are_merged(results: Path) -> None:
    merged = merge(results)
    assert (merged.statuses, merged.warnings, merged.corrupt) == ({"ok": 2}, [], {})
    cells = read(results, "cells").to_pylist()
    assert sorted(row["rate_rps"] for row in cells) == [20, 40]
    assert all(row["requests_ok"] == 5 and row["ttft_p50_s"] > 0.01 and row["attempt"] == 0 for row in cells)
    [attempt] = read(results, "attempts").to_pylist()
    assert (attempt["attempt"], attempt["status"], attempt["hostname"]) == (0, "ok", "node")
    [launch] = read(results, "launches").to_pylist()
    assert (launch["framework"], launch["status"], launch["framework_version"]) == ("paced", "ok", "0.1.0")
    [part] = (results / "dataset" / "requests").iterdir()
    assert pq.read_metadata(part).num_rows == 2 * (5 + 8), "with the warm-up"


def test_nothing_of_them_is_measured_again(results: Path) -> None:
    plan = read_plan(results / "plan" / "old.json")
    assert all(is_measured(results, cell.id) for cell in plan.cells)
    assert not make_order(plan, plan.launches[0].id, 1, results, results.parent).cells


def test_without_their_plan_they_are_found_by_their_own_documents(results: Path) -> None:
    (results / "plan" / "old.json").unlink()
    assert merge(results).statuses == {"ok": 2}
    assert {row["model"] for row in read(results, "cells").to_pylist()} == {"tiny"}


@pytest.mark.parametrize("text", ["", "[]", "null", '{"version": 1}', '{"version": 1, "launch": "paced'])
def test_a_damaged_attempt_is_said_once_and_counted(results: Path, text: str) -> None:
    [file] = results.glob("launches/*/attempt-0.json")
    file.write_text(text)
    merged = merge(results)
    assert merged.statuses == {"ok": 2}
    [warning] = merged.warnings
    assert warning.startswith(f"{file} is not the outcome of an attempt: ")
    [attempt] = read(results, "attempts").to_pylist()
    assert (attempt["attempt"], attempt["status"]) == (0, "damaged")
    assert attempt["reason"].startswith("attempt-0.json is damaged: ")
    assert read(results, "launches").to_pylist()[0]["attempts"] == 1


@pytest.mark.parametrize(
    "text", ["", "[]", '{"study": {}}', '{"study": {"name": "old"}, "launches": [{}], "cells": []}']
)
def test_a_damaged_plan_holds_nothing_back(results: Path, text: str) -> None:
    (results / "plan" / "old.json").write_text(text)
    merged = merge(results)
    assert merged.statuses == {"ok": 2}
    assert any("old.json is not a plan: " in warning for warning in merged.warnings)


def test_a_cell_whose_record_lacks_something_is_set_aside(results: Path) -> None:
    [first, _] = sorted(results.glob("cells/*/cell.json"))
    record = read_json(first)
    write_json(first, {**record, "files": {"requests.parquet": {"bytes": 3}}})
    merged = merge(results)
    assert list(merged.corrupt) == [first.parent.name]
    assert "sha256" in merged.corrupt[first.parent.name]


def test_a_cell_that_a_newer_version_measured_stays_where_it_is(results: Path) -> None:
    first, second = sorted(results.glob("cells/*/cell.json"))
    write_json(first, {**read_json(first), "version": 99})
    for plan in (True, False):  # with its plan, and found by its own document alone
        if not plan:
            (results / "plan" / "old.json").unlink()
        merged = merge(results)
        assert (merged.corrupt, first.exists(), second.exists()) == ({}, True, True)
        [warning] = merged.warnings
        assert "it has version 99, and this servegauge reads versions 1 to 2. Update servegauge" in warning
        rows = {row["cell"]: row for row in read(results, "cells").to_pylist()}
        assert rows[second.parent.name]["status"] == "ok"
        if plan:
            assert rows[first.parent.name]["reason"] == "attempt 0 measured it, its record is a newer servegauge's"
