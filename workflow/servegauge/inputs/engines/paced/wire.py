"""The bytes that the paced server sends, built once: HTTP heads, chunked framing, server-sent events, JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from typing import Any

TOKEN = " tok"  # the text of every token
_SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def http_reply(status: int, body: Any, content_type: str = "application/json") -> bytes:
    """A whole HTTP response; `body` is JSON data, or text for other content types."""
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: {content_type}\r\nContent-Length: {len(data)}"
    )
    return head.encode() + b"\r\n\r\n" + data


def framed(data: bytes) -> bytes:
    """`data` as one HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(data: Any) -> bytes:
    """One server-sent event with JSON data."""
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


@dataclass(frozen=True)
class Wire:
    """The prebuilt bytes of one endpoint at one chunk size."""

    chat: bool
    tokens_per_chunk: int
    head: bytes
    chunk: bytes
    garbage: bytes

    @classmethod
    @cache
    def of(cls, chat: bool, tokens_per_chunk: int) -> Wire:
        chunk = framed(event(_chunk(chat, TOKEN * tokens_per_chunk, None)))
        return cls(chat, tokens_per_chunk, _SSE_HEAD, chunk, framed(b'data: {"choices": [\n\n'))

    def end(self, tokens: int, usage: tuple[int, int, int] | None) -> bytes:
        """The last chunk (with `tokens` tokens), the usage event if asked, `[DONE]`, and the end of the response."""
        events = event(_chunk(self.chat, TOKEN * tokens, "length"))
        if usage is not None:
            events += event({**_base(self.chat), "choices": [], "usage": _usage(*usage)})
        return framed(events) + framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"

    def whole(self, tokens: int, prompt_tokens: int, cached_tokens: int) -> bytes:
        """A whole non-streaming response."""
        text = TOKEN * tokens
        part = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        choice = {"index": 0, **part, "finish_reason": "length"}
        return http_reply(
            200, {**_base(self.chat), "choices": [choice], "usage": _usage(prompt_tokens, tokens, cached_tokens)}
        )


def _base(chat: bool) -> dict[str, Any]:
    kind = "chat.completion.chunk" if chat else "text_completion"
    return {"id": "cmpl-paced", "object": kind, "created": 1, "model": "paced"}


def _chunk(chat: bool, text: str, finish: str | None) -> dict[str, Any]:
    part = {"delta": {"content": text}} if chat else {"text": text, "logprobs": None}
    return {**_base(chat), "choices": [{"index": 0, **part, "finish_reason": finish}]}


def _usage(prompt_tokens: int, tokens: int, cached_tokens: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": tokens,
        "total_tokens": prompt_tokens + tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }
