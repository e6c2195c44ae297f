"""Replay of recorded traffic: times, lengths and shared blocks are those of the file; a bad line is named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servegauge.base.errors import UserError
from servegauge.contract.spec import Load
from servegauge.plan import config, expand
from servegauge.workloads import tokenizer as tokens
from servegauge.workloads.compile import compile_workload, read_workload
from servegauge.workloads.replay import recording_of
from tests.unit.study_tree import Tree, tree
from tests.unit.workloads.test_compile import root, workload

__all__ = ["root", "tree"]

BLOCK = 8
MOONCAKE = [
    {"timestamp": 1000, "input_length": 20, "output_length": 5, "hash_ids": [7, 8, 9]},
    {"timestamp": 1500, "input_length": 24, "output_length": 6, "hash_ids": [7, 8, 10]},
    {"timestamp": 4000, "input_length": 16, "output_length": 7, "hash_ids": [7, 8]},
    {"timestamp": 5000, "input_length": 12, "output_length": 8, "hash_ids": [11, 12]},
]
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,30,4\n2023-11-16 18:15:48.1805900,9,12\n"
BURST = (
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,ChatGPT,20,4,24,API log\n6,GPT-4,30,5,35,API log\n9,ChatGPT,0,0,0,API log\n9,ChatGPT,40,6,46,API log\n"
)


def written(root: Path, kind: str, content: Any, **keys: Any) -> dict[str, Any]:
    """A prompt set of this kind, whose file has this content."""
    text = content if isinstance(content, str) else "".join(json.dumps(line) + "\n" for line in content)
    (root / "trace").write_text(text, encoding="latin-1")
    return {"name": "t", "kind": kind, "path": "trace", "how_to_get": "ask", **keys}


def frozen(root: Path, spec: Mapping[str, Any], **load: Any) -> dict[str, dict[str, list[Any]]]:
    """Phase -> columns of the compiled workload."""
    given = {"warmup_requests": 2, "arrival": {"process": "trace"}, **load}
    one = workload(Load(**given), dict(spec))
    compile_workload(one, root, root / "out")
    table = read_workload(root / "out" / one.id)
    rows = table.to_pylist()
    names = ("warmup", "ramp", "window", "tail")
    return {
        phase: {name: [row[name] for row in rows if row["phase"] == phase] for name in table.column_names}
        for phase in names
    }


def test_a_mooncake_trace_is_replayed_with_its_times_lengths_and_blocks(root: Path) -> None:
    found = frozen(root, written(root, "mooncake", MOONCAKE, block_tokens=BLOCK), rate_rps=0.75, requests=4)
    window = found["window"]
    assert window["scheduled_s"] == pytest.approx([0.0, 0.5, 3.0, 4.0]), "0.75 a second is the recorded rate"
    assert window["prompt_tokens"] == [20, 24, 16, 12]
    assert window["output_tokens"] == [5, 6, 7, 8]
    one = tokens.load(root / "model")
    assert one.count_many(window["prompt"]) == window["prompt_tokens"]
    first, second, third, other = (text.split() for text in window["prompt"])
    shared = 2 * BLOCK - one.special_tokens
    assert first[:shared] == second[:shared] == third, "two blocks are shared, and the third request is nothing else"
    assert first[shared:] != second[shared : shared + 4]
    assert other[: BLOCK - one.special_tokens] != first[: BLOCK - one.special_tokens]


def test_times_are_stretched_to_the_rate_and_begin_again(root: Path) -> None:
    spec = written(root, "mooncake", MOONCAKE, block_tokens=BLOCK)
    found = frozen(root, spec, rate_rps=1.5, requests=6)
    assert found["window"]["scheduled_s"][:4] == pytest.approx([0.0, 0.25, 1.5, 2.0]), "twice as fast"
    assert found["window"]["prompt_tokens"] == [20, 24, 16, 12, 20, 24]
    texts = found["window"]["prompt"]
    assert texts[4] != texts[0], "what comes again has other texts, or a cache would hold all of it"
    assert texts[4].split()[:12] == texts[5].split()[:12], "and shares among itself what it shared before"


def test_nothing_of_the_window_is_in_a_cache_before_it(root: Path) -> None:
    found = frozen(root, written(root, "mooncake", MOONCAKE, block_tokens=BLOCK), rate_rps=0.75, requests=4)
    before = {text[:20] for phase in ("warmup", "ramp") for text in found[phase]["prompt"]}
    assert before
    assert not before & {text[:20] for text in found["window"]["prompt"]}


def test_the_same_recording_has_other_words_in_another_repeat(root: Path) -> None:
    spec = written(root, "azure", AZURE)
    loads = [workload(Load(rate_rps=1.0, requests=2, arrival={"process": "trace"}), spec, repeat) for repeat in (1, 2)]
    tables = []
    for one in loads:
        compile_workload(one, root, root / "out")
        tables.append(read_workload(root / "out" / one.id).to_pydict())
    assert tables[0]["prompt_tokens"] == tables[1]["prompt_tokens"]
    assert tables[0]["prompt"] != tables[1]["prompt"]


def test_azure(root: Path) -> None:
    found = recording_of(written(root, "azure", AZURE), root)
    assert found.times_s.tolist() == pytest.approx([0.0, 1.5])
    assert [(one.input_tokens, one.output_tokens) for (one,) in found.sessions] == [(30, 4), (9, 12)]
    assert found.rate_rps == pytest.approx(1 / 1.5)


def test_names_of_columns_may_have_spaces_around_them(root: Path) -> None:
    found = recording_of(written(root, "azure", AZURE.replace(",", " , ", 2)), root)
    assert [(one.input_tokens, one.output_tokens) for (one,) in found.sessions] == [(30, 4), (9, 12)]


def test_a_pause_of_recorded_sessions_is_a_number(tree: Tree) -> None:
    pause = {"distribution": "exponential", "mean": 1}
    described = {"description": "x", "kind": "mooncake", "path": "t", "how_to_get": "ask", "pause_s": pause}
    tree.write("config/prompts/agents.yaml", described)
    with pytest.raises(UserError, match="pause_s"):
        config.load_prompts(tree.root, "agents")


def test_a_session_that_begins_with_one_token_has_a_word_and_the_special_tokens(root: Path) -> None:
    one = {"session_id": 1, "timestamp": 0, "input_length": 1, "output_length": 3}
    found = frozen(root, written(root, "mooncake", [one, {**one, "delay": 10}]), rate_rps=1.0, requests=1,
                   arrival={"process": "poisson"})  # fmt: skip
    special = tokens.load(root / "model").special_tokens
    assert found["window"]["prompt_tokens"] == [special + 1, special + 1 + 3 + 1]
    assert all(found["window"]["prompt"])


def test_burstgpt_leaves_out_what_failed_and_what_is_not_asked(root: Path) -> None:
    found = recording_of(written(root, "burstgpt", BURST), root)
    assert [(one.at_s, one.input_tokens) for (one,) in found.sessions] == [(0.0, 20), (1.0, 30), (4.0, 40)]
    assert (found.entries, found.failed, found.filtered) == (4, 1, 0)
    only = recording_of(written(root, "burstgpt", BURST, where={"Model": "ChatGPT"}), root)
    assert [one.input_tokens for (one,) in only.sessions] == [20, 40]
    short = recording_of(written(root, "burstgpt", BURST, filters={"max_input_tokens": 30}), root)
    assert [one.input_tokens for (one,) in short.sessions] == [20, 30]
    assert short.filtered == 1
    late = recording_of(written(root, "burstgpt", BURST, cut={"from_s": 1}), root)
    assert [(one.at_s, one.input_tokens) for (one,) in late.sessions] == [(0.0, 30), (3.0, 40)]
    assert len(recording_of(written(root, "burstgpt", BURST, cut={"requests": 2}), root).sessions) == 2


def test_without_its_times_a_recording_is_a_set_of_lengths(root: Path) -> None:
    spec = written(root, "burstgpt", BURST)
    found = frozen(root, spec, rate_rps=50.0, requests=6, arrival={"process": "poisson"})
    assert found["window"]["prompt_tokens"] == [20, 30, 40, 20, 30, 40]
    closed = frozen(root, spec, concurrency=2, requests=3, arrival={"process": "closed"})
    assert closed["window"]["output_tokens"] == [4, 5, 6]
    forced = frozen(root, spec, rate_rps=50.0, requests=3, arrival={"process": "poisson"}, output_tokens=9)
    assert forced["window"]["output_tokens"] == [9, 9, 9]


BAD = {
    "no JSON": ("mooncake", '{"timestamp": 1, "input_length": 5, "output_length": 5}\n{"timest', ":2: not JSON"),
    "no object": ("mooncake", "[1]\n", ":1: is a list, expected a JSON object"),
    "key missing": (
        "mooncake",
        '{"timestamp": 1, "output_length": 5}\n',
        ":1: `input_length` is missing; it has: time",
    ),
    "no number": ("mooncake", '{"timestamp": 1, "input_length": 2.5, "output_length": 5}\n', ":1: input_length is 2.5"),
    "blocks": (
        "mooncake",
        '{"timestamp": 1, "input_length": 2, "output_length": 5, "hash_ids": ["a"' + ', "b"' * 9999 + "]}\n",
        ":1: `hash_ids` has 'a', expected a list of whole",
    ),
    "a block alone": (
        "mooncake",
        '{"timestamp": 1, "input_length": 2, "output_length": 5, "hash_ids": 7}\n',
        ":1: `hash_ids` has 7, expected a list of whole",
    ),
    "no answer at all": (
        "azure",
        AZURE.replace(",4", ",0").replace(",12", ",0"),
        "of 2 requests none is left by `filters` {} and `cut` {}; 2 have no prompt or no answer",
    ),
    "column missing": ("azure", "TIME,ContextTokens\n", ":1: the column 'TIMESTAMP' is missing; it has: TIME, Context"),
    "no time": ("azure", AZURE + "yesterday,4,4\n", ":4: TIMESTAMP is 'yesterday', expected a time"),
    "negative": ("azure", AZURE + "2023-11-16 18:16:00,-4,4\n", ":4: ContextTokens is '-4', expected a whole number"),
    "short line": ("burstgpt", BURST + "12,GPT-4\n", ":6: Request tokens is None, expected a whole number"),
    "other encoding": ("burstgpt", BURST + "12,mod\xe8le,4,4,8,API log\n", "not text in UTF-8"),
    "huge time": ("burstgpt", BURST + "1" * 400 + ",GPT-4,4,4,8,API log\n", ":6: Timestamp is '111"),
    "huge whole time": (
        "mooncake",
        '{"timestamp": 1' + "0" * 400 + ', "input_length": 2, "output_length": 5}\n',
        ":1: timestamp is 1000",
    ),
    "empty": ("burstgpt", BURST.splitlines()[0] + "\n", "it holds no request"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_line_is_named(case: str, root: Path) -> None:
    kind, content, said = BAD[case]
    with pytest.raises(UserError) as error:
        recording_of(written(root, kind, content), root)
    assert said in str(error.value)
    assert "trace" in str(error.value)
    assert len(str(error.value)) < 1000


def test_a_cut_that_leaves_nothing_and_a_set_without_times_are_said(root: Path) -> None:
    with pytest.raises(UserError, match="none is left by `filters`"):
        recording_of(written(root, "burstgpt", BURST, cut={"from_s": 1000}), root)
    with pytest.raises(UserError, match="takes the times of a recorded prompt set"):
        frozen(root, {"name": "s", "kind": "synthetic", "input_tokens": 9, "output_tokens": 4}, rate_rps=1, requests=3)


@pytest.mark.parametrize("name", ["mooncake-sample", "azure-sample", "burstgpt-sample", "agent-sample"])
def test_the_samples_are_what_their_files_say(name: str, repository: Path) -> None:
    found = recording_of(config.load_prompts(repository, name), repository)
    assert found.rate_rps is not None
    assert len(found.sessions) >= 12


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kind": "azure", "path": "t", "filters": {"min_turns": 2}}, "filters.min_turns: does nothing for azure"),
        ({"kind": "mooncake", "path": "t", "filters": {"min_requests": 2}}, "min_requests: does nothing for mooncake"),
        ({"kind": "conversations", "path": "t", "filters": {"min_turns": 2}}, "it is for sharegpt. conversations has"),
        ({"kind": "conversations", "path": "t", "output_tokens": 4}, "output_tokens: does nothing for conversations"),
        ({"kind": "synthetic", "input_tokens": 4, "output_tokens": 4, "cut": {"from_s": 1}}, "cut: does nothing"),
        ({"kind": "burstgpt", "path": "t", "pause_s": 4}, "pause_s: does nothing for burstgpt; it is for sessions"),
        ({"kind": "azure", "path": "t", "output_tokens": {"distribution": "constant", "value": 4}}, "output_tokens"),
    ],
)
def test_a_key_of_another_kind_is_refused_because_it_would_do_nothing(tree: Tree, given: dict, said: str) -> None:
    tree.write("config/prompts/own.yaml", {"description": "x", "how_to_get": "ask", **given})
    with pytest.raises(UserError, match=said):
        config.load_prompts(tree.root, "own")


def test_a_speed_becomes_the_rate_of_the_recording(tree: Tree) -> None:
    tree.write("trace.csv", AZURE)
    described = {"description": "x", "kind": "azure", "path": "trace.csv", "how_to_get": "ask"}
    tree.write("config/prompts/azure.yaml", described)
    matrix = {"model": "small", "framework": "plain", "platform": "metal", "prompts": "azure", "speed": [1, 3]}
    load = {"arrival": "trace", "requests": 2}
    plan = expand.expand(tree.study({"question": "q", "matrix": matrix, "load": load}))
    rates = sorted(one.load.rate_rps for one in plan.cells)
    assert rates == pytest.approx([1 / 1.5, 3 / 1.5], abs=1e-6)
    with pytest.raises(UserError, match=r"load.arrival: 'poisson', but `matrix.speed`"):
        tree.study({"question": "q", "matrix": matrix, "load": {"requests": 2}})
    for sizes in ({"speed": [1]}, {"rate": [1]}):
        plain = {**{name: value for name, value in matrix.items() if name != "speed"}, "prompts": "chat", **sizes}
        with pytest.raises(UserError, match=r"load.arrival: trace, but the prompt set chat has no recorded times"):
            tree.study({"question": "q", "matrix": plain, "load": load})
    streams = {**{name: value for name, value in matrix.items() if name != "speed"}, "prompts": "chat"}
    both = {**streams, "concurrency": [1], "include": [{"prompts": ["azure"], "speed": [2]}]}
    plan = expand.expand(tree.study({"question": "q", "matrix": both, "load": load}))
    assert {(one.prompts["name"], one.load.loop) for one in plan.cells} == {
        ("chat", "closed"), ("azure", "open")
    }  # fmt: skip


def test_a_published_figure_a_comparison_and_what_is_left_out_can_name_a_speed(tree: Tree) -> None:
    tree.write("trace.csv", AZURE)
    for name in ("azure", "again"):
        described = {"description": "x", "kind": "azure", "path": "trace.csv", "how_to_get": "ask"}
        tree.write(f"config/prompts/{name}.yaml", described)
    tree.write("other.csv", AZURE.replace("48.1", "49.1"))
    tree.write("config/prompts/other.yaml", {**described, "path": "other.csv"})
    matrix = {"model": "small", "framework": "plain", "platform": "metal", "prompts": "azure", "speed": [1, 2, 3]}
    figure = {"metric": "e2e_p50", "where": {"speed": 2}, "over": {"where": {"speed": 1}}, "ratio": 1.5, "cite": "x"}
    asked = {"question": "q", "matrix": matrix, "load": {"arrival": "trace", "requests": 2}, "expects": [figure]}
    asked["compare"] = {"factor": "speed", "baseline": 1}
    study = tree.study(asked)
    rates = [study["expects"][0]["where"], study["expects"][0]["over"]["where"], study["compare"]]
    plan = expand.expand(study)
    known = {one.load.rate_rps for one in plan.cells}
    assert {rates[0]["rate"], rates[1]["rate"], rates[2]["baseline"]} < known
    assert "speed" not in rates[0]
    assert study["compare"]["factor"] == "rate"
    # Two sets with one rate are no question, two with their own are.
    tree.study({**asked, "matrix": {**matrix, "prompts": ["azure", "again"]}})
    several = {**asked, "matrix": {**matrix, "prompts": ["azure", "other"]}}
    with pytest.raises(UserError, match=r"expects\[0\].where.speed: a speed is another rate of each prompt set"):
        tree.study({**several, "compare": {"factor": "platform", "baseline": "metal"}})
    with pytest.raises(UserError, match=r"compare.factor: a speed is another rate of each prompt set"):
        tree.study({name: several[name] for name in several if name != "expects"})
    named = {**figure, "where": {"speed": 2, "prompts": "other"}}
    tree.study({**several, "expects": [named], "compare": {"factor": "platform", "baseline": "metal"}})
    fewer = expand.expand(tree.study({**asked, "matrix": {**matrix, "exclude": [{"speed": 3}]}}))
    assert len(fewer.cells) == 2


def test_a_recorded_rate_is_kept_over_a_long_replay(root: Path) -> None:
    times = np.array(frozen(root, written(root, "azure", AZURE), rate_rps=20.0, requests=400)["window"]["scheduled_s"])
    assert (len(times) - 1) / times[-1] == pytest.approx(20.0, rel=0.01)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"timestamp":' * 100_000])
def test_a_recording_nested_without_end_is_one_message(root: Path, text: str) -> None:
    spec = written(root, "mooncake", text, block_tokens=BLOCK)
    with pytest.raises(UserError, match=r":1: not JSON: it is nested too deep"):
        frozen(root, spec, rate_rps=0.75, requests=4)
