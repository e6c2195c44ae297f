"""Expansion: what becomes a launch, what a cell, in which order, and what cannot work."""

from __future__ import annotations

import itertools
import json
import os
import time
from pathlib import Path

import msgspec
import pytest

from servegauge.base.errors import UserError
from servegauge.contract import spec
from servegauge.contract.records.base import plain
from servegauge.contract.records.plan import Plan
from servegauge.contract.records.specs import CellSpec
from servegauge.plan.config import load_study
from servegauge.plan.expand import expand
from tests.unit.study_tree import FILES, REPOSITORY, Tree

ACCEPT = (
    "ids changed: cells would be measured again. If that is meant: UPDATE_GOLDEN=1 pytest tests/unit/test_matrix.py"
)
GOLDEN = REPOSITORY / "tests" / "golden" / "plans"


def _listing(plan: Plan) -> str:
    lines = []
    for launch in plan.launches:
        lines.append(
            f"{launch.id} {json.dumps(dict(launch.options), sort_keys=True)} {' '.join(launch.extra_args)}".rstrip()
        )
        for planned in plan.cells_of(launch.id):
            lines.append(
                f"  {planned.id} <- {planned.workload.id}" + (f" SKIP {planned.skipped}" if planned.skipped else "")
            )
    return "\n".join(lines) + "\n"


STUDIES = {
    "pair": {},
    "wide": {
        "matrix": {
            "model": ["small", "large"],
            "framework": ["fast", "plain"],
            "tp": [1, 4],
            "platform": ["metal", "virtual"],
            "prompts": ["chat", "book"],
            "rate": [1],
            "concurrency": [4],
            "repeat": 1,
            "prefix_cache": [True, False],
            "cache": ["cold", "warm"],
            "exclude": [{"framework": "plain", "tp": 4}, {"prompts": "book", "cache": "warm"}],
            "include": [{"framework": "fast", "tp": 2, "kv_cache_dtype": "fp8", "rate": [8], "platform": "metal"}],
        },
        "server": {"extra_args": {"fast": ["--verbose", "1"]}},
        "load": {"requests": 64},
    },
}


@pytest.mark.parametrize("name", STUDIES)
def test_expansion_is_the_golden_one(tree: Tree, name: str) -> None:
    found = _listing(expand(tree.study(**STUDIES[name])))
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(found)
    assert found == golden.read_text(), ACCEPT


def test_every_combination_once(tree: Tree) -> None:
    plan = expand(
        tree.study(matrix={"prompts": ["chat", "book"], "concurrency": [4, 8], "repeat": 3}, load={"requests": 9})
    )
    assert len(plan.launches) == 2 * 3
    assert len(plan.cells) == 6 * 2 * (2 + 2)
    assert len({planned.id for planned in plan.cells}) == len(plan.cells)
    assert len({launch.configuration for launch in plan.launches}) == 2
    loads = {(planned.load.rate_rps, planned.load.concurrency) for planned in plan.cells}
    assert loads == {(1, None), (2.5, None), (None, 4), (None, 8)}
    assert all(
        planned.load.arrival["process"] == ("poisson" if planned.load.rate_rps else "closed") for planned in plan.cells
    )


def test_both_platforms_replay_the_same_workload_in_the_same_order_and_each_repeat_draws_anew(tree: Tree) -> None:
    plan = expand(tree.study(matrix={"rate": [1, 2, 3, 4, 5, 6]}))
    orders: dict[int, set[tuple[str, ...]]] = {1: set(), 2: set()}
    for launch in plan.launches:
        orders[launch.repeat].add(tuple(planned.workload.id for planned in plan.cells_of(launch.id)))
    (first,), (second,) = orders[1], orders[2]
    assert not set(first) & set(second)
    assert [name.split("-r1-")[0] for name in first] != [name.split("-r2-")[0] for name in second]  # shuffled anew


def test_a_fixed_draw_is_shared_by_the_repeats(tree: Tree) -> None:
    plan = expand(tree.study(load={"draw": "fixed"}))
    assert len(plan.workloads) == 2


def test_blocks_hold_platforms_together_and_shuffle_them(tree: Tree) -> None:
    plan = expand(tree.study(matrix={"prefix_cache": [True, False], "repeat": 8}))
    pairs = [plan.launches[i : i + 2] for i in range(0, len(plan.launches), 2)]
    for one, other in pairs:
        assert (one.repeat, one.options) == (other.repeat, other.options)
        assert {one.platform["name"], other.platform["name"]} == {"metal", "virtual"}
    assert {one.platform["name"] for one, _ in pairs} == {"metal", "virtual"}, "the same platform always first"
    assert [one.repeat for one, _ in pairs] == sorted(one.repeat for one, _ in pairs)
    for cached in (True, False):  # each block takes turns over its repeats
        first = [one.platform["name"] for one, _ in pairs if one.options["prefix_cache"] is cached]
        assert all(one != after for one, after in itertools.pairwise(first))


def test_blocks_hold_every_level_of_the_compared_factor(tree: Tree) -> None:
    compared = {"factor": "prefix_cache", "baseline": False}
    plan = expand(tree.study(matrix={"prefix_cache": [True, False], "repeat": 4}, compare=compared))
    for one, other in (plan.launches[i : i + 2] for i in range(0, len(plan.launches), 2)):
        assert (one.repeat, one.platform["name"]) == (other.repeat, other.platform["name"])
        assert {one.options["prefix_cache"], other.options["prefix_cache"]} == {True, False}
        cells = [[planned.workload.id for planned in plan.cells_of(launch.id)] for launch in (one, other)]
        assert cells[0] == cells[1], "the same cells in the same order on both sides"


def test_the_order_of_a_plan_changes_no_id(tree: Tree) -> None:
    study = {"matrix": {"prefix_cache": [True, False], "repeat": 3}}
    by_platform = expand(tree.study(**study))
    by_cache = expand(tree.study(**study, compare={"factor": "prefix_cache", "baseline": True}))
    assert {one.id for one in by_platform.cells} == {one.id for one in by_cache.cells}
    assert [one.id for one in by_platform.launches] != [one.id for one in by_cache.launches]


def test_a_new_rate_changes_no_other_cell_and_no_order(tree: Tree) -> None:
    before = expand(tree.study(matrix={"rate": [1, 2, 3]}))
    after = expand(tree.study(matrix={"rate": [1, 2, 3, 4]}))
    assert [launch.id for launch in before.launches] == [launch.id for launch in after.launches]
    old = [planned.id for planned in before.cells]
    assert [planned.id for planned in after.cells if planned.id in set(old)] == old
    assert len(after.cells) == len(old) + 4


def test_another_seed_gives_other_draws_and_another_order(tree: Tree) -> None:
    matrix = {"prefix_cache": [True, False], "repeat": 8}
    one, other = (expand(tree.study(matrix=matrix, load={"seed": seed})) for seed in (1, 2))
    assert {launch.id for launch in one.launches} == {launch.id for launch in other.launches}
    assert [launch.id for launch in one.launches] != [launch.id for launch in other.launches]
    assert not {w.id for w in one.workloads} & {w.id for w in other.workloads}


def test_words_for_people_are_no_part_of_a_cell(tree: Tree) -> None:
    before = {planned.id for planned in expand(tree.study()).cells}
    chat = tree.root / "config/prompts/chat.yaml"
    chat.write_text(chat.read_text().replace("short", "another description") + "how_to_get: nothing to get\n")
    platform = tree.root / "config/platforms/metal.yaml"
    platform.write_text(platform.read_text().replace("partition: gpu", "partition: gpu2"))
    assert {planned.id for planned in expand(tree.study()).cells} == before
    chat.write_text(chat.read_text().replace("100", "101"))
    assert not {planned.id for planned in expand(tree.study()).cells} & before


def test_include_adds_and_exclude_does_not_touch_it(tree: Tree) -> None:
    matrix = {"exclude": [{"platform": "virtual"}], "include": [{"platform": "virtual", "rate": [9]}]}
    plan = expand(tree.study(matrix=matrix))
    virtual = [planned for planned in plan.cells if "virtual" in planned.id]
    assert [cell.load.rate_rps for cell in virtual] == [9, 9]
    assert len(plan.cells) == 2 * 2 + 2


def test_including_what_is_there_already_adds_nothing(tree: Tree) -> None:
    assert _listing(expand(tree.study(matrix={"include": [{"rate": [1]}]}))) == _listing(expand(tree.study()))


def test_naming_a_concurrency_in_include_leaves_the_rates_out(tree: Tree) -> None:
    plan = expand(tree.study(matrix={"include": [{"concurrency": [3]}]}, load={"requests": 5}))
    assert sorted({planned.load.words() for planned in plan.cells}) == ["conc3", "rate1", "rate2.5"]


def test_fair_defaults_are_set_and_a_study_wins(tree: Tree) -> None:
    (first, *_) = expand(tree.study()).launches
    assert first.options == {"context_tokens": 2048, "prefix_cache": False}
    (first, *_) = expand(tree.study(server={"prefix_cache": True, "context_tokens": 512})).launches
    assert first.options == {"context_tokens": 512, "prefix_cache": True}
    launches = expand(tree.study(server={"prefix_cache": True}, matrix={"prefix_cache": [False, True]})).launches
    assert {launch.options["prefix_cache"] for launch in launches} == {False, True}


@pytest.mark.parametrize(
    ("matrix", "platform", "reason"),
    [
        ({"framework": "fast", "tp": [4]}, "virtual", "tp4 takes 4 GPUs, the platform virtual has 2 on one node"),
        ({"framework": "fast", "tp": [2], "instances": [2]}, "virtual", "tp2-n2 takes 4 GPUs"),
        ({"framework": "fast", "platform": ["cpu"]}, "cpu", "Fast needs a GPU, the platform cpu has none"),
        (
            {"kv_cache_dtype": ["fp8"]},
            "metal",
            "Plain has no option for kv_cache_dtype (it has: context_tokens, prefix_",
        ),
        ({"tp": [2]}, "metal", "Plain has no tensor parallel size, tp is 2"),
        ({"framework": "fast", "ep": [3]}, "metal", "ep3 does not divide the 1 GPUs"),
        ({"framework": "fast", "model": "large", "tp": [2], "ep": [2]}, "metal", "the model large has no experts"),
        (
            {"framework": "fast", "model": "large", "tp": [3]},
            "metal",
            "64 attention heads, which tp3 does not divide",
        ),
        ({"framework": "fast", "model": "large"}, "metal", "the model large does not fit: weights 138.0 GB and"),
        ({"prompts": ["book"]}, "metal", "take up to 3600 tokens, the server's context_tokens is 2048"),
        ({"cache": ["warm"]}, "metal", "cache: warm needs the server option prefix_cache: true"),
    ],
)
def test_what_cannot_work_is_skipped_with_the_reason(tree: Tree, matrix: dict, platform: str, reason: str) -> None:
    cells = [planned for planned in expand(tree.study(matrix=matrix)).cells if f"-{platform}-" in planned.id]
    assert cells
    assert all(reason in (planned.skipped or "") for planned in cells), cells[0].skipped


def test_an_endpoint_that_a_framework_does_not_have(tree: Tree) -> None:
    plan = expand(tree.study(load={"endpoint": "chat"}))
    assert {planned.skipped for planned in plan.cells} == {"Plain has no endpoint chat (it has: completions)"}


def test_what_can_work_is_not_skipped(tree: Tree) -> None:
    plan = expand(
        tree.study(matrix={"framework": ["fast", "plain"], "tp": [1], "prefix_cache": [True], "cache": ["warm"]})
    )
    assert not [planned.skipped for planned in plan.cells if planned.skipped]
    large = expand(tree.study(matrix={"framework": "fast", "model": "large", "tp": [4], "platform": "metal"}))
    assert not [planned.skipped for planned in large.cells if planned.skipped]


def test_a_cpu_build_needs_no_gpu(tree: Tree) -> None:
    tree.write("config/platforms/cpu.yaml", {"description": "x", "frameworks": {"fast": {"device": "cpu"}}})
    plan = expand(tree.study(matrix={"framework": "fast", "platform": "cpu"}))
    assert {planned.skipped for planned in plan.cells} == {None}


def test_a_plan_survives_json(tree: Tree) -> None:
    plan = expand(tree.study(**STUDIES["wide"]))
    written = json.loads(json.dumps(plain(plan)))
    assert written["version"] == Plan.VERSION
    back = msgspec.convert(written, Plan)
    assert _listing(back) == _listing(plan)


def test_two_things_with_one_name_are_refused(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec, "digest", lambda data, length=1: "0")
    with pytest.raises(UserError, match="both called plain-small-tp1-metal-r1-0: their hashes agree by chance"):
        expand(tree.study(matrix={"platform": "metal", "prefix_cache": [True, False]}))


def test_ids_do_not_depend_on_what_is_shared_and_cached(tree: Tree) -> None:
    for planned in expand(tree.study(**STUDIES["wide"])).cells:
        assert msgspec.convert(json.loads(json.dumps(plain(planned))), CellSpec).cell.id == planned.id


def test_cells_can_be_selected_by_a_pattern(tree: Tree) -> None:
    plan = expand(tree.study()).selected("*-metal-*rate1-*")
    assert [planned.load.rate_rps for planned in plan.cells] == [1, 1]
    assert [launch.platform["name"] for launch in plan.launches] == ["metal", "metal"]
    with pytest.raises(UserError, match="no cell of the study 'x' matches 'nothing'; its ids are like plain-small"):
        plan.selected("nothing")


def test_ten_thousand_cells_expand_in_a_moment(tree: Tree) -> None:
    matrix = {
        "platform": ["metal", "virtual"],
        "repeat": 5,
        "rate": [0.5 * n for n in range(1, 201)],
        "prompts": ["chat", "book"],
    }
    study = tree.study(matrix={**matrix, "prefix_cache": [True, False], "repeat": 6})
    start = time.process_time()
    plan = expand(study)
    spent = time.process_time() - start
    assert len(plan.cells) == 2 * 2 * 6 * 200 * 2
    assert spent < 3, (
        f"{spent:.1f} s of CPU for {len(plan.cells)} cells; asked: 1 s for 10,000"
    )  # thrice, for a busy machine


def test_the_path_of_the_tree_is_nowhere_in_a_launch(tree: Tree) -> None:
    plan = expand(tree.study())
    assert str(tree.root) not in json.dumps(plain(plan.launches))
    assert isinstance(tree.root, Path)


def test_a_name_too_long_for_a_file_is_refused_while_planning(tree: Tree) -> None:
    name = "p" * 65
    tree.write(f"config/prompts/{name}.yaml", FILES["config/prompts/chat.yaml"])
    with pytest.raises(UserError, match="65 letters, and at most 64 are allowed"):
        tree.study(matrix={"prompts": [name]})


def test_a_cell_whose_parts_are_too_long_together_is_refused(tree: Tree) -> None:
    long = {kind: kind[0] * 64 for kind in ("prompts", "models", "platforms")}
    for kind, source in (("prompts", "chat"), ("models", "small"), ("platforms", "metal")):
        tree.write(f"config/{kind}/{long[kind]}.yaml", FILES[f"config/{kind}/{source}.yaml"])
    axes = {"prompts": [long["prompts"]], "model": long["models"], "platform": [long["platforms"]]}
    with pytest.raises(UserError, match="Shorten the name of its model, platform or prompt"):
        expand(tree.study(matrix=axes))


def test_the_baseline_is_measured_again_in_the_same_blocks_with_the_same_workloads(tree: Tree) -> None:
    plain, plan = (expand(tree.study(matrix={"repeat": 6}, aa=aa)) for aa in (False, True))
    known = {launch.id for launch in plain.launches}
    again = [launch for launch in plan.launches if launch.id not in known]
    assert known < {launch.id for launch in plan.launches}, "no id changes"
    assert {launch.platform["name"] for launch in again} == {"metal.again"}
    assert len(again) == 6
    assert {one.id for one in plan.workloads} == {one.id for one in plain.workloads}
    places = {name: [] for name in ("metal", "virtual", "metal.again")}
    for start in range(0, len(plan.launches), 3):
        block = plan.launches[start : start + 3]
        assert {launch.repeat for launch in block} == {block[0].repeat}
        for place, launch in enumerate(block):
            places[launch.platform["name"]].append(place)
    assert all(sorted(found) == [0, 0, 1, 1, 2, 2] for found in places.values()), "each in each place equally often"


def test_the_baseline_of_an_option_is_measured_again_as_the_option_is(tree: Tree) -> None:
    compared = {"factor": "prefix_cache", "baseline": False}
    plan = expand(tree.study(matrix={"prefix_cache": [True, False], "repeat": 2}, aa=True, compare=compared))
    again = [launch for launch in plan.launches if launch.platform["name"].endswith(".again")]
    assert {launch.options["prefix_cache"] for launch in again} == {False}
    assert {launch.platform["name"] for launch in again} == {"metal.again", "virtual.again"}


def test_one_platform_of_a_study_is_planned_alone(tree: Tree) -> None:
    tree.study(matrix={"platform": ["metal", "virtual"], "rate": [1, 2], "repeat": 2}, aa=True)
    plan = expand(load_study(tree.root, "x"))
    metal, virtual = plan.on_platforms("metal"), plan.on_platforms(["virtual"])
    assert {launch.platform["name"] for launch in metal.launches} == {"metal", "metal.again"}
    assert {launch.platform["name"] for launch in virtual.launches} == {"virtual"}
    ids = [{planned.id for planned in one.cells} for one in (metal, virtual, plan)]
    assert not ids[0] & ids[1]
    assert ids[0] | ids[1] == ids[2]
    assert plan.on_platforms("") is plan
    with pytest.raises(UserError, match=r"no platform 'vitual'.* Did you mean 'virtual'"):
        plan.on_platforms("metal, vitual")
