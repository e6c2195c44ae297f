"""Prompt sets: the texts, their true lengths in the model's own tokens, and the answer lengths asked for.

Four kinds (config/prompts/*.yaml, checked by workflow/servegauge/contract/schemas/prompts.schema.yaml):

- synthetic: random English words; every prompt has exactly the number of tokens drawn for it, special tokens included,
  as the completions endpoint counts it. Each prompt is encoded again to prove it.
- shared_prefix: the same, where request i begins with prefix number i modulo `groups`. A prefix's tokens include the
  special tokens in front; the rest of the prompt has `input_tokens` more.
- sharegpt: a JSON list of `{"conversations": [{"from", "value"}, ...]}` (or `messages` of `{"role", "content"}`). The
  prompt is the first turn, the answer's length is that of the second turn. The standard filters of the field are: at
  least 2 turns; prompt and answer at least 4 tokens; prompt at most 1024; both together at most 2048. They are written
  out in the set's `filters`; only `min_turns: 2` holds without being written.
- jsonl: one JSON object a line, with a prompt or chat messages and perhaps the answer's length.

Data sets are used in file order, never shuffled. The seed chooses at which entry a draw begins, so that repeats get
other prompts; at the end of the file it goes on at the beginning. A prompt's tokens include the special tokens, an
answer's do not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from servegauge.base.errors import UserError
from servegauge.base.files import sha256
from servegauge.workloads.chat_template import text_of_part
from servegauge.workloads.tokenizer import Tokenizer

MIN_TURNS = 2
MOST_TRIES = 50


@dataclass(frozen=True)
class Prompt:
    """One request's input: text, chat messages as JSON (None where there are none), lengths in tokens."""

    text: str
    messages: str | None
    prompt_tokens: int
    output_tokens: int
    turn: int | None = None  # of a session: its number in it, from 0
    pause_s: float | None = None  # of a session: from the answer before it until it is sent


@dataclass(frozen=True)
class Drawn:
    """Prompts in the order of their requests, and what is to be said of them (`source`: file, hash, entries used).

    Of a set of sessions, `sessions` has the prompts instead, those of each session in their order.
    """

    prompts: list[Prompt]
    source: Mapping[str, Any]
    sessions: list[list[Prompt]] | None = None


def draw_prompts(
    spec: Mapping[str, Any],
    tokenizer: Tokenizer,
    count: int,
    seed: int,
    output_tokens: int | None = None,
    root: Path = Path(),
) -> Drawn:
    """`count` prompts of the set `spec`. `output_tokens` replaces the answer length that the set would give.

    UserError where the set cannot give them: lengths below the special tokens, a data set that is missing, that is not
    the one with the given hash, or of which the filters leave nothing.
    """
    draw = np.random.default_rng(seed)
    kinds = {"synthetic": _synthetic, "shared_prefix": _shared_prefix, "sharegpt": _data_set, "jsonl": _data_set}
    if spec.get("kind") not in kinds:
        raise UserError(
            f"prompt set {spec.get('name')}: unknown kind {spec.get('kind')!r}; there are: {', '.join(kinds)}"
        )
    return kinds[spec["kind"]](spec, tokenizer, count, draw, output_tokens, root)


def lengths(spec: int | Mapping[str, Any], count: int, draw: np.random.Generator) -> np.ndarray:
    """`count` whole numbers (int64) from a length's distribution, see `$defs/length` of the schema.

    normal and lognormal have `mean` and `std` as those of the lengths themselves; what falls outside `min` to `max`
    after rounding is drawn again. UserError where that never succeeds.
    """
    if isinstance(spec, int):
        return np.full(count, spec, np.int64)
    kind = spec["distribution"]
    if kind == "constant":
        return np.full(count, spec["value"], np.int64)
    if kind == "uniform":
        return draw.integers(spec["min"], spec["max"], size=count, endpoint=True)
    if kind == "choice":
        weights = np.asarray(spec.get("weights") or [1] * len(spec["values"]), np.float64)
        return draw.choice(np.asarray(spec["values"], np.int64), size=count, p=weights / weights.sum())
    least, most = spec.get("min", 1), spec.get("max", np.inf)
    mean, std = float(spec["mean"]), float(spec["std"])
    sigma = np.sqrt(np.log1p((std / mean) ** 2))
    values = np.zeros(count, np.int64)
    missing = np.arange(count)
    for _ in range(1000):
        size = missing.size
        if kind == "normal":
            drawn = draw.normal(mean, std, size)
        else:
            drawn = draw.lognormal(np.log(mean) - sigma**2 / 2, sigma, size)
        rounded = np.rint(drawn)
        good = (rounded >= least) & (rounded <= most)
        values[missing[good]] = rounded[good].astype(np.int64)
        missing = missing[~good]
        if not missing.size:
            return values
    raise UserError(
        f"lengths with mean {mean:g} and std {std:g} hardly ever fall between {least} and {most}; correct one"
    )


# -- synthetic --------------------------------------------------------------


def _synthetic(
    spec: Mapping[str, Any], tokenizer: Tokenizer, count: int, draw: np.random.Generator, output: int | None, root: Path
) -> Drawn:
    sizes = lengths(spec["input_tokens"], count, draw)
    answers = _answers(spec, count, draw, output)
    _long_enough(spec, sizes, tokenizer.special_tokens + 1, "input_tokens")
    texts = exact_texts(tokenizer, sizes, [""] * count, draw)
    return Drawn(_prompts(texts, sizes, answers), {})


def _shared_prefix(
    spec: Mapping[str, Any], tokenizer: Tokenizer, count: int, draw: np.random.Generator, output: int | None, root: Path
) -> Drawn:
    groups, tokens = spec["prefix"]["groups"], spec["prefix"]["tokens"]
    sizes = lengths(spec["input_tokens"], count, draw)
    answers = _answers(spec, count, draw, output)
    _long_enough(spec, [tokens], tokenizer.special_tokens + 1, "prefix.tokens")
    prefixes = exact_texts(tokenizer, np.full(groups, tokens), [""] * groups, draw)
    totals = sizes + tokens
    texts = exact_texts(tokenizer, totals, [prefixes[request % groups] for request in range(count)], draw)
    return Drawn(_prompts(texts, totals, answers), {"prefix_groups": groups, "prefix_tokens": tokens})


def _prompts(
    texts: Sequence[str], sizes: Sequence[int] | np.ndarray, answers: Sequence[int] | np.ndarray
) -> list[Prompt]:
    return [
        Prompt(text, None, int(size), int(answer)) for text, size, answer in zip(texts, sizes, answers, strict=True)
    ]


def _answers(spec: Mapping[str, Any], count: int, draw: np.random.Generator, output: int | None) -> np.ndarray:
    # Drawn even if replaced: then `output_tokens` of a study changes answers and not the prompts.
    drawn = lengths(spec["output_tokens"], count, draw)
    return drawn if output is None else np.full(count, output, np.int64)


def _long_enough(spec: Mapping[str, Any], sizes: Sequence[int] | np.ndarray, least: int, key: str) -> None:
    if len(sizes) and min(sizes) < least:
        raise UserError(
            f"prompt set {spec.get('name')}: {key} gives a length of {min(sizes)}, but with the special tokens "
            f"of this model the shortest is {least}; raise it, or set `min`"
        )


def exact_texts(tokenizer: Tokenizer, sizes: np.ndarray, starts: Sequence[str], draw: np.random.Generator) -> list[str]:
    """Texts of random words, text i beginning with `starts[i]` and having exactly `sizes[i]` tokens when encoded.

    Words are chosen that are one token each; where two of them merge after all, words are added or taken from the end
    until the count is true.
    """
    words = np.asarray(tokenizer.words)
    begun = np.asarray(tokenizer.count_many(starts)) if any(starts) else np.full(len(starts), tokenizer.special_tokens)
    chosen = [
        [*([start] if start else []), *words[draw.integers(len(words), size=int(size - have))]]
        for start, size, have in zip(starts, sizes, begun, strict=True)
    ]
    texts = [" ".join(parts) for parts in chosen]
    wrong = np.arange(len(texts))
    for _ in range(MOST_TRIES):
        counts = np.asarray(tokenizer.count_many([texts[index] for index in wrong]), np.int64)
        surplus = counts - sizes[wrong]
        wrong, surplus = wrong[surplus != 0], surplus[surplus != 0]
        if not wrong.size:
            return texts
        for index, more in zip(wrong, surplus, strict=True):
            fixed = bool(starts[index])
            # One word more than the surplus is replaced, so that a pair that merges is not met again for ever.
            keep = max(fixed, len(chosen[index]) - max(int(more), 0) - 1)
            removed = len(chosen[index]) - keep
            fresh = words[draw.integers(len(words), size=max(0, removed - int(more)))]
            chosen[index] = [*chosen[index][:keep], *fresh]
            texts[index] = " ".join(chosen[index])
    raise UserError(
        f"{tokenizer.path}: no text of exactly {int(sizes[wrong[0]])} tokens was found in {MOST_TRIES} tries; use a "
        "prompt set of kind sharegpt or jsonl with this model"
    )


# -- data sets --------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One entry of a data set, before it is counted. `answer` is the recorded answer's text, if any."""

    prompt: str
    messages: list[dict[str, Any]] | None = None
    answer: str | None = None
    output_tokens: int | None = None
    turns: int | None = None


def data_set_path(spec: Mapping[str, Any], root: Path) -> Path:
    """The data set's file; UserError with how to get it where it is not on the machine or is another file."""
    text = os.path.expandvars(os.path.expanduser(spec["path"]))
    path = root / text
    how = str(spec.get("how_to_get", "")).strip()
    if not path.is_file():
        unset = " (a variable in it is not set here)" if "$" in text else ""
        raise UserError(f"prompt set {spec.get('name')}: {path} is not on this machine{unset}. How to get it: {how}")
    if not os.access(path, os.R_OK):
        raise UserError(f"prompt set {spec.get('name')}: {path} may not be read by you; ask its owner, or copy it")
    if spec.get("sha256") and (found := unchanged_sha256(path)) != spec["sha256"]:
        raise UserError(
            f"prompt set {spec.get('name')}: {path} has SHA-256 {found}, expected {spec['sha256']}. "
            f"It is another data set. How to get the right one: {how}"
        )
    return path


def jsonl_entries(path: Path, fields: Mapping[str, str] | None = None) -> list[Entry]:
    """Every line of a jsonl file that is not empty; `fields` are the keys of prompt, messages and output_tokens."""
    names = {name: name for name in ("prompt", "messages", "output_tokens")} | dict(fields or {})
    return _jsonl(path, path.stat().st_mtime_ns, tuple(sorted(names.items())))


def _data_set(
    spec: Mapping[str, Any], tokenizer: Tokenizer, count: int, draw: np.random.Generator, output: int | None, root: Path
) -> Drawn:
    path = data_set_path(spec, root)
    if spec["kind"] == "sharegpt":
        entries = _sharegpt(path, path.stat().st_mtime_ns)
    else:
        entries = jsonl_entries(path, spec.get("fields"))
    forced = lengths(spec["output_tokens"], count, draw) if "output_tokens" in spec else None
    first = int(draw.integers(len(entries))) if entries else 0
    usable: list[Prompt] = []
    looked_at = 0
    # Counted as far as needed only: a large data set takes minutes to count.
    while looked_at < len(entries) and len(usable) < count:
        entry = entries[(first + looked_at) % len(entries)]
        looked_at += 1
        if prompt := _counted(spec, entry, tokenizer, output, forced is not None):
            usable.append(prompt)
    if not usable:
        raise UserError(
            f"prompt set {spec.get('name')}: of {len(entries)} entries in {path} none is left by its filters "
            f"{dict(spec.get('filters', {}))}, or none has an answer length; set `output_tokens`, or widen the filters"
        )
    prompts = [usable[number % len(usable)] for number in range(count)]
    if output is None and forced is not None:
        prompts = [replace(prompt, output_tokens=int(size)) for prompt, size in zip(prompts, forced, strict=True)]
    source = {
        "path": spec["path"], "sha256": unchanged_sha256(path), "entries": len(entries), "first": first,
        "looked_at": looked_at, "repeated": count - len(usable),
    }  # fmt: skip
    return Drawn(prompts, source)


def _counted(
    spec: Mapping[str, Any], entry: Entry, tokenizer: Tokenizer, output: int | None, forced: bool
) -> Prompt | None:
    """The entry with its lengths; None where a filter takes it out or nobody says how long the answer is to be."""
    filters = spec.get("filters") or {}
    if entry.turns is not None and entry.turns < filters.get("min_turns", MIN_TURNS):
        return None
    if entry.messages is not None:
        rendered, prompt_tokens = tokenizer.chat(entry.messages)
        text = tokenizer.completion_text(rendered)
        messages = json.dumps(entry.messages, ensure_ascii=False)
    else:
        text, prompt_tokens, messages = entry.prompt, tokenizer.count(entry.prompt), None
    recorded = entry.output_tokens
    if recorded is None and entry.answer is not None:
        recorded = tokenizer.count(entry.answer, special=False)
    kept = filters.get("min_input_tokens", 1) <= prompt_tokens <= filters.get("max_input_tokens", np.inf)
    if recorded is not None:
        kept &= filters.get("min_output_tokens", 1) <= recorded <= filters.get("max_output_tokens", np.inf)
        kept &= prompt_tokens + recorded <= filters.get("max_total_tokens", np.inf)
    asked = output if output is not None else recorded if recorded is not None else spec.get("default_output_tokens")
    if asked is None and forced:
        asked = 1  # replaced by the set's own distribution
    return Prompt(text, messages, prompt_tokens, asked) if kept and asked else None


NO_QUESTION = ("gpt", "chatgpt", "bing", "bard", "assistant", "system", "tool")
"""Who says what is no question, in ShareGPT's `from` (or `role`)."""


def sharegpt_turns(path: Path) -> list[list[str]]:
    """The texts of every conversation in ShareGPT's format, from its first question on, up to a turn without a text."""
    found = []
    for number, turns in enumerate(_conversations(path, path.stat().st_mtime_ns)):
        texts = [_turn(turn, f"{path}: entry {number}, turn {position}") for position, turn in enumerate(turns)]
        asked = (str(turn.get("from", turn.get("role"))).lower() not in NO_QUESTION for turn in turns)
        texts = texts[next((place for place, question in enumerate(asked) if question), len(texts)) :]
        whole = texts[: texts.index(None)] if None in texts else texts
        found.append([text for text in whole if text is not None])
    return found


@lru_cache(maxsize=2)
def _sharegpt(path: Path, _mtime_ns: int) -> list[Entry]:
    """First and second turn of every conversation that has one."""
    entries = []
    for number, turns in enumerate(_conversations(path, _mtime_ns)):
        texts = [_turn(turn, f"{path}: entry {number}, turn {position}") for position, turn in enumerate(turns[:2])]
        if texts and texts[0]:
            entries.append(Entry(texts[0], answer=texts[1] if len(texts) > 1 else None, turns=len(turns)))
    return entries


# Read once in this process as long as the file stays the same: one study has many workloads of one data set.
@lru_cache(maxsize=2)
def _conversations(path: Path, _mtime_ns: int) -> list[list[Any]]:
    """The turns of every conversation, as they stand there."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, list):
        raise UserError(f"{path}: expected ShareGPT's format, a list of conversations, found {type(data).__name__}")
    found = []
    for number, item in enumerate(data):
        turns = item.get("conversations", item.get("messages")) if isinstance(item, dict) else None
        if not isinstance(turns, list):
            raise UserError(f"{path}: entry {number} has no list `conversations`")
        found.append(turns)
    return found


@lru_cache(maxsize=2)
def _jsonl(path: Path, _mtime_ns: int, names: tuple[tuple[str, str], ...]) -> list[Entry]:
    """Every line, by the keys that `names` gives."""
    fields = dict(names)
    entries = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                entries.append(_line(line, f"{path}:{number}", fields))
    return entries


def _turn(turn: Any, where: str) -> str | None:
    """The text of one turn; None where it has none. UserError for anything but an object and a text."""
    if not isinstance(turn, dict):
        raise UserError(f"{where}: is {_kind(turn)}, expected an object with `value` or `content`")
    return _text(turn.get("value", turn.get("content")), f"{where}: its text")


def _line(line: bytes, where: str, fields: Mapping[str, str]) -> Entry:
    """One line of a jsonl file; UserError says what in it is of the wrong kind."""
    try:
        item = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 text ({error.reason} at byte {error.start} of the line)") from error
    except ValueError as error:
        raise UserError(f"{where}: not JSON: {error}") from error
    if not isinstance(item, dict):
        raise UserError(f"{where}: is {_kind(item)}, expected a JSON object")
    messages = item.get(fields["messages"])
    prompt = _text(item.get(fields["prompt"]), f"{where}: {fields['prompt']!r}")
    size = item.get(fields["output_tokens"])
    if messages is None and prompt is None:
        raise UserError(
            f"{where}: has neither {fields['prompt']!r} nor {fields['messages']!r}; it has: {', '.join(item)}. "
            "Name the keys in the set's `fields`."
        )
    if messages is not None:
        _check_messages(messages, f"{where}: {fields['messages']!r}")
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 31):
        raise UserError(f"{where}: {fields['output_tokens']!r} is {size!r}, expected a whole number of tokens")
    return Entry(prompt or "", messages, output_tokens=size)


def _check_messages(messages: Any, where: str) -> None:
    """UserError unless `messages` is a list of objects with a role and a content."""
    if not isinstance(messages, list) or not messages:
        raise UserError(f"{where} is {_kind(messages)}, expected a list of messages with `role` and `content`")
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str) or "content" not in message:
            raise UserError(f"{where}, message {number}: expected an object with `role`, a text, and `content`")
        content = message["content"]
        if not isinstance(content, str | list | None):
            raise UserError(
                f"{where}, message {number}: `content` is {_kind(content)}, expected a text or a list of parts"
            )
        for part in content if isinstance(content, list) else ():
            try:
                text_of_part(part)
            except UserError as error:
                raise UserError(f"{where}, message {number}: {error}") from None
    _text(json.dumps(messages, ensure_ascii=False), where)


def _text(value: Any, where: str) -> str | None:
    """`value` if it is a text that can be sent, or None; UserError otherwise."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise UserError(f"{where} is {_kind(value)}, expected a text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where} has half a character (a lone surrogate, {value[error.start]!r}) at position {error.start}, which "
            "no request can carry; correct or remove the entry"
        ) from error
    return value


_KINDS = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}


def _kind(value: Any) -> str:
    """What a JSON value is, for a message."""
    return ("an empty " + _KINDS[type(value)].split()[1]) if value in ([], {}) else _KINDS.get(type(value), "a number")


def unchanged_sha256(path: Path) -> str:
    """SHA-256 of a file, computed once in this process as long as its size and time stay the same."""
    about = path.stat()
    return _sha256(path, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: Path, _size: int, _mtime_ns: int) -> str:
    return sha256(path)
