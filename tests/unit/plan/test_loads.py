"""What a study says of its requests: prompt lengths and sampling settings, which rename no load that has neither."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from servegauge.base.errors import UserError
from servegauge.base.files import read_json, write_json
from servegauge.compare.compare import compare
from servegauge.contract.records.base import plain as as_data
from servegauge.contract.records.specs import CellSpec, WorkloadSpec
from servegauge.contract.spec import Cell, Launch, Load
from servegauge.dataset import merge
from servegauge.dataset.study_view import Study
from servegauge.instrument.job import LoadJob
from servegauge.instrument.openai_api import Target
from servegauge.instrument.phases import build_rows
from servegauge.instrument.share import Share
from servegauge.plan import expand
from servegauge.workloads.compile import compile_workload, read_workload
from tests import synthetic
from tests.unit.study_tree import STUDY, Plain, Tree, tree
from tests.unit.workloads.test_compile import root, workload

__all__ = ["root", "tree"]

LAUNCH = Launch("plain", {"name": "m"}, {"name": "p"})


def cell(**fields: object) -> Cell:
    return Cell.of(LAUNCH, {"name": "chat"}, Load(rate_rps=4, requests=9, **fields))


def test_what_is_not_said_renames_nothing() -> None:
    plain = cell()
    assert cell(input_tokens=None, sampling=None, lora_mix=None).id == plain.id
    assert "input_tokens" not in plain.load.canonical
    assert "sampling" not in plain.load.to_dict()
    named = [cell(input_tokens=64), cell(sampling={"top_p": 0.9}), cell(lora_mix={"base": 1})]
    assert len({one.id for one in [plain, *named]}) == 4
    again = msgspec.convert(json.loads(json.dumps(as_data(CellSpec.of(named[1])))), CellSpec).cell
    assert again.id == named[1].id


def test_sampling_shapes_no_workload_and_prompt_length_does() -> None:
    assert cell(sampling={"top_p": 0.9}).workload.id == cell().workload.id
    assert cell(input_tokens=64).workload.id != cell().workload.id
    assert WorkloadSpec.of(cell(input_tokens=64).workload).workload.id == cell(input_tokens=64).workload.id


def test_prompts_are_as_long_as_the_study_says(root: Path) -> None:
    own = {"name": "s", "kind": "synthetic", "input_tokens": 12, "output_tokens": 4}
    prefixed = {**own, "kind": "shared_prefix", "prefix": {"groups": 2, "tokens": 16}}
    for spec, tokens in ((own, 30), (prefixed, 16 + 30)):
        one = workload(Load(rate_rps=9, requests=5, input_tokens=30), spec)
        compile_workload(one, root, root / "out")
        assert set(read_workload(root / "out" / one.id)["prompt_tokens"].to_pylist()) == {tokens}


def test_a_data_set_has_the_lengths_that_it_has(tree: Tree) -> None:
    data = {"description": "x", "kind": "jsonl", "path": "x.jsonl", "how_to_get": "ask"}
    tree.write("config/prompts/chat.yaml", data)
    with pytest.raises(UserError, match=r"load.input_tokens: the prompts of chat are of the kind jsonl"):
        tree.study(load={"input_tokens": 64})


def test_prompts_beyond_the_context_are_known_before(tree: Tree) -> None:
    plan = expand.expand(tree.study(load={"input_tokens": 2040}))
    assert {one.skipped for one in plan.cells} == {
        "prompt and answer take up to 2090 tokens, the server's context_tokens is 2048"
    }


def test_sampling_is_an_axis(tree: Tree) -> None:
    settings = [{"temperature": 0}, {"temperature": 0.1}, {"temperature": 0.7, "top_p": 0.9}]
    plan = expand.expand(tree.study(matrix={**STUDY["matrix"], "sampling": settings, "rate": [1], "repeat": 1}))
    before = expand.expand(tree.study(matrix={**STUDY["matrix"], "rate": [1], "repeat": 1}))
    loads = {(one.load.temperature, json.dumps(one.load.sampling)) for one in plan.cells}
    assert loads == {(0, "null"), (0.1, "null"), (0.7, '{"top_p": 0.9}')}
    assert {one.id for one in before.cells} < {one.id for one in plan.cells}, "temperature 0 is the old cell"
    with pytest.raises(UserError, match="top_q"):
        tree.study(matrix={**STUDY["matrix"], "sampling": [{"top_q": 1}]})


def test_two_samplings_are_compared(tmp_path: Path) -> None:
    """The synthetic study's rates as two samplings of one rate: a factor of cells, with a mapping as its baseline."""
    synthetic.make_results(tmp_path, repeats=3)
    path = tmp_path / "results" / "plan" / "demo.json"
    plan = read_json(path)
    for one in plan["cells"]:
        record = tmp_path / "results" / "cells" / one["id"] / "cell.json"
        if one["load"]["rate_rps"] == 4.0:
            one["load"] |= {"rate_rps": 2.0, "sampling": {"top_p": 0.9}}
            if record.exists():
                write_json(record, {**read_json(record), "spec": one})
    plan["study"] |= {"load": {}, "compare": {"factor": "sampling", "baseline": {"temperature": 0}}}
    write_json(path, plan)
    merge.merge(tmp_path / "results")
    found = compare(Study(tmp_path / "results", "demo"))
    assert found.factor == "sampling"
    assert found.baseline == {"temperature": 0}
    assert {json.dumps(one.level, sort_keys=True) for one in found.ratios} == {'{"temperature": 0, "top_p": 0.9}'}


def test_a_mix_of_adapters_is_frozen_with_its_weights(root: Path) -> None:
    spec = {"name": "s", "kind": "synthetic", "input_tokens": 12, "output_tokens": 4}
    one = workload(Load(rate_rps=50, requests=600, lora_mix={"base": 1, "law": 2, "code": 3}), spec)
    compile_workload(one, root, root / "out")
    table = read_workload(root / "out" / one.id)
    asked = table["adapter"].to_pylist()
    shares = {name: asked.count(name) / len(asked) for name in (None, "law", "code")}
    assert shares == pytest.approx({None: 1 / 6, "law": 2 / 6, "code": 3 / 6}, abs=0.06)
    job = LoadJob(["http://h:1"], str(root / "out" / one.id / "workload.parquet"), "x", "tiny", Load())
    share = Share.read(job, 0)
    for field in ("model", "lora_path"):
        rows = build_rows(replace(job, adapter_field=field), share, "window", 0, [Target.of("http://h:1")], "", {})
        assert len(rows) == 600
        for row in rows:
            body = json.loads(row.payload.partition(b"\r\n\r\n")[2])
            adapter = share.columns["adapter"][row.place]
            assert {"model": "tiny", **({field: adapter} if adapter else {})}.items() <= body.items()


def test_a_server_without_adapters_answers_a_mix_itself(root: Path, tree: Tree, monkeypatch) -> None:
    spec = {"name": "s", "kind": "synthetic", "input_tokens": 12, "output_tokens": 4}
    one = workload(Load(rate_rps=50, requests=60, lora_mix={"base": 1, "law": 2}), spec)
    compile_workload(one, root, root / "out")
    job = LoadJob(
        ["http://h:1"], str(root / "out" / one.id / "workload.parquet"), "x", "tiny", Load(), adapter_field=""
    )
    share = Share.read(job, 0)
    assert "adapter" not in share.columns, "so that no request is said to have asked for one"
    for row in build_rows(job, share, "window", 0, [Target.of("http://h:1")], "", {}):
        assert json.loads(row.payload.partition(b"\r\n\r\n")[2])["model"] == "tiny"
    adapters = {"law": "/adapters/law"}
    monkeypatch.setattr(Plain, "supported", {**Plain.supported, "lora": "--lora"})
    monkeypatch.setattr(Plain, "adapter_field", "model")
    matrix = {"lora": ["none", adapters], "rate": 1, "platform": "metal", "repeat": 1}
    plan = expand.expand(tree.study(load={"lora_mix": {"law": 1}}, matrix=matrix))
    assert [one.skipped for one in plan.cells] == [None, None]
    assert len({one.workload.id for one in plan.cells}) == 1, "both answer the same requests"


def test_an_adapter_that_no_server_has_is_a_mistake(tree: Tree) -> None:
    with pytest.raises(UserError, match=r"load.lora_mix.lww: .* Did you mean 'law'"):
        tree.study(load={"lora_mix": {"lww": 1}}, server={"lora": {"law": "/adapters/law"}})
    with pytest.raises(UserError, match=r"no adapter of this name. `server.lora` has: none"):
        tree.study(load={"lora_mix": {"n": 1}}, server={"lora": "none"})
    with pytest.raises(UserError, match=r"load.lora_mix: found nothing, expected at least one key with its value$"):
        tree.study(load={"lora_mix": {}})
    plan = expand.expand(tree.study(load={"lora_mix": {"law": 1}}, server={"lora": {"law": "/adapters/law"}}))
    assert all("lora" in one.skipped for one in plan.cells), "this framework has no adapters"
