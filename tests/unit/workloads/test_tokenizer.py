"""Counting tokens: as a server counts them, for tokenizers with and without special tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers

from servegauge.base.errors import UserError
from servegauge.workloads import tokenizer as tokens

MESSAGES = [{"role": "user", "content": "hello there"}]


def test_a_prompt_is_counted_with_its_special_tokens_and_an_answer_without(tiny_model: Path) -> None:
    tokenizer = tokens.load(tiny_model)
    # llama.cpp and transformers count 9 for this prompt: <s> and eight pieces.
    assert tokenizer.count("hello there my good friend of mine") == 9
    assert tokenizer.count("hello there my good friend of mine", special=False) == 8
    assert tokenizer.special_tokens == 1
    assert tokenizer.count_many(["", "hello there"]) == [1, tokenizer.count("hello there")]


def test_words_are_one_token_each(tiny_model: Path, byte_level: Path) -> None:
    for folder in (tiny_model, byte_level):
        tokenizer = tokens.load(folder)
        words = tokenizer.words
        assert len(set(words)) == len(words) >= tokens.FEWEST_WORDS
        assert tokenizer.count(" ".join(words[:60])) == 60 + tokenizer.special_tokens


def test_a_file_that_truncates_does_not_shorten_a_count(byte_level: Path, tmp_path: Path) -> None:
    tokenizer = tokenizers.Tokenizer.from_file(str(byte_level / "tokenizer.json"))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert tokens.load(tmp_path).count("the " * 50) >= 50
    assert tokens.load(tmp_path).count("the") == 1


def test_chat_is_rendered_by_the_models_template(tiny_model: Path) -> None:
    text, count = tokens.load(tiny_model).chat(MESSAGES)
    assert text == "[user] hello there\n[assistant] "
    assert count == tokens.load(tiny_model).count(text)


def test_what_every_prompt_begins_with(tiny_model: Path, byte_level: Path) -> None:
    own = tokens.load(tiny_model)
    assert own.opening(chat=False) == 1, "<s>"
    first, second = (own.chat([{"role": "user", "content": word}])[0] for word in ("sea", "weather"))
    assert own.opening(chat=True) > 1, "<s> and what the template writes before the message"
    assert first.partition("sea")[0] == second.partition("weather")[0] != ""
    assert tokens.load(byte_level).opening(chat=False) == 0
    with pytest.raises(UserError, match="no chat template"):
        tokens.load(byte_level).opening(chat=True)


def test_a_template_that_writes_the_first_token_gets_no_second_one(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").symlink_to(tiny_model / "tokenizer.json")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": {"content": "<s>"}}))
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[0]['content'] }}")
    text, count = tokens.load(tmp_path).chat(MESSAGES)
    assert text == "<s>hello there"
    assert count == tokens.load(tiny_model).count(text, special=False)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages.__class__.__mro__ }}", "chat template"),  # the sandbox refuses
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% if %}", "chat template"),
    ],
)
def test_a_template_that_fails_is_a_message(tiny_model: Path, tmp_path: Path, template: str, message: str) -> None:
    (tmp_path / "tokenizer.json").symlink_to(tiny_model / "tokenizer.json")
    (tmp_path / "chat_template.jinja").write_text(template)
    with pytest.raises(UserError, match=message):
        tokens.load(tmp_path).chat(MESSAGES)


def test_no_template_is_a_message(byte_level: Path) -> None:
    with pytest.raises(UserError, match="no chat template"):
        tokens.load(byte_level).chat(MESSAGES)


def test_missing_and_broken_files_are_messages(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no .*tokenizer\.json"):
        tokens.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="not a tokenizer"):
        tokens.load(tmp_path)


def test_a_vocabulary_without_words_is_a_message(tmp_path: Path) -> None:
    tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1}, "a")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="too few"):
        _ = tokens.load(tmp_path).words


def model_with(template: str, tiny_model: Path, folder: Path) -> tokens.Tokenizer:
    """The tiny model's tokenizer with another chat template."""
    (folder / "tokenizer.json").symlink_to(tiny_model / "tokenizer.json")
    configuration = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(configuration))
    return tokens.load(folder)


LOOP = "{% for m in messages %}"
TWO = [*MESSAGES, {"role": "assistant", "content": "hi"}]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ strftime_now('%d %b %Y') }} {{ messages[0].content }}", "26 Jul 2024 hello there"),
        (LOOP + "{% if loop.index > 1 %}{% break %}{% endif %}{{ m.content }}{% endfor %}", "hello there"),
        (LOOP + "{% if m.role == 'user' %}{% continue %}{% endif %}{{ m.content }}{% endfor %}", "hi"),
        (LOOP + "{% generation %}{{ m.content }};{% endgeneration %}{% endfor %}", "hello there;hi;"),
        ("{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}", "21"),
        ("{{ {'a': '<é>'} | tojson }}", '{"a": "<é>"}'),
        ("{% if tools is not none %}tools{% else %}none{% endif %}", "none"),
    ],
)
def test_templates_have_what_transformers_gives_them(
    template: str, text: str, tiny_model: Path, tmp_path: Path
) -> None:
    assert model_with(template, tiny_model, tmp_path).chat(TWO)[0] == text


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (LOOP + "{{ m.content }}{% endfor %}", "one\ntwo"),
        (LOOP + "{% for part in m.content %}<{{ part.text }}>{% endfor %}{% endfor %}", "<one><two>"),
        (LOOP + "{% set c = m['content'] %}{% for p in c %}<{{ p.text }}>{% endfor %}{% endfor %}", "<one><two>"),
        (LOOP + "{% for p in m['content'] | list %}<{{ p.text }}>{% endfor %}{% endfor %}", "<one><two>"),
    ],
)
def test_content_in_parts_is_counted_by_its_text(template: str, text: str, tiny_model: Path, tmp_path: Path) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}]
    assert model_with(template, tiny_model, tmp_path).chat(parts)[0] == text


def test_a_part_without_text_is_a_message(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = model_with(LOOP + "{{ m.content }}{% endfor %}", tiny_model, tmp_path)
    with pytest.raises(UserError, match="image_url"):
        tokenizer.chat([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])


def test_a_rendered_text_gets_no_second_first_token_from_the_server(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = model_with("{{ bos_token }}[user] {{ messages[0].content }}", tiny_model, tmp_path)
    text, count = tokenizer.chat(MESSAGES)
    sent = tokenizer.completion_text(text)
    assert (text, sent) == ("<s>[user] hello there", "[user] hello there")
    # What the server counts for the text that it is sent is what was asked.
    assert tokenizer.count(sent) == count
    assert tokenizer.completion_text("[user] hi") == "[user] hi"


def test_a_tokenizer_that_adds_nothing_is_sent_the_first_token(byte_level: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").symlink_to(byte_level / "tokenizer.json")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "the", "chat_template": "the user"}))
    assert tokens.load(tmp_path).completion_text("the user") == "the user"


def test_a_template_of_its_own_file_in_json(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").symlink_to(tiny_model / "tokenizer.json")
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "{{ messages[0].content }}"}))
    assert tokens.load(tmp_path).chat(MESSAGES)[0] == "hello there"
