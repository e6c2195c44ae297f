"""Builds of a framework: each name is started as its platform says, and names no other launch anew."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from servegauge.base.errors import UserError
from servegauge.base.files import read_json, write_json
from servegauge.compare.compare import compare
from servegauge.contract.records.plan import Plan
from servegauge.contract.spec import Launch
from servegauge.dataset import merge
from servegauge.dataset.study_view import Study
from servegauge.frameworks import framework
from servegauge.frameworks.base import Context
from servegauge.inputs import environments
from servegauge.launch.server import command
from servegauge.plan import config, documents, expand
from tests import synthetic
from tests.unit.study_tree import STUDY, Tree, tree

__all__ = ["tree"]

HOW = {
    "plain": {"venv": "/old"},
    "plain@next": {"venv": "/new"},
    "plain@boxed": {"container": "/image.sif"},
    "plain@locked": {"lock": "special"},
}


def planned(tree: Tree, *names: str, how: dict[str, Any] = HOW, **server: Any) -> Plan:
    tree.write("config/platforms/metal.yaml", {"description": "x", "frameworks": how})
    matrix = {**STUDY["matrix"], "framework": list(names), "platform": ["metal"], "repeat": 1}
    return expand.expand(tree.study({**STUDY, "matrix": matrix, "server": server}))


def test_each_build_is_a_launch_of_its_own(tree: Tree) -> None:
    plan = planned(tree, "plain", "plain@next")
    assert {launch.framework for launch in plan.launches} == {"plain", "plain@next"}
    assert {launch.id.split("-small")[0] for launch in plan.launches} == {"plain", "plain-next"}
    said = [documents.serves(plan, launch) for launch in plan.launches]
    assert any(text.startswith("Plain (next) serves") for text in said)


def test_a_build_is_resolved_by_the_platform(tree: Tree) -> None:
    for name in ("special", "plain"):
        tree.write(f"envs/{name}.txt", "")
    platform = {"name": "metal", "frameworks": HOW}

    def found(name: str) -> tuple[str | None, str]:
        environment = environments.framework_environment(name, platform, tree.root)
        return environment, "" if environment else environments.framework_python(name, platform, tree.root)

    assert found("plain") == (None, "/old/bin/python")
    assert found("plain@next") == (None, "/new/bin/python")
    assert found("plain@locked") == ("special", "")
    boxed = Launch("plain@boxed", {"name": "m"}, platform)
    words = command(SimpleNamespace(argv=lambda _: ["serve"], environment=lambda _: {}), Context(boxed, "m", 1))
    assert words[-2:] == ["/image.sif", "serve"]
    bare = {"name": "metal", "frameworks": {"plain@same": {}}}
    assert environments.framework_environment("plain@same", bare, tree.root) == "plain", "the project's own, twice"


def test_another_build_on_a_platform_renames_no_launch() -> None:
    model, bare = {"name": "m"}, {"name": "p"}
    before = Launch("vllm", model, bare).id
    assert Launch("vllm", model, {**bare, "frameworks": {"vllm@next": {"venv": "/new"}}}).id == before
    old = {"vllm": {"venv": "/old"}}
    before = Launch("vllm", model, {**bare, "frameworks": old}).id
    both = Launch("vllm", model, {**bare, "frameworks": {**old, "vllm@next": {"venv": "/new"}}})
    assert both.id == before
    new = Launch("vllm@next", model, both.platform)
    other = Launch("vllm@next", model, {**bare, "frameworks": {**old, "vllm@next": {"venv": "/newer"}}})
    assert len({before, new.id, other.id}) == 3, "what a build is, is part of its own name"


def test_a_build_that_nobody_says_how_to_start_is_a_mistake(tree: Tree) -> None:
    with pytest.raises(UserError, match=r"how to start 'plain@nexd'. Did you mean 'plain@next'"):
        planned(tree, "plain", "plain@nexd")
    with pytest.raises(UserError, match="there is no framework 'plane'"):
        planned(tree, "plane@next")
    with pytest.raises(UserError, match="a build is a name of letters"):
        planned(tree, "plain@")


def test_where_one_platform_has_it_the_others_skip_it(tree: Tree) -> None:
    tree.write("config/platforms/virtual.yaml", {"description": "x"})
    tree.write("config/platforms/metal.yaml", {"description": "x", "frameworks": HOW})
    matrix = {**STUDY["matrix"], "framework": ["plain@next"], "repeat": 1}
    plan = expand.expand(tree.study({**STUDY, "matrix": matrix}))
    reasons = {plan.launch(one.launch).platform["name"]: one.skipped for one in plan.cells}
    assert reasons["metal"] is None
    assert reasons["virtual"] == "the platform virtual does not say how to start plain@next (its `frameworks`)"


def test_arguments_may_be_those_of_a_build(tree: Tree) -> None:
    plan = planned(tree, "plain", "plain@next", extra_args={"plain": ["--a"], "plain@next": ["--b"]})
    assert {launch.framework: launch.extra_args for launch in plan.launches} == {
        "plain": ("--a",), "plain@next": ("--b",)
    }  # fmt: skip


@pytest.mark.parametrize("study", ["engine-release", "engine-release-cpu"])
def test_the_shipped_studies_compare_builds(study: str, repository: Path) -> None:
    plan = expand.expand(config.load_study(repository, study))
    assert not [one.skipped for one in plan.cells if one.skipped]
    assert plan.study["compare"]["factor"] == "framework"
    names = {launch.framework for launch in plan.launches}
    assert len(names) == 2
    assert len({name.partition("@")[0] for name in names}) == 1
    assert framework(next(iter(names))).title


def test_two_builds_are_compared_like_two_platforms_and_say_their_versions(tmp_path: Path) -> None:
    """The synthetic study with its platforms' launches as two builds; both say the same version."""
    synthetic.make_results(tmp_path, repeats=3)
    results = tmp_path / "results"
    names = {"own-cpu": "llamacpp", "shared-cpu": "llamacpp@next"}
    path = results / "plan" / "demo.json"
    plan = read_json(path)
    for launch in plan["launches"]:
        launch["framework"] = names[launch["platform"]["name"]]
        launch["platform"]["name"] = "cpu"
    plan["study"] |= {"compare": {"factor": "framework", "baseline": "llamacpp"}}
    plan["study"]["matrix"] = {**plan["study"]["matrix"], "framework": list(names.values())}
    del plan["study"]["matrix"]["platform"]
    write_json(path, plan)
    merge.merge(results)
    found = compare(Study(results, "demo"))
    slower = next(one for one in found.overall if one.metric.name == "ttft_p50")
    assert (slower.level, slower.pairs) == ("llamacpp@next", 3)
    assert slower.ratio == pytest.approx(1.3, abs=0.05)
    assert "llamacpp says b7000, llamacpp@next says b7000" in " ".join(found.notes)
    assert "say the same version: what differs is the build, or chance" in " ".join(found.notes)
