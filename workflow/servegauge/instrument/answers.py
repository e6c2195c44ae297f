"""What a response holds and when it came: a stream of events, or a document, of the OpenAI-compatible API.

Responses are understood after a window; nothing here runs while a load is measured. What counts as a token stands in
docs/instrument.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from servegauge.instrument.completion_events import (
    choices_of,
    counts_of,
    decode,
    decode_common,
    ends_well,
    error_of,
    error_words,
    finish_of,
    finish_words,
    json_objects,
    piece_of,
    says_failed,
)
from servegauge.instrument.http_stream import BOM, Message, line_events, sse_events

# What reading JSON raises that is none, or of another shape than the API's, or nested without end.
_NOT_THE_API = (ValueError, TypeError, AttributeError, KeyError, IndexError, RecursionError)
_ERROR_LENGTH = 500  # characters of a server's error text that are kept
# No model makes a token in less: chunks that came closer together, on average, had been made before and were held.
AT_ONCE_NS = 20_000


@dataclass(slots=True)
class Answer:
    """What one response holds. None where it does not tell.

    `texts` and `stamps` (ns) are those of its chunks: events with tokens, see docs/instrument.md.
    """

    status: str = "ok"
    error: str | None = None
    http_status: int | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    texts: list[str] = field(default_factory=list)
    stamps: list[int] = field(default_factory=list)
    counted: list[int | None] = field(default_factory=list)  # output tokens so far, where each chunk says
    chunk_tokens: list[int] | None = None
    answered_ns: int | None = None  # the first chunk that is no reasoning
    document: bool = False  # the answer came as one JSON document, though a stream may have been asked for
    unsure: list[tuple[int, int, bool]] = field(default_factory=list)  # events without text: place, stamp, finish
    opening: tuple[str, int] | None = None  # of a tool call: its name, which has no chunk of its own
    words: str = ""  # what else came, to be quoted if the answer fails

    @property
    def chunks(self) -> list[tuple[str, int]]:
        """Text and stamp in ns of each chunk."""
        return list(zip(self.texts, self.stamps, strict=True))

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def text_sha256(self) -> str | None:
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest() if self.texts else None

    @property
    def at_once(self) -> bool:
        """True where the answer came in one piece: it is unknown when its tokens were made."""
        if self.document or not self.stamps:
            return self.document
        if len(self.stamps) == 1:
            return (self.output_tokens or 1) > 1 or len(self.texts[0].split()) > 1
        return self.stamps[-1] - self.stamps[0] < AT_ONCE_NS * (len(self.stamps) - 1)

    def fail(self, status: str, error: str) -> None:
        """The first failure stands."""
        if self.status == "ok":
            self.status, self.error = status, _writable(error[:_ERROR_LENGTH])

    @property
    def known(self) -> int | None:
        """Output tokens up to the last chunk, where it has reported them; 0 before the first."""
        if len(self.counted) < len(self.stamps):
            return None
        return self.counted[-1] if self.counted else 0

    def add(self, text: str, stamp: int, counted: int | None) -> None:
        """One chunk."""
        self.counted += [None] * (len(self.stamps) - len(self.counted))  # chunks without a number are not recorded
        if self.opening is not None:
            text, self.opening = self.opening[0] + text, None
        self.texts.append(text)
        self.stamps.append(stamp)
        self.counted.append(counted)


def understand(message: Message, end_ns: int) -> Answer:
    """What `message` says: a stream of events, or one JSON document (its text is one chunk at `end_ns`).

    The body decides which of the two it is: servers and proxies send either under any content type.
    """
    answer = Answer(http_status=message.status)
    if message.malformed is not None:
        answer.fail("invalid", message.malformed)
    if message.status is not None and not 200 <= message.status < 300:
        _refused(message, answer)
        return answer
    if message.begins in (b"{", b"[") and (document := _document(message)) is not None:
        _take_document(document, answer, end_ns)
    else:
        answer = _streamed(message, answer)
    _settle(answer)
    if answer.finish_reason is not None and not ends_well(answer.finish_reason):
        words = f": {answer.words}" if answer.words else ""
        answer.fail("invalid", f"the server ended the answer with finish reason {answer.finish_reason!r}{words}")
    if answer.status == "ok" and message.complete and not answer.stamps:
        if answer.words:
            answer.fail("invalid", f"the answer is no completion: {answer.words}")
        answer.fail("no_tokens", "the answer was complete and held no token")
    return answer


def _refused(message: Message, answer: Answer) -> None:
    words = message.body.decode("utf-8", "replace").strip()
    place = message.headers.get("location")
    later = message.headers.get("retry-after") or message.headers.get("retry-after-ms")
    if message.status == 429 and later is not None:
        answer.fail("rate_limited", f"HTTP 429, Retry-After {later}: {words}")
    elif place is not None and message.status is not None and message.status < 400:
        answer.fail("http_error", f"HTTP {message.status}: moved to {place}; give that address as the base URL")
    else:
        answer.fail("http_error", f"HTTP {message.status}: {words}")


def _document(message: Message) -> Any:
    """The whole body from JSON; None where it is not one JSON text."""
    try:
        return decode(message.body)
    except (ValueError, RecursionError):
        return None


def _take_document(document: Any, answer: Answer, end_ns: int) -> None:
    answer.document = True
    try:
        for item in json_objects(document):
            _take_event(item, end_ns, answer)
            answer.words = answer.words or json.dumps(item, ensure_ascii=False)[:_ERROR_LENGTH]
    except _NOT_THE_API as error:
        shown = str(document)[:_ERROR_LENGTH]
        answer.fail("invalid", f"the answer is not JSON of a completion ({error}): {shown}")


def _streamed(message: Message, answer: Answer) -> Answer:
    """`answer` with the events of a stream taken in."""
    blank = replace(answer, texts=[], stamps=[], counted=[], unsure=[])
    alone = message.begins not in (b"{", b"[") or b"\ndata:" in message.body
    take = _taker(answer)
    done = alone and _take_events(sse_events(message.segments, message.complete, take), answer, take)
    if done is None or not alone:  # several events between two blank lines
        answer, alone = blank, False
        done = _take_events(line_events(message.segments, message.complete), answer, _taker(answer), alone)
    if message.complete and not done and answer.finish_reason is None and answer.stamps:
        words = f"; it wrote: {answer.words}" if answer.words else ""
        answer.fail("truncated", f"the stream ended without a finish reason and without [DONE]{words}")
    return answer


def _taker(answer: Answer) -> Callable[[bytes, int], bool]:
    """A function that takes the data of an event that holds a text and nothing else, and says whether it was one.

    Nearly all events are that, so no more is done for them than must be. White space around the JSON is no matter.
    """
    add_text, add_stamp = answer.texts.append, answer.stamps.append

    def take(data: bytes, stamp: int) -> bool:
        try:
            (choice,) = decode_common(data).choices
        except ValueError:  # msgspec's errors, and bytes that are not UTF-8
            return False
        delta = choice.delta
        is_answer = True
        if delta is None:
            text = choice.text
        else:
            text = delta.content
            reasoning = delta.reasoning_content or delta.reasoning
            if choice.text or (reasoning and text):
                return False
            if reasoning:
                text, is_answer = reasoning, False
        if not text or answer.opening is not None:
            return False
        add_text(text)
        add_stamp(stamp)
        if is_answer and answer.answered_ns is None:
            answer.answered_ns = stamp
        return True

    return take


def _take_events(
    events: Iterable[tuple[bytes, int]], answer: Answer, take: Callable[[bytes, int], bool], alone: bool = True
) -> bool | None:
    """Take all `events` into `answer`; true if [DONE] was among them, None if one of them is several."""
    done = False
    for data, stamp in events:
        if data != b"[DONE]" and take(data, stamp):
            continue
        data, name = _unwrapped(data), getattr(data, "name", b"")
        if data.strip(b'"').upper() == b"[DONE]":
            done = True
            continue
        if alone and name == b"" and b"\n{" in data:
            try:
                decode(data)
            except (ValueError, RecursionError):
                return None
        _take_data(data, name, stamp, answer)
    return done


def _unwrapped(data: bytes) -> bytes:
    """Data without what some proxies put before a server's own: another `data:`, a byte order mark."""
    text = data.strip().removeprefix(BOM)
    while text.startswith(b"data:"):
        text = text[5:].strip().removeprefix(BOM)
    return text


def _take_data(data: bytes, name: bytes | None, stamp: int, answer: Answer) -> None:
    """Take the data of any event. Of an event with a name, and of lines that are none, only an error counts."""
    if not data and not name:  # a heartbeat
        return
    failed = name is not None and says_failed(name.decode("latin-1"))
    event, mistake = None, ""
    try:
        event = decode(data)
    except _NOT_THE_API as error:
        mistake = str(error)
    shown = data[:_ERROR_LENGTH].decode("utf-8", "replace")
    if failed:
        answer.fail("invalid", f"the server wrote in the stream: {error_words(event) if event else shown or 'error'}")
        return
    if event is None and not mistake:  # None
        return
    try:
        if mistake:
            raise ValueError(mistake)
        _take_event(event, stamp, answer)
    except _NOT_THE_API as error:
        if name == b"":
            answer.fail("invalid", f"an event is not JSON of a completion ({error}): {shown}")
        else:
            answer.words = answer.words or shown


def _take_event(event: Any, stamp: int, answer: Answer) -> None:
    """Take one event, or a whole document, into `answer`."""
    words = error_of(event)
    if words is not None:
        answer.fail("invalid", f"the server wrote in the stream: {words}")
        return
    counts = counts_of(event)
    if counts.output is not None:
        answer.output_tokens = counts.output
    if counts.prompt is not None:
        answer.prompt_tokens = counts.prompt
    if counts.cached is not None:
        answer.cached_tokens = counts.cached
    choices = choices_of(event)
    if not choices:
        if isinstance(event.get("message"), str):
            answer.words = answer.words or event["message"]
        return
    pieces = [piece_of(choice) for choice in choices]
    finishes = [(found, choice) for choice in choices if (found := finish_of(choice)) is not None]
    for finish, choice in finishes:
        if answer.finish_reason is None or not ends_well(finish):  # one of several choices that failed fails them all
            answer.finish_reason = _writable(finish)
            answer.words = answer.words or finish_words(choice)
    known = answer.known
    counted, listed = counts.output, pieces[0].tokens
    if counted is None and listed is not None and known is not None:
        counted = known + listed
    opening = "".join(piece.opening for piece in pieces)
    if opening:
        answer.opening = ((answer.opening[0] if answer.opening else "") + opening, stamp)
    text = "".join(piece.text for piece in pieces)
    if text and not counted:  # none beside a text is no count
        counted = None
    if text or (counted is not None and known is not None and counted > known):
        answer.add(text, stamp, counted)
        if answer.answered_ns is None and any(piece.answer for piece in pieces):
            answer.answered_ns = stamp
    elif finishes or not (opening or all(piece.opens for piece in pieces)):
        answer.unsure.append((len(answer.stamps), stamp, bool(finishes)))


def _settle(answer: Answer) -> None:
    """Events without text become chunks where the server's total says that each of them held a token.

    A token whose text is held back (half a character), or that has none (a special one), comes so. An event before the
    first text is never one of them where there is any text: heartbeats come then.
    """
    if not answer.stamps and answer.opening is not None:  # a tool call without arguments
        answer.add("", answer.opening[1], answer.output_tokens)
        answer.answered_ns = answer.stamps[0]
    answer.counted += [None] * (len(answer.stamps) - len(answer.counted))
    if answer.output_tokens is None or any(count is not None for count in answer.counted):
        return
    late = [one for one in answer.unsure if one[0] > 0 or not answer.stamps]
    inner = [one for one in late if not one[2]]
    if len(late) > len(inner) + 1:  # several choices have ended, and an end holds a token once at most
        late = inner
    missing = answer.output_tokens - len(answer.stamps)
    chosen = inner if missing == len(inner) else late if missing == len(late) else []
    for place, stamp, _ in reversed(chosen):
        answer.texts.insert(place, "")
        answer.stamps.insert(place, stamp)
        answer.counted.insert(place, None)


def _writable(text: str) -> str:
    """`text` without the half characters that JSON allows and UTF-8 does not."""
    return text.encode("utf-8", "replace").decode()
