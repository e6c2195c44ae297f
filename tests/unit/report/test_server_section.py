"""Starts by the state of their caches, and every option asked beside what is in effect."""

from __future__ import annotations

import re
from pathlib import Path

from servegauge.base.files import read_json, write_json
from servegauge.dataset import merge
from servegauge.dataset.study_view import Study
from servegauge.report.page import render
from servegauge.report.server_section import Setting, server_section
from tests import synthetic


def test_the_page_says_how_the_servers_started_and_what_was_in_effect(tmp_path: Path, no_figures) -> None:
    synthetic.make_results(tmp_path, requests=20)
    results = tmp_path / "results"
    for number, path in enumerate(sorted(results.glob("launches/*/attempt-0/launch.json"))):
        record = read_json(path)
        record["spec"]["options"] = {"max_batch": 64, "kv_cache_dtype": "auto", "seed": 0}
        (one,) = record["server_starts"][0]["instances"]
        one["compile_cache"] = "warm" if number % 2 else "cold"
        one["evidence"]["effective"] = {"max_batch": 48, "kv_cache_dtype": "bf16", "attention_backend": "fa3"}
        one["evidence"]["startup_s"] = {"weights": 1.0, "compile": 2.0 if number % 2 else 30.0}
        record["server_starts"][0]["ready_s"] = 10.0 if number % 2 else 40.0
        write_json(path, record)
    merge.merge(results)
    found = server_section(Study(results, "demo"))
    ready = {(one.cache, one.ready_s, one.parts.split(",")[0]) for one in found.starts}
    assert ready == {("cold", 40.0, "compile 30.0 s"), ("warm", 10.0, "compile 2.00 s")}
    assert sum(one.starts for one in found.starts) == 4
    by_name = {one.name: one for one in found.settings}
    assert by_name["max_batch"] == Setting("llamacpp", "max_batch", "64", "48", True, "all")
    assert by_name["kv_cache_dtype"] == Setting("llamacpp", "kv_cache_dtype", "left to it", "bf16", False, "all")
    assert by_name["attention_backend"].asked == "left to it"
    assert by_name["seed"].effective == "not told"
    render(results, "demo", tmp_path / "page.html")
    text = re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", (tmp_path / "page.html").read_text()))
    assert "llamacpp max_batch 64 48 all" in text
    assert "cold" in text


def test_a_dataset_without_them_has_starts_alone(tmp_path: Path) -> None:
    synthetic.make_results(tmp_path, requests=20)
    merge.merge(tmp_path / "results")
    found = server_section(Study(tmp_path / "results", "demo"))
    assert {one.cache for one in found.starts} == {None}
    assert [one for one in found.settings if one.effective != "not told"]
