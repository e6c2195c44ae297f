"""A dataset that lacks a table, or was not made of what is measured now, is made again; any other is left alone."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from servegauge.base.errors import UserError
from servegauge.cli import report
from servegauge.compare import tables
from servegauge.dataset import merge, stamp
from servegauge.submit.orders import read_plan
from tests import synthetic


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("stamped")
    synthetic.make_results(root, requests=8)
    report.bring_up_to_date(root / "results", "demo")
    return root


@pytest.fixture
def results(template, tmp_path) -> Path:
    """A results folder with an up-to-date dataset, times and all."""
    shutil.copytree(template / "results", tmp_path / "results")
    return tmp_path / "results"


def whole(results: Path) -> bool:
    return stamp.is_whole(results, read_plan(results / "plan" / "demo.json"))


def files(results: Path) -> dict[str, int]:
    """Every table and its number of rows."""
    dataset = results / "dataset"
    return {str(path.relative_to(dataset)): pq.read_metadata(path).num_rows for path in dataset.rglob("*.parquet")}


def test_one_that_is_whole_is_left_alone(results: Path) -> None:
    assert whole(results)
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*")}
    assert report.bring_up_to_date(results, "demo") == []
    assert {path: path.stat().st_mtime_ns for path in results.rglob("*")} == before


def test_a_look_at_the_queue_of_probes_is_no_change(results: Path) -> None:
    queue = results / "probes" / ".slurm" / "queue-0.json"
    queue.parent.mkdir(parents=True)
    queue.write_text("{}")
    assert whole(results)


@pytest.mark.parametrize("damage", ["gone", "cut", "empty"])
@pytest.mark.parametrize("table", ["cells", "comparison", "study_models", "requests", "node"])
def test_a_table_that_is_not_whole_is_made_again(results: Path, table: str, damage: str) -> None:
    dataset, before = results / "dataset", files(results)
    path = (
        dataset / f"{table}.parquet" if (dataset / f"{table}.parquet").exists() else next((dataset / table).iterdir())
    )
    if damage == "gone":
        path.unlink()
    else:
        os.truncate(path, 0 if damage == "empty" else path.stat().st_size // 2)
    assert not whole(results)
    assert report.bring_up_to_date(results, "demo")
    assert files(results) == before
    assert whole(results)


@pytest.mark.parametrize("what", ["cells/*/cell.json", "launches/*/attempt-*.json"])
def test_what_changed_is_seen_whatever_the_clock_said(results: Path, what: str) -> None:
    path = next(results.glob(what))
    os.truncate(path, path.stat().st_size // 2)
    os.utime(path, (1_500_000_000, 1_500_000_000))
    assert not whole(results)
    said = "\n".join(report.bring_up_to_date(results, "demo"))
    assert (path.parent.name if "cells" in what else path.name) in said


def test_a_merge_that_was_cut_off_after_its_first_tables_is_gone_on_with(results: Path, monkeypatch) -> None:
    shutil.rmtree(results / "dataset")

    def interrupted(_: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tables, "write_tables", interrupted)
        with pytest.raises(KeyboardInterrupt):
            report.bring_up_to_date(results, "demo")
    assert not (results / "dataset" / "comparison.parquet").exists()
    assert report.bring_up_to_date(results, "demo")
    assert merge.read(results, "comparison").num_rows


def test_a_dataset_that_was_copied_without_what_it_was_made_of_is_kept(results: Path) -> None:
    before = files(results)
    for kind in ("cells", "launches"):
        shutil.rmtree(results / kind)
    assert report.bring_up_to_date(results, "demo") == []
    assert files(results) == before


@pytest.mark.parametrize("table", ["cells", "requests"])
def test_a_copied_table_that_cannot_be_read_is_one_message(results: Path, table: str) -> None:
    shutil.rmtree(results / "plan")  # nothing here makes it again
    for path in (results / "dataset").glob(f"{table}*"):
        for one in path.iterdir() if path.is_dir() else [path]:
            one.write_text("no table")
    with pytest.raises(UserError, match=rf"{table}.* cannot be read: .* makes it anew"):
        report.what_there_is(results, "demo")
