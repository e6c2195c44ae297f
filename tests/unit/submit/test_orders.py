"""What a job is asked to do, and what is said of a plan that is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from servegauge.base.errors import UserError
from servegauge.contract.records.base import plain
from servegauge.contract.records.specs import CellSpec
from servegauge.contract.spec import Cell, Launch, Load
from servegauge.submit.orders import find_launch, make_order, read_plan, write_order

LAUNCH = Launch("paced", {"name": "tiny"}, {"name": "here"})


def cell(name: str, skipped: str | None = None) -> dict[str, Any]:
    """A cell of LAUNCH as it stands in a plan, under a short name."""
    made = plain(CellSpec.of(Cell.of(LAUNCH, {"name": "chat"}, Load(rate_rps=4, requests=4)), skipped))
    return {**made, "id": name, "launch": "one"}


PLAN: dict[str, Any] = {
    "study": {"name": "demo"},
    "launches": [{**LAUNCH.to_dict(), "id": "one"}],
    "cells": [cell("one-a"), cell("one-b", "does not fit"), cell("one-c")],
}


def without(data: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name != key}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"study": {}}, "its study has no name"),
        ({"study": None}, r"Expected `object`, got `null` - at `\$\.study`"),
        ({"launches": [without(LAUNCH.to_dict(), "id")]}, r"missing required field `id` - at `\$\.launches\[0\]`"),
        ({"launches": ["one"]}, r"Expected `object`, got `str` - at `\$\.launches\[0\]`"),
        ({"launches": {"one": {}}}, r"Expected `array`, got `object` - at `\$\.launches`"),
        ({"cells": [cell("one-a"), without(cell("b"), "launch")]}, r"field `launch` - at `\$\.cells\[1\]`"),
        ({"cells": [{**cell("one-a"), "load": {"rate_rps": "4"}}]}, r"got `str` - at `\$\.cells\[0\]\.load\.rate_rps`"),
        ({"version": 7}, "it has version 7, and this servegauge reads versions 1 to 1"),
    ],
)
def test_a_plan_that_lacks_something_is_told_with_how_to_write_it(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    path = tmp_path / "demo.json"
    path.write_text(json.dumps({**PLAN, **change}))
    with pytest.raises(UserError, match=rf"demo\.json is not a plan: .*{said}\. Write it with: .*write_plan\.py demo"):
        read_plan(path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"study": {"name": "demo"}}'])
def test_a_file_that_is_no_plan_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "demo.json"
    path.write_text(text)
    with pytest.raises(UserError, match="is not a plan"):
        read_plan(path)
    with pytest.raises(UserError, match="is not a plan"):
        read_plan(tmp_path / "absent.json")


def test_the_door_prints_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "demo.json"
    path.write_text(json.dumps({**PLAN, "study": {}}))
    said = subprocess.run(
        [sys.executable, "-m", "servegauge.submit.orders", "--plan", str(path), "--launch-of", "one-a"],
        capture_output=True,
        text=True,
    )
    assert said.returncode == 2
    assert said.stderr.startswith("error: ")
    assert "Traceback" not in said.stderr
    with pytest.raises(UserError, match="its study has no name"):
        find_launch(path, "one-a")
    with pytest.raises(UserError, match="its study has no name"):
        write_order(path, "one", 0, tmp_path, tmp_path)
    path.write_text(json.dumps(PLAN))
    with pytest.raises(UserError, match=r"the cell one-a is called .* by this servegauge: its plan was edited"):
        write_order(path, "one", 0, tmp_path, tmp_path)


def test_an_order_holds_what_is_neither_skipped_nor_measured(tmp_path: Path) -> None:
    path = tmp_path / "demo.json"
    path.write_text(json.dumps(PLAN))
    plan = read_plan(path)
    measured = tmp_path / "results/cells/one-a/cell.json"
    assert [cell.id for cell in make_order(plan, "one", 0, tmp_path / "results", tmp_path).cells] == [
        "one-a",
        "one-c",
    ]
    measured.parent.mkdir(parents=True)
    measured.write_text("{}")
    assert [cell.id for cell in make_order(plan, "one", 1, tmp_path / "results", tmp_path).cells] == ["one-c"]
    assert not make_order(plan, "one", 1, tmp_path / "results", tmp_path, "*-x").cells
    assert plan.cell("one-c").launch == "one"
    with pytest.raises(UserError, match="has no cell 'one-d'"):
        plan.cell("one-d")
    with pytest.raises(UserError, match=r"has no launch 'on'\. Did you mean 'one'"):
        make_order(plan, "on", 0, tmp_path, tmp_path)
