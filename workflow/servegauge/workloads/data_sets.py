"""Data sets that people bring: files of prompts, read whole and checked, drawn from in file order.

UserError with file, line or entry, what was found and what is expected: nothing of a broken file is sent.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from servegauge.base.errors import UserError
from servegauge.base.files import parse_json, sha256
from servegauge.contract.config_types import Prompts
from servegauge.workloads.chat_template import text_of_part

T = TypeVar("T")
E = TypeVar("E")


@dataclass(frozen=True)
class Entry:
    """One entry of a data set, before it is counted. `answer` is the recorded answer's text, if any."""

    prompt: str
    messages: list[dict[str, Any]] | None = None
    answer: str | None = None
    output_tokens: int | None = None
    turns: int | None = None


def data_set_path(spec: Prompts, root: Path) -> Path:
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


def in_file_order(
    spec: Prompts,
    path: Path,
    entries: Sequence[E],
    count: int,
    draw: np.random.Generator,
    usable: Callable[[E], T | None],
) -> tuple[list[T], dict[str, Any]]:
    """`count` of what `usable` makes of the entries, None where it takes none, and where they are from.

    The seed chooses the first one; where the usable ones are used up, they begin again.
    """
    first = int(draw.integers(len(entries))) if entries else 0
    found: list[T] = []
    looked_at = 0
    # Looked at as far as needed only: a large data set takes minutes to count.
    while looked_at < len(entries) and len(found) < count:
        one = usable(entries[(first + looked_at) % len(entries)])
        looked_at += 1
        if one:
            found.append(one)
    if not found:
        raise UserError(
            f"prompt set {spec.get('name')}: of {len(entries)} entries in {path} none is left by its filters "
            f"{dict(spec.get('filters', {}))}, or none has an answer length; widen the filters, or set `output_tokens`"
        )
    source = {
        "path": spec["path"], "sha256": unchanged_sha256(path), "entries": len(entries), "first": first,
        "looked_at": looked_at, "repeated": count - len(found),
    }  # fmt: skip
    return [found[number % len(found)] for number in range(count)], source


def fits(filters: Mapping[str, int], input_tokens: int, output_tokens: int | None) -> bool:
    """Whether lengths are within the filters of a prompt set; an answer's that is not known is not looked at."""
    sizes = {"input": input_tokens}
    if output_tokens is not None:
        sizes |= {"output": output_tokens, "total": input_tokens + output_tokens}
    return all(
        filters.get(f"min_{name}_tokens", 0) <= size <= filters.get(f"max_{name}_tokens", np.inf)
        for name, size in sizes.items()
    )


def jsonl_entries(path: Path, fields: Mapping[str, str] | None = None) -> list[Entry]:
    """Every line of a jsonl file that is not empty; `fields` are the keys of prompt, messages and output_tokens."""
    names = {name: name for name in ("prompt", "messages", "output_tokens")} | dict(fields or {})
    return _jsonl(path, path.stat().st_mtime_ns, tuple(sorted(names.items())))


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


def sharegpt_entries(path: Path) -> list[Entry]:
    """First and second turn of every conversation that has one."""
    return _sharegpt(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _sharegpt(path: Path, _mtime_ns: int) -> list[Entry]:
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
        data = parse_json(path.read_text(encoding="utf-8"))
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
    return [_entry(item, f"{path}:{number}", fields) for number, item in json_lines(path)]


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and object of every line that is not empty; UserError where one is no JSON object."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                item = parse_json(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                text = f"{where}: not UTF-8 text ({error.reason} at byte {error.start} of the line)"
                raise UserError(text) from error
            except ValueError as error:
                raise UserError(f"{where}: not JSON: {error}") from error
            if not isinstance(item, dict):
                raise UserError(f"{where}: is {_kind(item)}, expected a JSON object")
            yield number, item


def _turn(turn: Any, where: str) -> str | None:
    """The text of one turn; None where it has none. UserError for anything but an object and a text."""
    if not isinstance(turn, dict):
        raise UserError(f"{where}: is {_kind(turn)}, expected an object with `value` or `content`")
    return _text(turn.get("value", turn.get("content")), f"{where}: its text")


def _entry(item: Mapping[str, Any], where: str, fields: Mapping[str, str]) -> Entry:
    """One line of a jsonl file; UserError says what in it is of the wrong kind."""
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
