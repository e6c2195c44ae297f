"""Prompt sets: lengths that are true when encoded again, file order, filters, and what is said of mistakes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servegauge.base.errors import UserError
from servegauge.inputs import config_files
from servegauge.plan import config
from servegauge.workloads import tokenizer as tokens
from servegauge.workloads.compile import draw
from servegauge.workloads.prompts import Drawn, draw_prompts, exact_texts, lengths

UNIFORM = {"distribution": "uniform", "min": 2, "max": 90}


def synthetic(**keys: Any) -> dict[str, Any]:
    return {"name": "s", "kind": "synthetic", "input_tokens": 20, "output_tokens": 8, **keys}


def prefixed(**keys: Any) -> dict[str, Any]:
    return synthetic(kind="shared_prefix", prefix={"groups": 3, "tokens": 30}, **keys)


def encoded(folder: Path, drawn: Any) -> list[int]:
    return [tokens.load(folder).count(prompt.text) for prompt in drawn.prompts]


@pytest.mark.parametrize("spec", [synthetic(input_tokens=UNIFORM), prefixed(input_tokens=UNIFORM)])
def test_token_counts_are_true_for_both_families_of_tokenizers(
    spec: dict[str, Any], tiny_model: Path, byte_level: Path
) -> None:
    for folder in (tiny_model, byte_level):
        drawn = draw_prompts(spec, tokens.load(folder), 200, seed=3)
        asked = [prompt.prompt_tokens for prompt in drawn.prompts]
        assert encoded(folder, drawn) == asked
        assert len(set(asked)) > 30


def test_counts_are_true_where_neighbouring_words_merge(tiny_model: Path) -> None:
    tokenizer = tokens.load(tiny_model)
    unlucky = tokens.Tokenizer(tiny_model / "tokenizer.json")
    # Words that are several tokens, as if the choice of words had been wrong: the lengths must come out all the same.
    unlucky.words = (*tokenizer.words[:200], "unquestionably", "zzyzx")
    sizes = np.asarray([40] * 50)
    texts = exact_texts(unlucky, sizes, [""] * 50, np.random.default_rng(0))
    assert tokenizer.count_many(texts) == [40] * 50
    assert any("zzyzx" in text for text in texts)


def test_the_same_seed_is_the_same_text_and_another_is_another(tiny_model: Path) -> None:
    tokenizer = tokens.load(tiny_model)
    one, two, other = (draw_prompts(synthetic(), tokenizer, 5, seed=seed).prompts for seed in (1, 1, 2))
    assert one == two
    assert not {prompt.text for prompt in one} & {prompt.text for prompt in other}
    assert len({prompt.text.split()[0] for prompt in one}) > 1  # no prefix in common by accident


def test_groups_share_their_prefix_and_take_turns(tiny_model: Path) -> None:
    prompts = draw_prompts(prefixed(), tokens.load(tiny_model), 9, seed=1).prompts
    assert {prompt.prompt_tokens for prompt in prompts} == {50}
    tokenizer = tokens.load(tiny_model)._tokenizer
    starts = [tuple(tokenizer.encode(prompt.text).ids[:30]) for prompt in prompts]
    assert starts[:3] == starts[3:6] == starts[6:]
    assert len(set(starts)) == 3
    assert len({prompt.text for prompt in prompts}) == 9


def test_a_studys_answer_length_replaces_the_sets_and_nothing_else(tiny_model: Path) -> None:
    spec = synthetic(output_tokens={"distribution": "uniform", "min": 1, "max": 50})
    own, forced = (draw_prompts(spec, tokens.load(tiny_model), 20, 1, output) for output in (None, 7))
    assert [prompt.text for prompt in own.prompts] == [prompt.text for prompt in forced.prompts]
    assert {prompt.output_tokens for prompt in forced.prompts} == {7}
    assert len({prompt.output_tokens for prompt in own.prompts}) > 5


def test_a_length_below_the_special_tokens_is_refused(tiny_model: Path, byte_level: Path) -> None:
    with pytest.raises(UserError, match="the shortest is 2"):
        draw_prompts(synthetic(input_tokens=1), tokens.load(tiny_model), 1, 0)
    assert encoded(byte_level, draw_prompts(synthetic(input_tokens=1), tokens.load(byte_level), 4, 0)) == [1] * 4


# -- lengths ----------------------------------------------------------------


@given(
    kind=st.sampled_from(["normal", "lognormal"]),
    mean=st.floats(20, 2000),
    spread=st.floats(0, 0.8),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=40, deadline=None)
def test_mean_and_std_are_those_of_the_lengths(kind: str, mean: float, spread: float, seed: int) -> None:
    spec = {"distribution": kind, "mean": mean, "std": spread * mean * (0.3 if kind == "normal" else 1)}
    drawn = lengths(spec, 4000, np.random.default_rng(seed))
    assert drawn.dtype == np.int64
    assert drawn.min() >= 1
    assert drawn.mean() == pytest.approx(mean, rel=0.12, abs=1)
    assert drawn.std() == pytest.approx(spec["std"], rel=0.5, abs=1)


def test_limits_choices_and_constants() -> None:
    draw = np.random.default_rng(0)
    limited = lengths({"distribution": "normal", "mean": 100, "std": 50, "min": 80, "max": 120}, 500, draw)
    assert (limited.min(), limited.max()) == (80, 120)
    uniform = lengths({"distribution": "uniform", "min": 3, "max": 5}, 300, draw)
    assert set(uniform) == {3, 4, 5}
    chosen = lengths({"distribution": "choice", "values": [10, 20, 30], "weights": [3, 0, 1]}, 1000, draw)
    assert set(chosen) == {10, 30}
    assert (chosen == 10).mean() == pytest.approx(0.75, abs=0.06)
    assert set(lengths({"distribution": "choice", "values": [1, 2]}, 50, draw)) == {1, 2}
    assert set(lengths({"distribution": "constant", "value": 9}, 5, draw)) == set(lengths(9, 5, draw)) == {9}


def test_limits_that_are_never_met_are_refused() -> None:
    with pytest.raises(UserError, match="hardly ever"):
        lengths({"distribution": "normal", "mean": 10, "std": 1, "min": 500}, 3, np.random.default_rng(0))


# -- data sets --------------------------------------------------------------

TURNS = [
    ["What is a cache line?", "A cache line is the unit in which memory is moved."],
    ["Only a question that nobody answers"],
    ["Hi", "This prompt is below four tokens, so the usual filter takes it out."],
    ["What does the scheduler do at night?", "It goes on."],
    ["And what about the next one here?", "ok"],
    ["word " * 100, "This prompt is long."],
]


@pytest.fixture
def sharegpt(tmp_path: Path) -> dict[str, Any]:
    data = [{"conversations": [{"from": "human", "value": text} for text in turns]} for turns in TURNS]
    (tmp_path / "data.json").write_text(json.dumps([*data, {"conversations": []}]))
    return {"name": "g", "kind": "sharegpt", "path": "data.json", "how_to_get": "ask nicely"}


def questions(drawn: Any) -> list[int]:
    """Which conversations were used, by number."""
    return [next(number for number, turns in enumerate(TURNS) if turns[0] == prompt.text) for prompt in drawn.prompts]


def test_sharegpt_is_used_in_file_order_from_where_the_seed_says(
    sharegpt: dict[str, Any], tiny_model: Path, tmp_path: Path
) -> None:
    tokenizer = tokens.load(tiny_model)
    draws = [draw_prompts(sharegpt, tokenizer, 3, seed, root=tmp_path) for seed in range(60)]
    ring = [0, 2, 3, 4, 5]  # 1 has one turn only
    rounds = {tuple((ring + ring)[start : start + 3]) for start in range(5)}
    assert {tuple(questions(drawn)) for drawn in draws} == rounds
    assert {drawn.source["looked_at"] for drawn in draws} == {3, 4}  # no further than needed
    assert {drawn.source["repeated"] for drawn in draws} == {0}


def test_the_fields_standard_filters(sharegpt: dict[str, Any], tiny_model: Path, tmp_path: Path) -> None:
    usual = {
        "min_turns": 2,
        "min_input_tokens": 4,
        "min_output_tokens": 4,
        "max_input_tokens": 50,
        "max_total_tokens": 60,
    }
    drawn = draw_prompts({**sharegpt, "filters": usual}, tokens.load(tiny_model), 4, 0, root=tmp_path)
    assert set(questions(drawn)) == {0, 3}
    assert (drawn.source["looked_at"], drawn.source["repeated"]) == (6, 2)
    tokenizer = tokens.load(tiny_model)
    for prompt, number in zip(drawn.prompts, questions(drawn), strict=True):
        assert prompt.prompt_tokens == tokenizer.count(TURNS[number][0])
        assert prompt.output_tokens == tokenizer.count(TURNS[number][1], special=False)


def test_the_shipped_sample_and_its_hash(tiny_model: Path, repository: Path) -> None:
    spec = config.load_prompts(repository, "sharegpt-sample")
    drawn = draw_prompts(spec, tokens.load(tiny_model), 60, 0, root=repository)
    assert drawn.source["looked_at"] == drawn.source["entries"] == 54
    assert drawn.source["repeated"] == 10
    with pytest.raises(UserError, match="another data set"):
        draw_prompts({**spec, "sha256": "0" * 64}, tokens.load(tiny_model), 1, 0, root=repository)


def test_a_missing_data_set_says_how_to_get_it(sharegpt: dict[str, Any], tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.json is not on this machine.*ask nicely"):
        draw_prompts({**sharegpt, "path": "absent.json"}, tokens.load(tiny_model), 1, 0, root=tmp_path)
    with pytest.raises(UserError, match="variable"):
        draw_prompts({**sharegpt, "path": "$NOT_SET_HERE/x.json"}, tokens.load(tiny_model), 1, 0, root=tmp_path)


def test_filters_that_leave_nothing_are_said(sharegpt: dict[str, Any], tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none is left"):
        draw_prompts({**sharegpt, "filters": {"min_turns": 9}}, tokens.load(tiny_model), 1, 0, root=tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("{}", "a list"),
        ('[{"a": 1}]', "entry 0"),
        ('[{"conversations": ["hello", "you"]}]', "entry 0, turn 0: is a text, expected an object"),
        ('[{"conversations": [{"value": "a"}, {"value": 7}]}]', "entry 0, turn 1: its text is a number"),
        ('[{"conversations": [{"value": "half \\ud83d"}, {"value": "b"}]}]', "entry 0, turn 0: .*lone surrogate"),
    ],
)
def test_a_broken_sharegpt_file_is_a_message(
    text: str, message: str, sharegpt: dict[str, Any], tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "data.json").write_text(text)
    with pytest.raises(UserError, match=message):
        draw_prompts(sharegpt, tokens.load(tiny_model), 1, 0, root=tmp_path)


def test_jsonl_with_prompts_messages_and_lengths(tiny_model: Path, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "how are you"}]
    lines = [{"question": "what is it", "n": 5}, {"chat": messages, "n": 6}, {"question": "no length"}]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    fields = {"prompt": "question", "messages": "chat", "output_tokens": "n"}
    spec = {"name": "j", "kind": "jsonl", "path": "d.jsonl", "how_to_get": "", "fields": fields}
    tokenizer = tokens.load(tiny_model)
    prompts = sorted(
        draw_prompts(spec, tokenizer, 2, 0, root=tmp_path).prompts, key=lambda prompt: prompt.output_tokens
    )
    assert (prompts[0].text, prompts[0].output_tokens) == ("what is it", 5)
    assert json.loads(prompts[1].messages or "") == messages
    assert prompts[1].prompt_tokens == tokenizer.chat(messages)[1]
    # With a length of the set's own, lines without one can be used too.
    every = draw_prompts({**spec, "output_tokens": 3}, tokenizer, 3, 0, root=tmp_path)
    assert [prompt.output_tokens for prompt in every.prompts] == [3, 3, 3]
    assert every.source["repeated"] == 0
    assert every.source["sha256"] == hashlib.sha256((tmp_path / "d.jsonl").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", "d.jsonl:1: not JSON"),
        ('{"text": "a"}', "d.jsonl:1: .*Name the keys"),
        ('{"prompt": "a", "output_tokens": 1}\n[1]', "d.jsonl:2: is a list, expected a JSON object"),
        ('"only a text"', "d.jsonl:1: is a text"),
        ('{"prompt": "a", "output_tokens": "12"}', "d.jsonl:1: 'output_tokens' is '12', expected a whole number"),
        ('{"prompt": "a", "output_tokens": true}', "'output_tokens' is True"),
        ('{"prompt": "a", "output_tokens": -1}', "'output_tokens' is -1"),
        ('{"prompt": 7}', "d.jsonl:1: 'prompt' is a number, expected a text"),
        ('{"messages": {}}', "d.jsonl:1: 'messages' is an empty object"),
        ('{"messages": ["hi"]}', "d.jsonl:1: 'messages', message 0"),
        ('{"prompt": "half \\ud83d", "output_tokens": 1}', "d.jsonl:1: 'prompt' has half a character"),
        ('{"messages": [{"role": "user", "content": "\\udc00"}]}', "d.jsonl:1: 'messages' has half a character"),
        (b'{"prompt": "a", "output_tokens": 1}\n{"prompt": "\xff"}', "d.jsonl:2: not UTF-8"),
    ],
)
def test_a_broken_line_is_named(text: str | bytes, message: str, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_bytes(text if isinstance(text, bytes) else text.encode())
    spec = {"name": "j", "kind": "jsonl", "path": "d.jsonl", "how_to_get": ""}
    with pytest.raises(UserError, match=message):
        draw_prompts(spec, tokens.load(tiny_model), 1, 0, root=tmp_path)


def test_every_shipped_set_is_valid_and_can_be_drawn(tiny_model: Path, repository: Path) -> None:
    for name in config_files.names(repository, "prompts"):
        spec = config.load_prompts(repository, name)
        if not spec.get("path") or (repository / spec["path"]).is_file():
            counts = {"warmup": 0, "window": 2, "ramp": 1, "tail": 0}
            drawn = draw(spec, tokens.load(tiny_model), counts, 0, None, repository)
            prompts = [prompt for session in drawn.sessions or [drawn.prompts] for prompt in session]
            assert encoded(tiny_model, Drawn(prompts, {})) == [prompt.prompt_tokens for prompt in prompts]
