"""comparison.parquet and variance.parquet: every number of the verdicts, and what cannot be compared said."""

from __future__ import annotations

from pathlib import Path

import pytest

from servegauge.base.files import read_json, write_json
from servegauge.compare.compare import compare
from servegauge.compare.measured import launch_deviations, parts
from servegauge.compare.sentences import sentence
from servegauge.compare.shift import SHARES
from servegauge.compare.shifts import shift_of
from servegauge.compare.tables import write_tables
from servegauge.contract import tables
from servegauge.dataset import merge
from servegauge.dataset.study_view import Study
from tests import synthetic
from tests.parquet_files import check_file


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("tables")
    synthetic.make_results(root, requests=60)
    merge.merge(root / "results")
    return root / "results"


def test_every_ratio_is_a_row_with_what_its_verdict_rests_on(results):
    assert write_tables(results) == []
    rows = merge.read(results, "comparison").to_pylist()
    comparison = compare(Study(results, "demo"))
    assert comparison
    assert len(rows) == len(comparison.ratios) + len(comparison.overall)
    one = comparison.ratios[0]
    row = next(row for row in rows if row["condition"] and row["metric"] == one.metric.name)
    for name in (
        "ratio",
        "low",
        "high",
        "p",
        "p_equal",
        "verdict",
        "pairs",
        "value",
        "base_value",
        "success",
        "reason",
    ):
        assert row[name] == getattr(one, name)
    assert row["sentence"] == sentence(comparison, one)
    assert (row["study"], row["level"], row["baseline"], row["margin"]) == ("demo", "shared-cpu", "own-cpu", 0.02)
    for table in ("comparison", "variance"):
        check_file(results / "dataset" / f"{table}.parquet", tables.TABLES[table])


def test_parts_of_the_scatter_are_rows(results):
    write_tables(results)
    rows = {(row["metric"], row["part"]): row for row in merge.read(results, "variance").to_pylist()}
    assert rows["ttft_p50", "launch"]["groups"] == 4
    assert rows["ttft_p50", "request"]["deviation"] == pytest.approx(0.02, rel=0.5)  # median of 60 that scatter 12 %
    assert (rows["ttft_p50", "node"]["variance"], rows["ttft_p50", "node"]["reason"]) == (None, "one node")
    assert rows["achieved_rps", "request"]["reason"]


def test_the_deviation_of_launches_is_measured(results):
    study = Study(results, "demo")
    deviation, launches = launch_deviations(study)["tpot_p50"]
    assert launches == 2
    assert 0.001 < deviation < 0.03
    shares = [one.share for one in parts(study, study.metrics[0]) if one.share is not None]
    assert sum(shares) == pytest.approx(1)


def test_a_study_that_cannot_be_compared_holds_the_others_back_from_nothing(results):
    before = read_json(results / "plan/demo.json")
    plan = read_json(results / "plan/demo.json")
    plan["study"] |= {"name": "other", "compare": {**plan["study"]["compare"], "primary": ["nothing"]}}
    write_json(results / "plan/other.json", plan)
    merge.merge(results)
    (problem,) = write_tables(results)
    (results / "plan/other.json").unlink()
    merge.merge(results)
    assert problem.startswith("the study other is not compared: ")
    assert set(merge.read(results, "comparison")["study"].to_pylist()) == {before["study"]["name"]}


def test_the_shift_function_is_flat_where_everything_became_slower_alike(results):
    comparison = compare(Study(results, "demo"))
    assert comparison
    sides = {comparison.label(one.key): one for one in comparison.sides}
    flat = shift_of(comparison.study, sides["short, rate 2/s"], "ttft")
    assert [one.share for one in flat] == list(SHARES)  # 60 requests carry no p99
    assert all(one.ratio == pytest.approx(1.3, rel=0.15) and one.low is None for one in flat)
    assert shift_of(comparison.study, sides["long, rate 4/s"], "ttft") is None  # a side lost requests
