"""Whatever lies in results/, in whatever state: what is missing is asked for, and what is done is not done again."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servegauge.base.errors import UserError
from servegauge.cli.workflow_api import Pipeline
from tests.unit.study_tree import Tree

WORDS = st.sampled_from(["whole", "absent", "empty", "cut"])


@pytest.fixture
def root(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> Path:
    tree.study(matrix={"platform": ["metal", "virtual"], "rate": [1, 2], "repeat": 1})
    monkeypatch.chdir(tree.root)
    return tree.root


def put(path: Path, state: str, data: object) -> None:
    path.unlink(missing_ok=True)
    if state == "absent":
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(data)
    path.write_text({"whole": text, "empty": "", "cut": text[: len(text) // 2]}[state])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    measured=st.lists(st.booleans(), min_size=4, max_size=4),
    attempts=st.lists(st.tuples(st.integers(0, 3), WORDS, st.booleans()), min_size=2, max_size=2),
    stamp=WORDS,
    tables=st.lists(st.booleans(), min_size=2, max_size=2),
    ages=st.permutations(["plan", "workloads", "attempt", "stamp", "dataset"]),
)
def test_what_is_missing_is_asked_for_in_every_state(root: Path, measured, attempts, stamp, tables, ages) -> None:
    fresh = Pipeline({"study": "x"})
    results = root / "results"
    cells = fresh.plan.cells
    for cell, there in zip(cells, measured, strict=True):
        put(results / "cells" / cell.id / "cell.json", "whole" if there else "absent", {})
    untaken = set()  # a further attempt was submitted, and the run that waited for it was killed
    for launch, (number, state, submitted) in zip(fresh.plan.launches, attempts, strict=True):
        for old in (results / "launches" / launch.id).glob("attempt-*.json"):
            old.unlink()
        for old in (results / "launches" / launch.id).glob("attempt-*/job.json"):
            old.unlink()
        for index in range(number):
            last = index == number - 1
            put(results / "launches" / launch.id / f"attempt-{index}.json", state if last else "whole", {"cells": {}})
        finished = number - (number > 0 and state == "absent")
        put(results / "launches" / launch.id / f"attempt-{finished}/job.json", "whole" if submitted else "absent", {})
        if submitted:
            untaken.add(launch.id)
    names = ["cells.parquet", "launches.parquet"]
    for name, there in zip(names, tables, strict=True):
        put(results / "dataset" / name, "whole" if there else "absent", {})
    merged = results / "dataset" / "merged" / "x.json"
    put(merged, stamp, {"merged_utc": "", "tables": names})
    put(results / "plan" / "x.json", "whole", {})
    put(results / "workloads" / "x.json", "whole", [])
    for age, what in enumerate(ages):  # older and newer than each other in every order
        for path in {
            "plan": [results / "plan" / "x.json"],
            "workloads": [results / "workloads" / "x.json"],
            "attempt": list(results.glob("launches/*/attempt-*.json")),
            "stamp": [merged],
            "dataset": list(results.glob("dataset/*.parquet")),
        }[what]:
            if path.exists():
                os.utime(path, (1_700_000_000 + age, 1_700_000_000 + age))

    pipeline = Pipeline({"study": "x"})
    left = {cell.launch for cell, there in zip(cells, measured, strict=True) if not there}
    assert set(pipeline.unmeasured()) == {cell.id for cell, there in zip(cells, measured, strict=True) if not there}
    asked = {Path(file).parent.name: Path(file) for file in pipeline.attempt_files()}
    for launch in pipeline.plan.launches:
        if launch.id in left | untaken:
            assert not asked[launch.id].exists(), "a launch with missing cells waits for an attempt that is not there"
        elif launch.id in asked:
            assert asked[launch.id].exists(), "a measured launch waits for nothing new"
    pipeline.forget_a_hollow_stamp()
    hollow = stamp in ("empty", "cut") or not all(tables)
    assert merged.exists() == (stamp != "absent" and not hollow)


def test_a_way_to_a_node_that_does_not_exist_is_one_message(root: Path) -> None:
    with pytest.raises(UserError, match=r"submit='slrum' is unknown; choose one of inline, local, slurm\..*'slurm'"):
        Pipeline({"study": "x", "submit": "slrum"})


def test_a_glob_limits_what_is_asked_for(root: Path) -> None:
    pipeline = Pipeline({"study": "x", "cells": "*-rate2-*"})
    assert len(pipeline.unmeasured()) == 2
    assert all("-rate2-" in cell for cell in pipeline.unmeasured())
