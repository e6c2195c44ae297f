"""The OpenAI-compatible API: the bytes of a request, and what a response said and when.

Requests are built before a window and responses are understood after it; nothing here runs while a load is measured.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urlsplit

from servegauge.base.errors import UserError
from servegauge.instrument.http_stream import Message, sse_events

PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
# What reading JSON raises that is none, or of another shape than the API's, or nested without end.
_NOT_THE_API = (ValueError, TypeError, AttributeError, KeyError, IndexError, RecursionError)
_ERROR_LENGTH = 500  # characters of a server's error text that are kept


@dataclass(frozen=True)
class Target:
    """One server instance: where to connect, and what its requests begin with."""

    host: str
    port: int
    tls: bool
    prefix: str  # path before /v1, without a trailing slash

    @classmethod
    def of(cls, base_url: str) -> Target:
        """Parse `http[s]://host[:port][/prefix]`; a trailing `/v1` is taken off. UserError says what is wrong.

        A user or password in it is refused.
        """
        url: SplitResult = urlsplit(base_url)
        try:
            port = url.port
        except ValueError:
            port = -1
        if "@" in url.netloc:  # it would stand in records, and would not be sent: keys go in the Authorization header
            shown = f"{url.scheme}://***@{url.netloc.rpartition('@')[2]}"
            raise UserError(
                f"base URL {shown} holds a user or a password; take it out, put the server's API key into an "
                "environment variable and name that with --api-key-env"
            )
        if url.scheme not in ("http", "https") or not url.hostname or port == -1:
            raise UserError(f"base URL {base_url!r} is not http://host:port or https://host:port; correct --base-url")
        prefix = url.path.rstrip("/").removesuffix("/v1")
        tls = url.scheme == "https"
        return cls(url.hostname, port or (443 if tls else 80), tls, prefix)

    @property
    def host_header(self) -> str:
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == (443 if self.tls else 80) else f"{name}:{self.port}"


def request_bytes(target: Target, endpoint: str, body: Mapping[str, Any], api_key: str, request_id: str) -> bytes:
    """A whole POST request; `endpoint` is a key of PATHS."""
    data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    lines = [
        f"POST {target.prefix}{PATHS[endpoint]} HTTP/1.1",
        f"Host: {target.host_header}",
        "User-Agent: servegauge",
        "Content-Type: application/json",
        f"Accept: {'text/event-stream' if body.get('stream') else 'application/json'}",
        f"X-Request-Id: {request_id}",
        f"Content-Length: {len(data)}",
    ]
    if api_key:
        lines.append(f"Authorization: Bearer {api_key}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + data


def get_bytes(target: Target, path: str, api_key: str) -> bytes:
    """A whole GET request, used to warm a connection."""
    key = f"Authorization: Bearer {api_key}\r\n" if api_key else ""
    head = f"GET {target.prefix}{path} HTTP/1.1\r\nHost: {target.host_header}\r\nUser-Agent: servegauge\r\n{key}\r\n"
    return head.encode("latin-1")


def body_of(
    prompt: str,
    messages: str | None,
    output_tokens: int,
    *,
    endpoint: str,
    model: str,
    stream: bool,
    temperature: float,
    ignore_eos: bool,
    extra: Mapping[str, Any],
) -> dict[str, Any]:
    """The JSON body of one request; `messages` is JSON of chat messages, `extra` wins over every other field.

    A null in `extra` takes the field out: some servers refuse fields that they do not know.
    """
    body: dict[str, Any] = {"model": model}
    if endpoint == "chat":
        body["messages"] = json.loads(messages) if messages else [{"role": "user", "content": prompt}]
    else:
        body["prompt"] = prompt
    body |= {"max_tokens": output_tokens, "temperature": temperature, "stream": stream}
    if ignore_eos:
        body["ignore_eos"] = True
    if stream:
        body["stream_options"] = {"include_usage": True}
    return {name: value for name, value in (body | dict(extra)).items() if value is not None}


@dataclass(slots=True)
class Answer:
    """What one response said. Null where it did not say. `chunks` holds (text, stamp in ns) of chunks with tokens."""

    status: str = "ok"
    error: str | None = None
    http_status: int | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    chunks: list[tuple[str, int]] = field(default_factory=list)
    chunk_tokens: list[int] | None = None
    counted: list[int | None] = field(default_factory=list)  # output tokens so far, where each chunk's usage says

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.chunks)

    @property
    def text_sha256(self) -> str | None:
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest() if self.chunks else None

    def fail(self, status: str, error: str) -> None:
        """The first failure stands."""
        if self.status == "ok":
            self.status, self.error = status, _writable(error[:_ERROR_LENGTH])


def understand(message: Message, end_ns: int) -> Answer:
    """What `message` says: a stream of events, or one JSON document (its text is one chunk at `end_ns`)."""
    answer = Answer(http_status=message.status)
    if message.malformed is not None:
        answer.fail("invalid", f"not HTTP: {message.malformed}")
    if message.status is not None and not 200 <= message.status < 300:
        answer.fail("http_error", f"HTTP {message.status}: {message.body.decode('utf-8', 'replace').strip()}")
        return answer
    if message.is_event_stream:
        _understand_stream(message, answer)
    elif message.complete:
        _understand_document(message, answer, end_ns)
    if answer.status == "ok" and message.complete and not answer.chunks:
        answer.fail("no_tokens", "the answer was complete and held no token")
    return answer


def _understand_stream(message: Message, answer: Answer) -> None:
    done = False
    held: tuple[str, int] | None = None
    mould = Mould()
    for data, stamp in sse_events(message.segments, message.complete, mould.text):
        # An event that shared its read with others was not asked about yet.
        text = data if isinstance(data, str) else mould.text(b"data: %b\n\n" % data)
        if text is not None:
            answer.chunks.append((text, stamp))
            answer.counted.append(None)
            continue
        if data == b"[DONE]":
            done = True
            continue
        try:
            held = _take_event(json.loads(data), stamp, answer) or held
        except _NOT_THE_API as error:
            shown = data[:80].decode("utf-8", "replace")
            answer.fail("invalid", f"an event is not JSON of a completion ({error}): {shown}")
        else:
            mould.learn(data)
    # A last token without text of its own (held back, or a special one) arrives with the finish reason.
    if held is not None and answer.output_tokens == len(answer.chunks) + 1:
        answer.chunks.append(held)
        answer.counted.append(answer.output_tokens)
    if message.complete and not done and answer.finish_reason is None and answer.chunks:
        answer.fail("truncated", "the stream ended without a finish reason and without [DONE]")


class Mould:
    """The bytes around the text of a stream's chunks, which are mostly the same from one chunk to the next.

    Parsing JSON is most of the work after a window. Where an event differs from one that was parsed only in a plain
    string, and that string was shown to be the chunk's text and nothing else, the text is taken from between the same
    bytes. Everything else is parsed.
    """

    __slots__ = ("_before", "_behind", "_left", "_misses", "_shortest", "_start", "_stop")
    _PROBE = "\u2042 probe"
    _NOT_PLAIN = re.compile(rb'["\\\x00-\x1f]')

    def __init__(self) -> None:
        self._left = 8  # moulds to try; a stream whose chunks always differ is not worth more
        self._misses = 0
        self._shortest = 1 << 62
        self._before = self._behind = b""
        self._start = self._stop = 0

    def text(self, event: bytes) -> str | None:
        """The text of a whole `event`, from `data: ` to the blank line, if it fits the mould, else null."""
        if len(event) >= self._shortest and event.startswith(self._before) and event.endswith(self._behind):
            literal = event[self._start : self._stop]
            if not self._NOT_PLAIN.search(literal):
                try:
                    text = literal.decode()
                except UnicodeDecodeError:
                    return None
                self._misses = 0
                return text
        return None

    def learn(self, data: bytes) -> None:
        """Take the mould of an event's data that was parsed and holds nothing but a text, if it is one."""
        self._misses += 1
        if not self._left or self._misses < 2:  # one alone is a stream's first or last
            return
        if b"\n" in data or self._PROBE.encode() in data:
            return
        for key in (b'"text":', b'"content":'):
            start = data.find(b'"', data.find(key) + len(key)) + 1
            end = data.find(b'"', start)
            if key not in data or start <= 0 or end <= start or b"\\" in data[start:end]:
                continue
            before, behind = data[:start], data[end:]
            answer = Answer()
            try:
                _take_event(json.loads(before + self._PROBE.encode() + behind), 0, answer)
            except _NOT_THE_API:
                continue
            # Only an event that does nothing but add this text may be replaced by it.
            if answer == Answer(chunks=[(self._PROBE, 0)], counted=[None]):
                self._left -= 1
                self._before, self._behind = b"data: " + before, behind + b"\n\n"
                self._start, self._stop = len(self._before), -len(self._behind)
                # An empty text is not the same to the API.
                self._shortest = len(self._before) + len(self._behind) + 1
                return


def _take_event(event: Any, stamp: int, answer: Answer) -> tuple[str, int] | None:
    """Take one event into `answer`; returns a chunk that has a finish reason and no text, which may hold a token."""
    if event.get("error"):
        answer.fail("invalid", f"the server said in the stream: {_error_text(event['error'])}")
        return None
    counted = _read_usage(event, answer)
    choices = event.get("choices")
    if not choices:
        return None
    choice = choices[0]
    finish = choice.get("finish_reason")
    if finish is not None:
        answer.finish_reason = _writable(_string(finish))
    text, opens = _text_of(choice)
    if text or (finish is None and not opens):
        answer.chunks.append((text, stamp))
        answer.counted.append(counted)
        return None
    return ("", stamp) if finish is not None else None


def _understand_document(message: Message, answer: Answer, end_ns: int) -> None:
    try:
        document = json.loads(message.body)
        choice = document["choices"][0]
        _read_usage(document, answer)
        finish = choice.get("finish_reason")
        answer.finish_reason = None if finish is None else _writable(_string(finish))
        text, _ = _text_of(choice)
    except _NOT_THE_API as error:
        shown = message.body[:80].decode("utf-8", "replace")
        answer.fail("invalid", f"the answer is not JSON of a completion ({error}): {shown}")
        return
    if text or answer.output_tokens:
        answer.chunks.append((text, end_ns))
        answer.counted.append(answer.output_tokens)


def _text_of(choice: Mapping[str, Any]) -> tuple[str, bool]:
    """Text of a choice, reasoning and tool calls included, and whether it merely opens a chat message."""
    text = choice.get("text")
    if text is not None:
        return _string(text), False
    delta = choice.get("delta") or choice.get("message") or {}
    reasoning = delta.get("reasoning_content") or delta.get("reasoning") or ""
    calls = delta.get("tool_calls")
    called = json.dumps(calls, sort_keys=True) if calls else ""
    return _string(reasoning) + _string(delta.get("content") or "") + called, "role" in delta or not delta


def _read_usage(event: Mapping[str, Any], answer: Answer) -> int | None:
    """Take over token counts from `usage`, or `timings`; returns the output tokens so far, or null."""
    usage = event.get("usage") or {}
    counted = _count(usage.get("completion_tokens"))
    if counted is not None:
        answer.output_tokens = counted
    prompt = _count(usage.get("prompt_tokens"))
    if prompt is not None:
        answer.prompt_tokens = prompt
    cached = _count((usage.get("prompt_tokens_details") or {}).get("cached_tokens"))
    if cached is None and answer.cached_tokens is None:
        cached = _count((event.get("timings") or {}).get("cache_n"))
    if cached is not None:
        answer.cached_tokens = cached
    return counted


def _writable(text: str) -> str:
    """`text` without the half characters that JSON allows and UTF-8 does not."""
    return text.encode("utf-8", "replace").decode()


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text is {type(value).__name__}")
    return value


def _count(value: Any) -> int | None:
    """A number of tokens as it fits the table (int32), or null for null."""
    if value is None:
        return None
    if type(value) is not int or not 0 <= value < 1 << 31:
        raise TypeError(f"a number of tokens is {value!r}")
    return value


def _error_text(error: Any) -> str:
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)
