"""The OpenAI-compatible API: where a request goes, and its bytes.

Requests are built before a window; nothing here runs while a load is measured. What came back is read by `answers`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, quote, urlsplit

from servegauge.base.errors import UserError
from servegauge.contract.spec import Load

PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
_NONE: Mapping[str, str] = {}
_SENT_AS_IT_IS = "/%:@!$&'()*+,;=~-._"
_PATH = re.compile(r"/[!-\"$-~]*")  # ASCII that is printed, but no space and no #
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OURS = frozenset(("host", "content-length", "transfer-encoding", "connection", "accept-encoding", "x-request-id"))


@dataclass(frozen=True)
class Target:
    """One server instance: where to connect, and what its requests begin with."""

    host: str
    port: int
    tls: bool
    prefix: str  # path before /v1, without a trailing slash
    query: str = ""  # with its question mark, at the end of every path

    @classmethod
    def of(cls, base_url: str) -> Target:
        """Parse `http[s]://host[:port][/prefix][?query]`; a trailing `/v1`, or a path of PATHS, is taken off.

        UserError says what is wrong. A user or password in it is refused.
        """
        url: SplitResult = urlsplit(base_url.strip())
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
        prefix = url.path.rstrip("/")
        for path in PATHS.values():
            prefix = prefix.removesuffix(path)
        prefix = quote(prefix.removesuffix("/v1"), safe=_SENT_AS_IT_IS)
        query = f"?{quote(url.query, safe=_SENT_AS_IT_IS + '?')}" if url.query else ""
        tls = url.scheme == "https"
        return cls(url.hostname, port or (443 if tls else 80), tls, prefix, query)

    @property
    def host_header(self) -> str:
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == (443 if self.tls else 80) else f"{name}:{self.port}"


def wrong_request(path: str | None, headers: Mapping[str, str]) -> str | None:
    """What in an endpoint's path or in headers cannot be sent, in words; None where all can."""
    if path is not None and not _PATH.fullmatch(path):
        return f"the endpoint's path is {path!r}; it must begin with / and hold neither spaces nor a fragment (#)"
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            return f"the header name {name!r} is none; write it as in X-Name"
        if name.lower() in _OURS:
            return f"the header {name} is the load generator's own; leave it out"
        if not value.isprintable() or not value.isascii():
            return f"the value of header {name} has characters that no HTTP header can carry; check it for a line break"
    return None


def request_id(cell: str, phase: str, number: int, run_id: str) -> str:
    """X-Request-Id: no other request has it, of this run or another, because servers and their logs tell by it."""
    return "-".join(part for part in (cell or "load", phase, str(number), run_id) if part)


def request_bytes(
    target: Target, path: str, body: Mapping[str, Any], api_key: str, name: str, headers: Mapping[str, str] = _NONE
) -> bytes:
    """A whole POST request to `path`, with `name` as its X-Request-Id; `headers` win over those of the same name."""
    data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    own = {
        "Host": target.host_header,
        "User-Agent": "servegauge",
        "Content-Type": "application/json",
        "Accept": "text/event-stream" if body.get("stream") else "application/json",
        "Accept-Encoding": "identity",  # a compressed stream is held back until a block of it is full
        "X-Request-Id": name,
        "Content-Length": str(len(data)),
    }
    if api_key:
        own["Authorization"] = f"Bearer {api_key}"
    replaced = {key.lower() for key in headers}
    lines = [f"{key}: {value}" for key, value in own.items() if key.lower() not in replaced]
    lines += [f"{key}: {value}" for key, value in headers.items()]
    whole_path = target.prefix + path
    query = target.query.replace("?", "&", 1) if "?" in whole_path else target.query
    return "\r\n".join([f"POST {whole_path}{query} HTTP/1.1", *lines, "", ""]).encode("latin-1") + data


def get_bytes(target: Target, path: str, api_key: str) -> bytes:
    """A whole GET request, used to warm a connection."""
    key = f"Authorization: Bearer {api_key}\r\n" if api_key else ""
    head = f"GET {target.prefix}{path} HTTP/1.1\r\nHost: {target.host_header}\r\nUser-Agent: servegauge\r\n{key}\r\n"
    return head.encode("latin-1")


def body_of(
    load: Load,
    model: str,
    prompt: str,
    messages: str | None,
    output_tokens: int,
    extra: Mapping[str, Any],
    length_field: str = "max_tokens",
) -> dict[str, Any]:
    """The JSON body of one request of `load`; `messages` is JSON of chat messages, `extra` wins over all other fields.

    A None in `extra` takes the field out: some servers refuse fields that they do not know. `length_field` is asked for
    `output_tokens`; newer chat endpoints call it `max_completion_tokens`.
    """
    body: dict[str, Any] = {"model": model}
    if load.endpoint == "chat":
        body["messages"] = json.loads(messages) if messages else [{"role": "user", "content": prompt}]
    else:
        body["prompt"] = prompt
    body |= {length_field: output_tokens, "temperature": load.temperature, "stream": load.stream}
    if load.ignore_eos:
        body["ignore_eos"] = True
    if load.stream:
        body["stream_options"] = {"include_usage": True}
    return {name: value for name, value in (body | dict(extra)).items() if value is not None}
