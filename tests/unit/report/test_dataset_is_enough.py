"""The report is a function of the dataset alone: copied to an empty folder it is the same, byte for byte."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from servegauge.base.files import read_json, write_json
from servegauge.contract import tables
from servegauge.dataset import merge
from servegauge.report import page
from tests import synthetic

CONFIG = {
    "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 256, "torch_dtype": "float32",
}  # fmt: skip
PLATFORMS = ("own-cpu", "shared-cpu")


def probe(platform: str, metric: str, unit: str, value: float, **variant: object) -> dict[str, object]:
    about = {"platform": platform, "probe": "gemm", "variant": json.dumps({"dtype": "fp32", **variant})}
    found = {"metric": metric, "unit": unit, "value": value, "samples": [value] * 7, "status": "ok"}
    return {**about, **found, "started_utc": "2026-11-21T10:00:00Z"}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A merged study with probes, whose model and plan are gone by now."""
    root = tmp_path_factory.mktemp("measured")
    synthetic.make_results(root, requests=40)
    (root / "model").mkdir()
    write_json(root / "model" / "config.json", CONFIG)
    plan = read_json(root / "results/plan/demo.json")
    plan["study"]["models"] = {"tiny": {"name": "tiny", "source": str(root / "model")}}
    gpu = {"bf16_tflops": 2.5, "memory_gb_s": 80.0}
    plan["study"]["platforms"] = {name: {"name": name, "gpus_per_node": 0, "gpu": gpu} for name in PLATFORMS}
    write_json(root / "results/plan/demo.json", plan)
    merge.merge(root / "results")
    rows = []
    for name, value in zip(PLATFORMS, (1.0, 0.5), strict=True):
        rows.append(probe(name, "tflops", "TFLOP/s", value, shape="64x64", operation="gemm"))
        rows.append(probe(name, "bandwidth_gb_s", "GB/s", 40 * value, shape="64x64", operation="gemv"))
    pq.write_table(tables.from_rows(rows, tables.PROBES), root / "results/dataset/probes.parquet")
    page.render(root / "results", "demo", root / "results/report/demo.html")
    shutil.rmtree(root / "model")
    shutil.rmtree(root / "results/plan")
    return root / "results"


def files(report: Path) -> dict[str, str]:
    """Every file of a report, without its date."""
    found = {path.name: path.read_text(encoding="utf-8") for path in report.rglob("*") if path.is_file()}
    found["demo.html"] = re.sub(r"(<footer>[^,]*, )[^<]*", r"\1", found["demo.html"])
    return found


def test_a_copied_dataset_renders_the_same_page(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results / "dataset", tmp_path / "elsewhere/dataset")
    page.render(tmp_path / "elsewhere", "demo", tmp_path / "out/demo.html")
    here, there = files(results / "report"), files(tmp_path / "out")
    assert here.keys() == there.keys()
    assert [name for name in here if here[name] != there[name]] == []
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["dataset"]


def test_the_page_has_what_came_from_outside_the_dataset_once(results: Path) -> None:
    text = (results / "report/demo.html").read_text(encoding="utf-8")
    assert '<figure id="figure-roofline">' in text  # from the probes
    assert "<h3>What the cells used</h3>" in text  # from the model's config.json
    used = text.partition("<h3>What the cells used</h3>")[2].partition("</table>")[0]
    assert used.count("%") >= 4 * 12  # both shares of both ceilings, measured and the vendor's
    assert synthetic.STUDY_TEXT.splitlines()[0] in text


def test_a_later_merge_keeps_the_description_of_a_model_that_is_gone(results: Path, tmp_path: Path) -> None:
    root = tmp_path / "again"
    shutil.copytree(results, root)
    synthetic.make_results(tmp_path / "fresh", requests=8)
    plan = read_json(tmp_path / "fresh/results/plan/demo.json")
    row = merge.read(root, "study_models").to_pylist()[0]
    plan["study"]["models"] = {"tiny": json.loads(row["file"])}
    write_json(root / "plan/demo.json", plan)
    merge.merge(root)
    assert merge.read(root, "study_models").to_pylist() == [row]
    assert json.loads(row["config"]) == CONFIG


def test_a_dataset_of_before_these_tables_is_still_read(results: Path, tmp_path: Path, only_figures) -> None:
    only_figures("roofline")
    shutil.copytree(results / "dataset", tmp_path / "old/dataset")
    for name in ("study_models", "study_platforms"):
        (tmp_path / "old/dataset" / f"{name}.parquet").unlink()
    page.render(tmp_path / "old", "demo", tmp_path / "old.html")
    text = (tmp_path / "old.html").read_text(encoding="utf-8")
    assert '<figure id="figure-roofline">' in text
    assert "<h3>What the cells used</h3>" not in text
