"""What one event of a completion says: its text, its counts, its end, or that the server failed.

Servers and the proxies before them differ in where they put each of these; docs/instrument.md says what counts as a
token. Everything here reads one event that was decoded from JSON, and keeps nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

# Every other finish reason is a failure: abort, error, cancelled, timeout, content_filter, ...
_BY_LENGTH = ("length", "max_tokens", "max_length", "max_new_tokens", "model_length")
_BY_STOP = ("stop", "eos", "eos_token", "end_turn", "stop_sequence", "stop_token", "stop_word", "complete", "completed")
_BY_CALL = ("tool_calls", "tool_call", "tool_use", "function_call")
_ENDS_WELL = frozenset((*_BY_LENGTH, *_BY_STOP, *_BY_CALL, "done", "finished"))
_NOT_ENDED = frozenset(("", "none", "null", "not_finished"))
_MOST_TOKENS = 1 << 31
# In the names of events, in statuses and in codes, such as gRPC's.
_FAILED = re.compile(
    "error|fail|exception|fatal|abort|cancel|internal|unavailable|exhausted|exceeded|timeout|denied|overload", re.I
)
_FAILED_KEY = re.compile("error|exception", re.I)
_OTHER_WORDS = ("error_message", "errorMessage", "error_msg", "exception")
_CODES = ("code", "status_code", "statusCode", "error_code", "errorCode", "status", "type", "object")


class Piece(NamedTuple):
    """Text of one event: what was reasoned, what was answered, and the opening of a tool call, which is no token."""

    reasoning: str = ""
    answer: str = ""
    opening: str = ""
    opens: bool = False  # the event merely opens a message
    tokens: int | None = None  # where it lists its tokens

    @property
    def text(self) -> str:
        return self.reasoning + self.answer


class Counts(NamedTuple):
    """Numbers of tokens as far as an event tells."""

    output: int | None
    prompt: int | None
    cached: int | None


# The events of nearly every stream, which are many: one text in one of four places, and nothing else that matters. What
# is of another shape does not fit, and is decoded as a whole.


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: None = None
    function_call: None = None
    refusal: None = None
    thinking: None = None
    error: None = None


class _Choice(msgspec.Struct, gc=False):
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: None = None
    usage: None = None
    error: None = None
    logprobs: None = None
    token_ids: None = None


class _Common(msgspec.Struct, gc=False):
    choices: tuple[_Choice]
    usage: None = None
    error: None = None
    errors: None = None


decode_common = msgspec.json.Decoder(_Common).decode
"""Decodes an event that holds a text and nothing else. ValueError for any other: it is decoded as a whole."""


def decode(data: bytes) -> Any:
    """A JSON text as servers write it. ValueError, or RecursionError, where it is none.

    As the event-stream format has it, bytes that are not UTF-8 stand for a character that cannot be shown: half of one,
    where a server cuts its text between two tokens. Control characters inside a text are left in.
    """
    return json.loads(data.decode("utf-8-sig", "replace"), strict=False)


def choices_of(event: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The choices of an event, one as a rule. TypeError for anything that cannot be choices."""
    choices = event.get("choices") or []
    choices = [choices] if isinstance(choices, dict) else choices
    choices = [choice for choice in choices if choice is not None] if isinstance(choices, list) else choices
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise TypeError("its choices are no list of objects")
    return choices


def piece_of(choice: Mapping[str, Any]) -> Piece:
    """Text of a choice: a completion's `text`, or a chat's `delta` (`message` in a whole answer)."""
    answer = _words(choice.get("text"))
    delta = choice.get("delta")
    if delta is None:  # some send the whole message so far beside an empty delta
        delta = choice.get("message") or {}
    if not isinstance(delta, dict):
        raise TypeError(f"its delta is {type(delta).__name__}")
    reasoning = ""
    for key in ("reasoning_content", "reasoning", "thinking", "reasoning_details", "thinking_blocks"):
        if reasoning := _words(delta.get(key)):  # the same text under two names is one text
            break
    content = delta.get("content")
    if isinstance(content, list | dict):
        thought, content = _parts(content)
        reasoning = reasoning or thought
    answer += _words(content) + _words(delta.get("refusal"))
    called, opening = _calls(delta)
    opens = ("role" in delta or not delta) and "text" not in choice
    return Piece(reasoning, answer + called, opening, opens, _listed(choice))


def _parts(content: list[Any] | dict[str, Any]) -> tuple[str, str]:
    """Reasoning and answer of content that is a part, or a list of parts."""
    reasoning = answer = ""
    for part in content if isinstance(content, list) else [content]:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("thinking", "reasoning", "reasoning_content", "redacted_thinking"):
            reasoning += _words(part)
        else:
            answer += _words(part)
    return reasoning, answer


def _words(value: Any) -> str:
    """Text in a value: itself, or that of its parts. TypeError for what has none by its kind."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(map(_words, value))
    if isinstance(value, dict):
        for key in ("text", "thinking", "reasoning", "content", "value", "refusal", "summary"):
            if value.get(key):
                return _words(value[key])
        return ""
    raise TypeError(f"text is {type(value).__name__}")


def _calls(delta: Mapping[str, Any]) -> tuple[str, str]:
    """Name and arguments of the tool calls in a delta; a name without arguments is only the opening of one."""
    calls = delta.get("tool_calls") or []
    calls = [call for call in (calls if isinstance(calls, list) else [calls]) if call is not None]
    if delta.get("function_call"):
        calls.append({"function": delta["function_call"]})
    called = opening = ""
    for call in calls:
        function = call.get("function") or call.get("custom") or {}
        name, arguments = _words(function.get("name")), function.get("arguments") or function.get("input")
        if arguments and not isinstance(arguments, str):
            arguments = json.dumps(arguments, sort_keys=True)
        if arguments:
            called += name + arguments
        else:
            opening += name
    return called, opening


def _listed(choice: Mapping[str, Any]) -> int | None:
    """Tokens of an event that lists them, because it was asked for token ids or log probabilities; else None."""
    logprobs = choice.get("logprobs")
    lists = [choice.get("token_ids")]
    if isinstance(logprobs, dict):
        lists += [logprobs.get("content"), logprobs.get("tokens")]
    return next((len(found) for found in lists if isinstance(found, list) and found), None)


def finish_of(choice: Mapping[str, Any]) -> str | None:
    """Why the server ended the choice, in its own word; None where it has not ended."""
    finish = choice.get("finish_reason")
    if isinstance(finish, dict):  # {"type": "length", "length": 16}
        finish = finish.get("type")
    if finish is not None and not isinstance(finish, str):
        raise TypeError(f"its finish reason is {type(finish).__name__}")
    return None if finish is None or finish.lower() in _NOT_ENDED else finish


def finish_words(choice: Mapping[str, Any]) -> str:
    """What the server says of its finish reason, as in {"type": "abort", "message": ...}; empty where it does not."""
    finish = choice.get("finish_reason")
    return error_words(finish["message"]) if isinstance(finish, dict) and finish.get("message") else ""


def ends_well(finish: str) -> bool:
    """True for an end by length, by stop or by a tool call."""
    return finish.lower() in _ENDS_WELL


def counts_of(event: Mapping[str, Any]) -> Counts:
    """Numbers of tokens in `usage`, wherever a server puts it, or in llama.cpp's `timings`."""
    found: list[Mapping[str, Any]] = []
    vendor, choices = event.get("x_groq"), event.get("choices")
    holders = [event, vendor, choices[0] if isinstance(choices, list) and choices else None]
    for holder in holders:
        usage = holder.get("usage") if isinstance(holder, dict) else None
        if isinstance(usage, dict):
            found.append(usage)
    usage = found[0] if found else {}
    details, timings = usage.get("prompt_tokens_details"), event.get("timings")
    cached = [details.get("cached_tokens")] if isinstance(details, dict) else []
    cached += [usage.get(key) for key in ("prompt_cache_hit_tokens", "cached_tokens", "cache_read_input_tokens")]
    cached += [timings.get("cache_n")] if isinstance(timings, dict) else []
    return Counts(
        _first_count(usage.get("completion_tokens"), usage.get("output_tokens")),
        _first_count(usage.get("prompt_tokens"), usage.get("input_tokens")),
        _first_count(*cached),
    )


def _first_count(*values: Any) -> int | None:
    """The first of `values` that is a number of tokens (as int, float or text) that fits the table (int32)."""
    for value in values:
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                continue
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and 0 <= value < _MOST_TOKENS and value == int(value):
            return int(value)
    return None


def error_of(event: Mapping[str, Any]) -> str | None:
    """The words of an event that says that the server failed; None for any other."""
    for key in ("error", "errors"):
        if event.get(key):
            return error_words(event[key])
    choices = event.get("choices")
    if choices:
        return next((words for one in choices if isinstance(one, dict) and (words := _broken(one))), None)
    if event.get("usage"):  # the counts at the end
        return None
    for key, value in event.items():
        # error_message, exception, ...: their words, not their number or code
        if value and not isinstance(value, int | float) and key not in _CODES and _FAILED_KEY.search(key):
            return error_words(event)
    if event.get("detail") or event.get("success") is False or any(_bad_code(event.get(key)) for key in _CODES):
        return error_words(event)
    return None


def _broken(choice: Mapping[str, Any]) -> str | None:
    """The words of a choice that holds an error, or whose delta does; None for any other."""
    for holder in (choice, choice.get("delta"), choice.get("message")):
        if isinstance(holder, dict) and holder.get("error"):
            return error_words(holder["error"])
    return None


def says_failed(text: str) -> bool:
    """True for the name of an event, a status or a code, in words, that tells of a failure."""
    return _FAILED.search(text) is not None


def _bad_code(code: Any) -> bool:
    """True for a code of failure: a number from 400 on, as HTTP's, or below 0; or a word that tells of one."""
    try:
        number = int(code)
    except (TypeError, ValueError, OverflowError):
        return isinstance(code, str) and says_failed(code)
    return number < 0 or number >= 400


def error_words(error: Any) -> str:
    """A server's own words in an error of any shape."""
    if isinstance(error, dict):
        for key in ("message", "msg", "detail", "error", "errors", "description", "reason", "text", *_OTHER_WORDS):
            if error.get(key):
                return error_words(error[key])
        return json.dumps(error, ensure_ascii=False)
    if isinstance(error, list):
        return "; ".join(map(error_words, error))
    return str(error)


def json_objects(value: Any) -> Iterator[Mapping[str, Any]]:
    """The objects of a whole document: itself, or those of a list. TypeError for anything else."""
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, dict):
            raise TypeError(f"it is {type(item).__name__}")
        yield item
