"""A study that is another one but for a few keys, and what is wrong with published figures."""

from __future__ import annotations

import re
from typing import Any

import pytest

from servegauge.base.errors import UserError
from servegauge.plan.config import load_study
from servegauge.plan.expand import expand
from tests.unit.study_tree import STUDY, Tree, tree

__all__ = ["tree"]

WHERE = {"platform": "virtual", "rate": 1}
EXPECTS = [{"metric": "ttft_p50", "where": WHERE, "over": {"where": {"platform": "metal"}}, "ratio": 1.1, "cite": "x"}]


def base(tree: Tree, **parts: Any) -> None:
    tree.study({**STUDY, "compare": {"factor": "platform", "baseline": "metal"}, "expects": EXPECTS, **parts}, "full")


def test_keys_are_laid_over_the_bases_and_null_takes_one_away(tree: Tree) -> None:
    base(tree, slo={"chat": {"ttft_s": 1}}, budget={"gpu_hours": 5})
    study = tree.study({"base": "full", "question": "Small?", "matrix": {"repeat": 1}, "budget": None}, "small")
    full = load_study(tree.root, "full")
    assert (study["question"], study["name"], study["slo"]) == ("Small?", "small", full["slo"])
    assert "budget" not in study
    assert study["matrix"] == {**full["matrix"], "repeat": 1}
    assert [file.rpartition("/")[2] for file in study["files"][:2]] == ["small.yaml", "full.yaml"]
    assert {cell.id for cell in expand(study).cells} < {cell.id for cell in expand(full).cells}


def test_what_stands_in_replaces_the_matrix_the_baseline_and_the_cells_of_published_figures(tree: Tree) -> None:
    base(tree)
    study = tree.study({"base": "full", "stand_ins": {"platform": {"metal": "cpu"}, "rate": {1: 3}}}, "small")
    assert study["matrix"]["platform"] == ["cpu", "virtual"]
    assert study["matrix"]["rate"] == [3, 2.5]
    assert study["compare"]["baseline"] == "cpu"
    (entry,) = study["expects"]
    assert (entry["where"], entry["stands_for"]) == ({"platform": "virtual", "rate": 3}, {"rate": 1})
    study = tree.study({"base": "full", "stand_ins": {"model": {"small": "large"}, "rate": {1: 3}}}, "other")
    assert study["expects"][0]["stands_for"] == {"model": ["small"], "rate": 1}, "though the figure names no model"
    assert entry["over"] == {"where": {"platform": "cpu"}, "stands_for": {"platform": "metal"}}


def test_two_values_with_one_stand_in_are_one_value(tree: Tree) -> None:
    base(tree)
    study = tree.study({"base": "full", "stand_ins": {"rate": {1: 3, 2.5: 3}}}, "small")
    assert study["matrix"]["rate"] == [3]


def test_another_axis_stands_in_for_one_with_what_was_published_kept(tree: Tree) -> None:
    more = {"metric": "achieved_rps", "where": {"tp": 4}, "over": {"where": {"tp": 1}}, "ratio": 3, "cite": "x"}
    include = [{"prompts": "book", "tp": 2, "rate": 1}]
    matrix = {**STUDY["matrix"], "tp": [1, 4], "include": include}
    base(tree, matrix=matrix, compare={"factor": "tp", "baseline": 1}, expects=[more])
    study = tree.study({"base": "full", "stand_ins": {"tp": "threads", "threads": {4: 2}}}, "small")
    assert "tp" not in study["matrix"]
    assert study["matrix"]["threads"] == [1, 2]
    assert study["matrix"]["include"][0]["threads"] == [2]
    assert study["compare"] == {**study["compare"], "factor": "threads", "baseline": 1}
    (entry,) = study["expects"]
    assert (entry["where"], entry["stands_for"]) == ({"threads": 2}, {"tp": 4})
    assert entry["over"] == {"where": {"threads": 1}, "stands_for": {"tp": 1}}


@pytest.mark.parametrize(
    ("stand_ins", "message"),
    [
        ({"model": "tiny"}, "stand_ins.model: found 'tiny'; expected values with what stands in for them, or an axis"),
        ({"tp": "rate"}, "stand_ins.tp: rate varies already; another axis has to stand in for tp"),
        ({"tp": "threads", "rate": "threads"}, "stand_ins.tp: threads varies already"),
    ],
)
def test_an_axis_that_cannot_stand_in_is_refused(tree: Tree, stand_ins: dict[str, str], message: str) -> None:
    base(tree)
    with pytest.raises(UserError, match=re.escape(message)):
        tree.study({"base": "full", "stand_ins": stand_ins}, "small")


def test_a_chain_of_bases(tree: Tree) -> None:
    base(tree)
    tree.study({"base": "full", "stand_ins": {"rate": {1: 3}}}, "middle")
    study = tree.study({"base": "middle", "matrix": {"repeat": 3}}, "small")
    assert (study["matrix"]["rate"], study["matrix"]["repeat"]) == ([3, 2.5], 3)
    assert study["expects"][0]["stands_for"] == {"rate": 1}


@pytest.mark.parametrize(
    ("study", "said"),
    [
        ({"base": "ful"}, ":1: base: there is no config/studies/ful.yaml. Did you mean 'full'?"),
        ({"base": "x"}, ":1: base: x -> x: a study cannot be its own base"),
        ({"base": "loop"}, "base: x -> loop -> x: a study cannot be its own base"),
        ({"base": "full", "stand_ins": {"rate": {7: 3}}}, ":2: stand_ins.rate: the base has no rate 7; it has 1, 2.5"),
        ({"base": "full", "stand_ins": {"platform": {"metal": "cup"}}}, "there is no config/platforms/cup.yaml."),
        ({"base": "full", "stand_ins": [1]}, "stand_ins: found a list"),
    ],
)
def test_mistakes_of_bases(tree: Tree, study: Any, said: str) -> None:
    base(tree)
    tree.write("config/studies/loop.yaml", {"base": "x"})
    with pytest.raises(UserError) as caught:
        tree.study(study)
    assert said in str(caught.value)
    assert "config/studies/" in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"metric": "ttft_p50"}, "expects[0]: the key 'cite' is missing: Where it was published"),
        ({}, "expects[0]: give one of `value` (a number in the metric's unit) and `ratio`"),
        ({"value": 1, "ratio": 2}, "expects[0]: give one of `value`"),
        ({"ratio": 2}, "expects[0].ratio: a ratio needs `over`"),
        ({"value": 2, "over": {"where": {"rate": 2.5}}}, "expects[0].over: give a `value` on both sides"),
        ({"value": [1, 2], "deviation": 1}, "expects[0].value: a range has no deviation"),
        ({"value": 1, "n": 5}, "expects[0].n: means nothing without `deviation`"),
        ({"value": 1, "metric": "tfft_p50"}, "there is no metric 'tfft_p50' here. Did you mean 'ttft_p50'?"),
        ({"value": 1, "probe": "gem"}, "expects[0].probe: there is no probe 'gem'. Did you mean 'gemm'?"),
        ({"value": 1, "probe": "gemm"}, "there is no metric 'ttft_p50' here. There are: "),
        ({"value": 1, "model": "smal"}, "there is no config/models/smal.yaml. Did you mean 'small'?"),
        ({"value": 1, "model": "small", "where": WHERE}, "leave `where` and `over` out"),
        ({"value": 1, "where": {"rte": 1}}, "expects[0].where.rte: there is no axis 'rte'. Did you mean 'rate'?"),
        ({"value": 1, "where": {"rate": 7}}, "expects[0].where.rate: 7 is not measured. It has: 1, 2.5"),
        ({"value": 1, "where": {"tp": 2}}, "expects[0].where.tp: 2 is not measured. It has: 1"),
        ({"value": 1, "where": {"rate": "1"}}, "'1' is not measured. Write it as a number, without quotes. It has"),
        ({"value": 1, "where": {"repeat": 1}}, "there is no axis 'repeat'. Did you mean 'rate'? There are: model, "),
        ({"value": -1}, "expects[0].value: found -1, expected more than 0"),
    ],
)
def test_mistakes_of_published_figures(tree: Tree, entry: Any, said: str) -> None:
    whole = {"metric": "ttft_p50", "cite": "x", **entry}
    if list(entry) == ["metric"]:
        del whole["cite"]
    with pytest.raises(UserError) as caught:
        tree.study({**STUDY, "expects": [whole]})
    assert said in str(caught.value)
    assert "config/studies/x.yaml:" in str(caught.value)


def test_a_figure_of_a_models_shape_brings_its_model_and_no_cell(tree: Tree) -> None:
    entry = {"metric": "kv_bytes_per_token", "model": "large", "value": 800e3, "cite": "x"}
    study = tree.study({**STUDY, "expects": [entry]})
    assert list(study["models"]) == ["small", "large"]
    assert any(file.endswith("models/large.yaml") for file in study["files"])
    assert {launch.model["name"] for launch in expand(study).launches} == {"small"}
