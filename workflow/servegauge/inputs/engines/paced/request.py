"""What a request to the paced server asks, found in its bytes without parsing them: long prompts must cost no token."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_REQUEST_ID = re.compile(rb"\r\nx-request-id:[ \t]*([^\r\n]*)", re.IGNORECASE)
_KEY = re.compile(rb"\r\nauthorization:[ \t]*bearer[ \t]+([^\r\n]*)", re.IGNORECASE)
_TOKENS = re.compile(rb'"max_(?:completion_)?tokens":\s*(\d+)')
_STREAM = re.compile(rb'"stream":\s*true')
_USAGE = re.compile(rb'"include_usage":\s*true')
_ENDS_BYTES = 4096


def body_bytes(head: bytes) -> int:
    """Length of the body that follows this head."""
    found = _LENGTH.search(head)
    return int(found[1]) if found else 0


def api_key(head: bytes) -> bytes | None:
    """The key that the head carries."""
    found = _KEY.search(head)
    return found[1] if found else None


@dataclass(frozen=True, slots=True)
class Asked:
    """What one completion asks for. `id` is its X-Request-Id, None where it has none."""

    id: str | None
    tokens: int
    streaming: bool
    usage: bool
    prompt_tokens: int  # words: JSON of our own generator has no other spaces

    @classmethod
    def of(cls, head: bytes, body: bytes) -> Asked:
        # The fields beside a long prompt are at its ends, and searching through it would take longer than a token.
        fields = body if len(body) < 4 * _ENDS_BYTES else body[:_ENDS_BYTES] + body[-_ENDS_BYTES:]
        wanted = _TOKENS.search(fields)
        if wanted is None:
            fields, wanted = body, _TOKENS.search(body)
        name = _REQUEST_ID.search(head)
        return cls(
            name[1].decode("latin-1") if name else None,
            int(wanted[1]) if wanted else 16,
            _STREAM.search(fields) is not None,
            _USAGE.search(fields) is not None,
            body.count(b" ") + 1,
        )
