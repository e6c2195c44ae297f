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
from servegauge.dataset.stamp import seen, stamp_file
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
    tables=st.lists(WORDS, min_size=2, max_size=2),
    touched=st.sampled_from([None, "cell", "attempt"]),
    ages=st.permutations(["plan", "workloads", "attempt", "dataset"]),
)
def test_what_is_missing_is_asked_for_in_every_state(
    root: Path, measured, attempts, stamp, tables, touched, ages
) -> None:
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
    for name, state in zip(names, tables, strict=True):
        put(results / "dataset" / name, state, "a table, and at its end PAR1")
        if state == "whole":
            (results / "dataset" / name).write_text("PAR1")
    merged = stamp_file(results, "x")
    put(results / "plan" / "x.json", "whole", {})
    put(results / "workloads" / "x.json", "whole", [])
    for age, what in enumerate(ages):  # older and newer than each other in every order
        for path in {
            "plan": [results / "plan" / "x.json"],
            "workloads": [results / "workloads" / "x.json"],
            "attempt": list(results.glob("launches/*/attempt-*.json")),
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

    put(merged, stamp, {"merged_utc": "", "tables": names, "seen": seen(results, fresh.whole)})
    if stamp != "absent":
        os.utime(merged, (2_000_000_000, 2_000_000_000))  # newer than all, which says nothing
    kind = {None: [], "cell": results.glob("cells/*/cell.json"), "attempt": results.glob("launches/*/attempt-*.json")}
    changed = next(iter(kind[touched]), None)
    if changed:
        os.utime(changed, (1_600_000_000, 1_600_000_000))  # by a clock that was set back
    hollow = stamp != "whole" or set(tables) != {"whole"} or changed is not None
    assert pipeline.has_a_hollow_dataset(forget=True) == hollow


def test_what_lies_beside_attempts_is_none(root: Path) -> None:
    launch = Pipeline({"study": "x"}).plan.launches[0].id
    folder = root / "results" / "launches" / launch
    for name in (
        "attempt-0.json",
        "attempt-\u00b2.json",
        "attempt_10.json",
        "attempt-1 (copy).json",
        "attempt-2.json~",
    ):
        put(folder / name, "whole", {"cells": {}})
    assert Pipeline({"study": "x"}).attempts[launch] == 1


@pytest.mark.parametrize("name", ["results", "results/cells"])
def test_a_folder_that_was_cleaned_up_behind_its_link_is_named(root: Path, name: str) -> None:
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).symlink_to("/nowhere/at/all")
    pipeline = Pipeline({"study": "x"})
    assert f"{name} is a link to /nowhere/at/all, which is not there" in pipeline.preview()
    (root / name).unlink()
    assert "is a link to" not in Pipeline({"study": "x"}).preview()


def test_a_way_to_a_node_that_does_not_exist_is_one_message(root: Path) -> None:
    with pytest.raises(UserError, match=r"submit='slrum' is unknown; choose one of inline, local, slurm\..*'slurm'"):
        Pipeline({"study": "x", "submit": "slrum"})


def test_a_study_of_which_nothing_is_left_is_one_message(tree: Tree, root: Path) -> None:
    exclude = {"platform": ["metal"]}
    tree.study(matrix={"platform": ["metal", "virtual"], "rate": [1, 2], "repeat": 1, "exclude": exclude})
    with pytest.raises(UserError, match=r"matrix.exclude takes all on the platforms that --config platforms names"):
        Pipeline({"study": "x", "platforms": "metal"})
    tree.study(matrix={"platform": ["metal"], "rate": [1, 2], "repeat": 1, "exclude": exclude})
    with pytest.raises(UserError, match=r"x.yaml: no cell is left: matrix.exclude takes all$"):
        Pipeline({"study": "x"})


def test_a_glob_limits_what_is_asked_for(root: Path) -> None:
    pipeline = Pipeline({"study": "x", "cells": "*-rate2-*"})
    assert len(pipeline.unmeasured()) == 2
    assert all("-rate2-" in cell for cell in pipeline.unmeasured())


def test_probes_of_this_run_that_failed_are_named(tree: Tree, root: Path) -> None:
    matrix = {"platform": ["metal", "virtual"], "rate": [1], "repeat": 1}
    tree.study(matrix=matrix, probes=["gemm", "memcpy"])
    pipeline = Pipeline({"study": "x"})
    assert pipeline.failed_probes() == []  # none has run
    for file in map(Path, pipeline.probe_files()):
        platform = file.name.partition("-full-")[0]
        documents = [f"results/probes/{platform}/{name}.json" for name in ("gemm", "memcpy", "gone")]
        put(file, "whole", {"platform": platform, "documents": documents})
        for path, status in zip(documents, ("failed", "ok"), strict=False):
            put(Path(path), "whole", {"rows": [{"platform": platform, "probe": Path(path).stem, "status": status}]})
    put(Path("results/probes/metal/network.json"), "whole", {"rows": [{"status": "failed"}]})  # asked by nobody
    assert pipeline.failed_probes() == ["gemm on metal", "gemm on virtual"]
    assert Pipeline({"study": "x", "platforms": "metal"}).failed_probes() == ["gemm on metal"]
    tree.study(matrix=matrix, probes=["memcpy"])
    assert Pipeline({"study": "x"}).failed_probes() == []
