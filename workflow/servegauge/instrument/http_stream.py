"""Bytes of HTTP/1.1 responses: when one is complete, and, later, which server-sent events it held and when.

The two halves are apart on purpose. `Framing` runs while a load is measured and looks at nothing but where a response
ends. `read_message` and `sse_events` run after the window, over the raw reads and their stamps that were kept. HTTP
itself is parsed by httptools (llhttp), never by us.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import httptools

from servegauge.instrument.completion_events import says_failed

Segment = tuple[bytes, int]  # body bytes of one read, and the read's stamp in ns
MalformedResponse = httptools.HttpParserError
BOM = b"\xef\xbb\xbf"
_PADDING = b"\0" + BOM  # before a line, by proxies that fill up or join what they pass on
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS  # by its header
_GZIP_MAGIC = b"\x1f\x8b"


class Framing:
    """Where each response of one connection ends. Feed it every read; then look at `complete`.

    After a complete response, `next()` makes it ready for the one that follows on the same connection.
    `feed` raises MalformedResponse where the bytes are not HTTP.
    """

    __slots__ = ("_length_known", "_parser", "complete", "feed", "in_body", "keep_alive", "status")

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.feed = self._parser.feed_data
        self.next()

    def next(self) -> None:
        """Expect a new response."""
        self.complete = False
        self.in_body = False
        self.keep_alive = False
        self.status = 0
        self._length_known = False

    def on_header(self, name: bytes, value: bytes) -> None:
        lower = name.lower()
        if lower == b"content-length" or (lower == b"transfer-encoding" and b"chunked" in value.lower()):
            self._length_known = True

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self.in_body = True

    def on_message_complete(self) -> None:
        if self.status < 200:  # 100 Continue and 103 Early Hints come before the response itself
            self.next()
            return
        self.complete = True
        self.keep_alive = self._parser.should_keep_alive()

    @property
    def ends_with_connection(self) -> bool:
        """True in a response without a length: the server's closing ends it, and that is not an error."""
        return self.in_body and not self._length_known and not self.complete


@dataclass(slots=True)
class Message:
    """One response as it was read. `complete` is false where it was cut; `malformed` says what was wrong."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    segments: list[Segment] = field(default_factory=list)
    complete: bool = False
    malformed: str | None = None

    @property
    def body(self) -> bytes:
        return b"".join(data for data, _ in self.segments)

    @property
    def begins(self) -> bytes:
        """The first character of the body but white space and a byte order mark; empty where there is none."""
        for data, _ in self.segments:
            if text := data.removeprefix(BOM).lstrip():
                return text[:1]
        return b""

    def decompress(self) -> None:
        """Undo a content encoding; `malformed` says where that cannot be done."""
        named = (name.strip() for name in self.headers.get("content-encoding", "").lower().split(","))
        encoding = ", ".join(name for name in named if name not in ("", "identity"))
        if not encoding and b"".join(data for data, _ in self.segments[:2]).startswith(_GZIP_MAGIC):
            encoding = "gzip"
        if encoding:
            try:
                self.segments = _decoded(self.segments, encoding)
            except ValueError as error:
                self.malformed = str(error)
                self.segments = []


class _Collector:
    """httptools callbacks that gather one message. `on_body` is a list's own append, for that is called most."""

    def __init__(self) -> None:
        self.message = Message()
        self._bodies: list[bytes] = []  # of the read being fed
        self.on_body = self._bodies.append
        self._length_known = False
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, reads: Iterable[bytes], stamps: Iterable[int]) -> None:
        """Take in reads; the body bytes of each get its stamp. Raises what httptools does."""
        feed, bodies = self._parser.feed_data, self._bodies
        for data, stamp in zip(reads, stamps, strict=True):
            try:
                feed(data)
            finally:
                for body in bodies:
                    self.message.segments.append((body, stamp))
                bodies.clear()

    def on_message_begin(self) -> None:
        if not self.message.complete:
            self.message = Message()
            self._bodies.clear()
            self._length_known = False

    def on_header(self, name: bytes, value: bytes) -> None:
        key = name.decode("latin-1").lower()
        if key in ("content-length", "transfer-encoding"):
            self._length_known = True
        if not self.message.complete:
            self.message.headers.setdefault(key, value.decode("latin-1"))

    def on_headers_complete(self) -> None:
        if not self.message.complete:
            self.message.status = self._parser.get_status_code()

    def on_message_complete(self) -> None:
        if (self.message.status or 0) >= 200:
            self.message.complete = True

    def closed(self) -> None:
        """The server closed the connection: that completes a response that gave no length."""
        if self.message.status is not None and not self._length_known and self.message.malformed is None:
            self.message.complete = True


def read_message(reads: Sequence[bytes], stamps: Sequence[int], closed: bool = False) -> Message:
    """The response in `reads`, the bytes of each `read` of the socket, with the stamp of each in ns.

    `closed` says that the server closed the connection after the last of them. Never raises: bytes that are not HTTP
    give a message with `malformed` set, and what was understood before them.
    """
    collector = _Collector()
    try:
        collector.feed(reads, stamps)
    except (MalformedResponse, httptools.HttpParserUpgrade) as error:
        if not collector.message.complete:
            collector.message.malformed = f"not HTTP: {str(error) or type(error).__name__}"
    if closed:
        collector.closed()
    collector.message.decompress()
    return collector.message


class Odd(bytes):
    """Data of an event that has a name of its own; or, where `name` is None, lines that are no field of any event.

    Servers and proxies put their errors there: `event: error`, `error: {...}`, a JSON document or a page of HTML.
    """

    name: bytes | None = None

    @classmethod
    def of(cls, data: bytes, name: bytes | None) -> Odd:
        odd = cls(data)
        odd.name = name
        return odd


def sse_events(
    segments: Iterable[Segment], complete: bool = True, take: Callable[[bytes, int], bool] = lambda data, stamp: False
) -> Iterator[Segment]:
    """Data of each server-sent event with the stamp of the read that completed it, in ns.

    As the HTML standard says: lines end with LF, CRLF or CR, comments are ignored, several `data` lines of one event
    are joined by LF, an event without data does not exist. Three leniencies: where the response itself is `complete`,
    an event that lacks its blank line counts too; an event with a name, and lines that are no field, come as `Odd`.

    `take` is offered what follows `data: ` in a segment that ends with a blank line, before anything else is looked at:
    where it is one event and not several, and `take` says that it has it, it does not come.
    """
    rest = b""
    after_cr = False
    first = True
    last_stamp = 0
    for segment, stamp in segments:
        if not rest and segment[:6] == b"data: " and segment[-2:] == b"\n\n" and take(segment[6:], stamp):
            first = after_cr = False
            continue
        data = segment
        if after_cr and data[:1] == b"\n":
            data = data[1:]
        after_cr = segment[-1:] == b"\r" or (after_cr and not segment)
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        rest += data
        last_stamp = stamp
        if first and len(rest) >= len(BOM):
            first = False
            rest = rest.removeprefix(BOM)
        if b"\n\n" not in rest:
            continue
        *blocks, rest = rest.split(b"\n\n")
        for block in blocks:
            yield from _event(block, stamp)
    if complete and rest:
        yield from _event(rest, last_stamp)


def _event(block: bytes, stamp: int) -> Iterator[Segment]:
    """The event in `block` (lines up to a blank one), if it has data, and what in it belongs to no event."""
    if block[:6] == b"data: " and b"\n" not in block:
        yield block[6:], stamp
        return
    values: list[bytes] = []
    stray: list[tuple[bytes | None, bytes]] = []
    event_name = b""
    for line in block.split(b"\n"):
        name, _, value = line.lstrip(_PADDING).partition(b":")
        if name == b"data":
            values.append(value[1:] if value[:1] == b" " else value)
        elif name == b"event":
            event_name = value.strip()
        elif name == b"error":
            stray.append((b"error", value.strip()))
        elif name not in (b"", b"id", b"retry") and line.strip():
            stray.append((None, line))
    if values:
        data = b"\n".join(values)
        yield (data if event_name in (b"", b"message") else Odd.of(data, event_name)), stamp
    elif says_failed(event_name.decode("latin-1")):
        yield Odd.of(b"", event_name), stamp
    for field_name in dict.fromkeys(name for name, _ in stray):
        yield Odd.of(b"\n".join(line for name, line in stray if name == field_name), field_name), stamp


def line_events(segments: Iterable[Segment], complete: bool = True) -> Iterator[Segment]:
    """The same for events that are single lines without blank ones between: JSON lines, with `data:` before or not."""
    rest = b""
    last_stamp = 0
    for segment, stamp in segments:
        *lines, rest = (rest + segment).split(b"\n")
        last_stamp = stamp
        for line in lines:
            yield from _line(line, stamp)
    if complete:
        yield from _line(rest, last_stamp)


def _line(line: bytes, stamp: int) -> Iterator[Segment]:
    text = line.removeprefix(BOM).strip()
    if text and not text.startswith((b":", b"event:", b"id:", b"retry:")):
        yield text.removeprefix(b"data:").strip(), stamp


def _decoded(segments: list[Segment], encoding: str) -> list[Segment]:
    """Segments of a compressed body, decompressed as they came. ValueError where that cannot be done.

    Asked for is `identity`; there are proxies that compress all the same.
    """
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise ValueError(f"its body is compressed with {encoding}, which was not asked for and is not read")
    decoder = zlib.decompressobj(_GZIP_OR_ZLIB)
    found: list[Segment] = []
    for data, stamp in segments:
        text = b""
        while data:
            try:
                text += decoder.decompress(data)
            except zlib.error as error:
                if found or text or encoding != "deflate":
                    raise ValueError(f"its header names {encoding}, which its body is not: {error}") from None
                decoder, encoding = zlib.decompressobj(-zlib.MAX_WBITS), "raw deflate"  # many servers' `deflate`
                continue
            data = decoder.unused_data
            if data:  # another member follows
                decoder = zlib.decompressobj(_GZIP_OR_ZLIB)
        if text:
            found.append((text, stamp))
    return found
