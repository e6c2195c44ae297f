"""`expects:` of a study against a dataset whose truth is known: 1.3 between the platforms in TTFT, 1.1 in TPOT."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from servegauge.base.files import read_json, write_json
from servegauge.compare.expectations import Checked, expectations
from servegauge.compare.tables import write_tables
from servegauge.contract import tables
from servegauge.dataset import merge
from servegauge.dataset.study_view import Study
from servegauge.report import page, terminal
from tests import synthetic
from tests.parquet_files import check_file

BASE = {"platform": "own-cpu"}
OTHER = {"platform": "shared-cpu"}
# Its model's file has this shape: Llama-2 7B's
LLAMA = {"parameters": 6738415616, "kv_values_per_token": 262144, "heads": 32, "kv_heads": 32}
EXPECTS: list[dict[str, Any]] = [
    {"metric": "tpot_p50", "where": OTHER, "over": {"where": BASE}, "ratio": 1.1, "cite": "the truth"},
    {"metric": "tpot_p50", "where": OTHER, "over": {"where": BASE}, "ratio": 1.6, "cite": "a mistake"},
    {"metric": "ttft_p50", "where": {**OTHER, "prompts": "short", "rate": 2}, "over": {"where": BASE},
     "ratio": [1.2, 1.4], "cite": "the truth, as a range"},
    {"metric": "tpot_p50", "where": {**OTHER, "rate": 4}, "value": 0.00176, "deviation": 0.00001, "n": 10,
     "over": {"where": BASE, "value": 0.0016, "deviation": 0.00001, "n": 10}, "cite": "a pair"},
    {"metric": "tpot_p50", "where": OTHER, "value": 0.00176, "gpu": "A100", "cite": "another machine"},
    {"metric": "tpot_p50", "where": OTHER, "value": 0.00176, "stands_for": {"platform": "h100-vgpu"}, "cite": "x"},
    {"metric": "ttft_p50", "where": {"prompts": "novel"}, "value": 1.0, "cite": "cannot work"},
    {"metric": "ttft_p50", "where": {"burst": 10}, "value": 1.0, "cite": "not asked for"},
    {"metric": "kv_bytes_per_token", "model": "tiny", "value": 800e3, "cite": "a guide", "wrong": "it is 512 KiB"},
    {"metric": "heads_per_kv_head", "model": "tiny", "value": 1, "cite": "a guide"},
    {"metric": "kv_bytes_per_token", "model": "unheard-of", "value": 1, "cite": "a guide"},
    {"probe": "gemm", "metric": "tflops", "where": BASE, "value": 400, "cite": "not run"},
    {"metric": "output_tokens_per_currency", "where": OTHER, "value": 1e6, "cite": "without a price"},
    {"metric": "energy_per_output_token_j", "where": OTHER, "value": 1, "cite": "without a GPU"},
]  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("expects")
    synthetic.make_results(root, requests=60, repeats=5)
    plan = read_json(root / "results/plan/demo.json")
    plan["study"]["expects"] = EXPECTS
    plan["study"]["models"] = {"tiny": {"name": "tiny", "source": "models/tiny", "dtype": "float16", "shape": LLAMA}}
    plan["study"]["platforms"] = {"own-cpu": {"name": "own-cpu"}, "shared-cpu": {"name": "shared-cpu"}}
    plan["study"]["platforms"]["own-cpu"]["prices"] = {"currency": "EUR", "node_hour": 1}
    write_json(root / "results/plan/demo.json", plan)
    merge.merge(root / "results")
    assert write_tables(root / "results") == []
    return root / "results"


@pytest.fixture(scope="module")
def checked(results: Path) -> list[list[Checked]]:
    found = expectations(Study(results, "demo"))
    return [[one for one in found if one.position == position] for position in range(len(EXPECTS))]


def test_a_ratio_is_taken_inside_conditions_over_launches(checked: list[list[Checked]]) -> None:
    (true,), (false,), (ranged,) = checked[:3]
    assert "1 of 6 conditions are left out: " in true.outcome.reason  # one cell failed, one lost requests
    assert (true.outcome.verdict, true.launches) == ("reproduced", 5)
    assert true.measured == pytest.approx(1.1, rel=0.03)
    assert true.outcome.low < true.outcome.difference < true.outcome.high
    assert false.outcome.verdict == "differs"
    assert false.outcome.difference == pytest.approx(1.1 / 1.6 - 1, abs=0.02)
    assert ranged.outcome.verdict == "reproduced"
    assert ranged.measured == pytest.approx(1.3, rel=0.05)


def test_a_pair_gives_both_values_their_ratio_and_what_it_can_carry(checked: list[list[Checked]]) -> None:
    one, base, ratio = checked[3]
    assert [row.kind for row in checked[3]] == ["value", "value", "ratio"]
    assert (one.outcome.verdict, base.outcome.verdict, ratio.outcome.verdict) == ("reproduced",) * 3
    assert one.measured == pytest.approx(0.00176, rel=0.02)
    assert base.measured == pytest.approx(0.0016, rel=0.02)
    assert ratio.figure.middle == pytest.approx(1.1)
    assert ratio.pair.p < 1e-6
    assert "can be distinguished at the published n" in ratio.pair.words


def test_something_else_is_not_compared_and_says_why_and_is_shown(checked: list[list[Checked]]) -> None:
    (gpu,), (stand_in,) = checked[4:6]
    assert {gpu.outcome.verdict, stand_in.outcome.verdict} == {"not comparable"}
    assert gpu.outcome.reason == "shared-cpu has no GPU; published on A100"
    assert stand_in.outcome.reason == "shared-cpu in place of h100-vgpu"
    assert gpu.measured == stand_in.measured == pytest.approx(0.00176, rel=0.02)


def test_what_is_not_there_is_not_measured_and_says_why(checked: list[list[Checked]]) -> None:
    for (one,), reason in zip(
        (checked[6], checked[7], *checked[10:]),
        (
            *("", "no cell with burst 10", "no model unheard-of", "the probe gemm has no such number with own-cpu"),
            *("the platform has no `prices`", "the platform has no GPU"),
        ),
        strict=True,
    ):
        assert (one.outcome.verdict, one.measured) == ("not measured", None)
        assert reason in one.outcome.reason
        assert one.outcome.reason


def test_a_probe_that_could_not_run_says_why(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"platform": BASE["platform"], "probe": "gemm", "variant": "{}", "metric": "any", "unit": "", "value": None}
    row |= {"status": "skipped", "reason": "torch is not installed", "started_utc": None}
    read = merge.read
    told = SimpleNamespace(to_pylist=lambda: [row, {**row, "platform": "another", "reason": "something else"}])
    monkeypatch.setattr(merge, "read", lambda results, name: told if name == "probes" else read(results, name))
    (one,) = (one for one in expectations(Study(results, "demo")) if one.metric == "gemm: tflops")
    assert one.outcome.reason == "torch is not installed"


def test_a_models_numbers_are_computed_and_a_wrong_figure_is_marked(results: Path, checked) -> None:
    (cache,), (heads,) = checked[8:10]
    assert (cache.outcome.verdict, cache.measured, cache.wrong) == ("differs", 512 * 1024, "it is 512 KiB")
    assert heads.outcome.verdict == "reproduced"
    text, _ = terminal.summarise(results, "demo")
    line = "tiny: kv_bytes_per_token: published 800 000 bytes, measured 524 288 bytes, differs by -34.5 % (the "
    assert f"{line}published figure is wrong)" in " ".join(text.split())


def test_every_figure_is_a_row_of_the_dataset_the_csv_and_the_page(results: Path, no_figures) -> None:
    file = results / "dataset/expectations.parquet"
    check_file(file, tables.TABLES["expectations"])
    rows = pq.read_table(file).to_pylist()
    assert len(rows) == len(EXPECTS) + 2
    page.render(results, "demo", results / "report/demo.html")
    html = (results / "report/demo.html").read_text(encoding="utf-8")
    with (results / "report/demo/expectations.csv").open() as lines:
        assert [one["verdict"] for one in csv.DictReader(lines)] == [row["verdict"] for row in rows]
    for row in rows:
        assert row["verdict"] in html
        assert row["cite"] in html
    assert "the published figure is wrong" in html
    assert json.loads(merge.read(results, "studies")["expects"][0].as_py())[0]["ratio"] == 1.1


def test_a_gpu_is_the_one_whose_name_the_platform_has(results: Path, tmp_path: Path, monkeypatch) -> None:
    study = Study(results, "demo")
    study.row["expects"] = json.dumps([{**EXPECTS[4], "gpu": name} for name in ("A100", "RTX 4090")])
    real = merge.read

    def read(where: Path, table: str):
        found = real(where, table)
        if table != "study_platforms":
            return found
        rows = [{**row, "file": '{"gpu": {"name": "NVIDIA A100-SXM4-80GB"}}'} for row in found.to_pylist()]
        return tables.from_rows(rows, tables.TABLES[table])

    monkeypatch.setattr(merge, "read", read)
    same, other = expectations(study)
    assert same.outcome.verdict == "reproduced"
    reason = "another GPU: NVIDIA A100-SXM4-80GB on shared-cpu, published on RTX 4090"
    assert (other.outcome.verdict, other.outcome.reason) == ("not comparable", reason)
