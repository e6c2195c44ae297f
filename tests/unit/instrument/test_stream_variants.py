"""One answer of four tokens, 10 ms apart, as servers and proxies of many makes would write it: the same is read."""

from __future__ import annotations

import json
import math
import zlib

import pytest

from servegauge.instrument.answers import understand
from servegauge.instrument.http_stream import read_message
from servegauge.instrument.token_counts import count
from tests.unit.instrument.test_answers import DONE, MS, at, sent, whole
from tests.unit.instrument.test_http_stream import HEAD, usage


def raw(data: object) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


def part(delta: object = None, finish: object = None, choice: dict | None = None, **more: object) -> bytes:
    """An event of a chat; `delta`: its text, or all of it."""
    delta = {"content": delta} if isinstance(delta, str) else delta or {}
    inner = {"index": 0, "delta": delta, "finish_reason": finish, **(choice or {})}
    return raw({"id": "x", "object": "chat.completion.chunk", "choices": [inner], **more})


def four(**more: object) -> list[bytes]:
    return [part(f" t{number}", **more) for number in range(4)]


def edited(old: bytes, new: bytes) -> list[bytes]:
    return [one.replace(old, new) for one in [*four(), *END]]


def lines(data: bytes, end: bytes) -> bytes:
    """An event whose data is spread over lines."""
    indented = json.dumps(json.loads(data[6:]), indent=2).encode().split(b"\n")
    return b"".join(b"data: " + line + end for line in indented) + end


def counts(number: int) -> dict[str, int]:
    return {"prompt_tokens": 7, "completion_tokens": number, "total_tokens": 7 + number}


def call(**function: object) -> bytes:
    return part({"tool_calls": [{"index": 0, "function": function}]})


ROLE = part({"role": "assistant", "content": ""})
STOP = part({}, "stop")
END = [part({}, "length"), usage(4), DONE]
FILTER = {"content_filter_results": {"hate": {"filtered": False, "severity": "safe"}}}
BROKEN_FILTER = {"content_filter_result": {"error": {"code": "content_filter_error", "message": "not filtered"}}}
GAPS = {"content_filter_offsets": {"check_offset": 44, "start_offset": 44, "end_offset": 198}}
ENDLESS = {"logprobs": {"content": [{"logprob": -math.inf}]}}
HALVES = [one.replace(b" t0", b"\xe4\xbd").replace(b" t1", b"\xa0") for one in four()]
NULLS = {"refusal": None, "audio": None, "annotations": [], "function_call": None, "tool_calls": []}

GOOD = {  # events, and how many come before the first token
    "vLLM's nulls": (
        [ROLE, *four(choice={"logprobs": None, "token_ids": None}, usage=None), part("", "length"), *END[1:]],
        1,
    ),
    "usage in every event": (
        [part({"role": "assistant"}, usage=counts(0)), *(part(" t", usage=counts(n + 1)) for n in range(4)),
         part({}, "stop", usage=counts(4)), DONE],
        1,
    ),
    "usage of 0 in every event but the last": ([*four(usage=counts(0)), part({}, "stop", usage=counts(4)), DONE], 0),
    "an empty usage in every event": ([*four(usage={}), *END], 0),
    "usage twice": ([*four(), part({}, "stop", usage=counts(4)), usage(4), DONE], 0),
    "usage with details": (
        [*four(), STOP,
         raw({"choices": [], "usage": {**counts(4), "completion_tokens_details": {"reasoning_tokens": 2}}}), DONE],
        0,
    ),
    "usage beside choices that are null": ([*four(), STOP, raw({"choices": None, "usage": counts(4)}), DONE], 0),
    "usage beside no choices": ([*four(), STOP, raw({"usage": counts(4)}), DONE], 0),
    "usage after the end": ([*four(), STOP, DONE, usage(4)], 0),
    "no end, but a reason": ([*four(), part({}, "length"), usage(4)], 0),
    "an end, but no reason": ([*four(), usage(4), DONE], 0),
    "a heartbeat after the end": ([*four(), *END, b": keep-alive\n\n"], 0),
    "the reason with the last text": ([*four()[:3], part(" t3", "length"), usage(4), DONE], 0),
    "a reason in capitals": ([*four(), part({}, "MAX_TOKENS"), usage(4), DONE], 0),
    "a reason as an object": ([*four(), part({}, {"type": "length", "length": 4}), usage(4), DONE], 0),
    "the role in every event": ([*(part({"role": "assistant", "content": " t"}) for _ in range(4)), *END], 0),
    "a delta that is null": ([part(choice={"delta": None}), *four(), part(None, "stop", {"delta": None}), *END[1:]], 1),
    "every field of OpenAI": ([*(part({"content": " t", **NULLS}, obfuscation="ab") for _ in range(4)), *END], 0),
    "Azure": (
        [raw({"choices": [], "id": "", "object": "", "prompt_filter_results": [{"prompt_index": 0, **FILTER}]}),
         part({"role": "assistant", "content": ""}, choice={"content_filter_results": {}}), *four(choice=FILTER), *END],
        2,
    ),
    "Azure, filtered later": ([*four(), raw({"choices": [{"index": 0, **FILTER, **GAPS}]}), *END], 0),
    "Azure, whose filter failed": ([*four(choice=BROKEN_FILTER), *END], 0),
    "two texts of n=2 in turn": (
        [*(raw({"choices": [{"index": n % 2, "delta": {"content": " t"}}]}) for n in range(4)), STOP, *END],
        0,
    ),
    "log probabilities, also of a special token": (
        [*(part(t, choice={"logprobs": {"content": [{"token": t}]}}) for t in (" a", "", " b", " c")), STOP, DONE], 0,
    ),
    "a log probability without end": ([*four(choice=ENDLESS), *END], 0),
    "thinking, then text": ([part({"thinking": " a", "content": ""}), part({"reasoning": " a"}), *four()[:2], *END], 0),
    "reasoning that is empty": ([*(part({"reasoning_content": "", "content": " t"}) for _ in range(4)), *END], 0),
    "arguments of a tool call": (
        [part({"role": "assistant", "content": None}), call(name="f", arguments=""),
         *(call(name=None, arguments=text) for text in ('{"a', '": ', "1", "}")), part({}, "tool_calls"), *END[1:]],
        2,
    ),
    "white space": ([*map(part, (" ", "\n", "\n\n", "\t")), *END], 0),
    "half surrogates": ([*(one.replace(b" t0", b"\\ud83d").replace(b" t1", b"\\ude00") for one in four()), *END], 0),
    "half a character an event": ([*HALVES, *END], 0),
    "control characters": (edited(b" t1", b"a\x00\tb"), 0),
    "NUL, written out": (edited(b" t1", b"\\u0000"), 0),
    "a line of a megabyte": ([part("x" * 1_000_000), *four()[:3], *END], 0),
    "lines that end with CRLF": (edited(b"\n", b"\r\n"), 0),
    "data over several lines": ([*(lines(one, b"\n") for one in four()), *END], 0),
    "data over several lines, CRLF": ([*(lines(one, b"\r\n") for one in four()), *END], 0),
    "no space after data": (edited(b"data: ", b"data:"), 0),
    "two spaces after data": (edited(b"data: ", b"data:  "), 0),
    "blank lines": ([b"\n\n" + one + b"\n" for one in [*four(), *END]], 0),
    "names of events": ([*(b"event: delta\nid: 3\n" + one for one in four()), *END, b"event: end\ndata: {}\n\n"], 0),
    "padding by comments": ([b":" + b" " * 2048 + b"\n\n", *four(), *END], 1),
    "padding by spaces": ([b" " * 2048 + b"\n\n", *four(), *END], 1),
    "padding by NUL": ([b"\0\0\n\n", *(b"\0\0" + one for one in four()), *END], 1),
    "a mark before every event": ([b"\xef\xbb\xbf" + one for one in [*four(), *END]], 0),
    "a mark in the data": (edited(b"data: ", b"data: \xef\xbb\xbf"), 0),
    "a mark in pieces": ([b"\xef", b"\xbb", b"\xbf" + four()[0], *four()[1:], *END], 2),
    "JSON lines, CRLF": ([one[6:].strip() + b"\r\n" for one in [*four(), *END[:2]]], 0),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_four_tokens_however_they_are_written(name):
    events, before = GOOD[name]
    answer = sent(*events)
    assert (answer.status, answer.error, answer.output_tokens) == ("ok", None, 4)
    assert at(answer) == [before + number for number in (1, 2, 3, 4)]
    assert (answer.chunk_tokens, answer.at_once) == ([1] * 4, False)


def test_lines_that_end_with_a_carriage_return_alone():
    assert sent(*edited(b"\n", b"\r")).output_tokens == 4


@pytest.mark.parametrize(("steps", "tokens"), [((3, 4, 6), [3, 1, 2]), ((1, 1, 4), [1, 0, 3]), ((2, 4, 5), [2, 2, 1])])
def test_tokens_of_events_that_hold_several_by_usage(steps, tokens):
    answer = sent(*(part("ab", usage=counts(n)) for n in steps), part({}, "stop", usage=counts(steps[-1])), DONE)
    assert (at(answer), answer.output_tokens, answer.chunk_tokens) == ([1, 2, 3], steps[-1], tokens)


def test_two_texts_in_one_event_are_two_tokens_of_one_chunk():
    both = raw({"choices": [{"index": n, "delta": {"content": " t"}} for n in (0, 1)]})
    answer = sent(both, both, STOP, *END)  # both texts end
    assert (at(answer), answer.output_tokens, answer.chunk_tokens) == ([1, 2], 4, [2, 2])


OUT = {"type": "abort", "message": "out of memory"}
ENDS = raw({"choices": [{"index": n, "delta": {}, "finish_reason": why} for n, why in enumerate(("stop", "abort"))]})
NO_ROOM = {"message": "no room", "type": "server_error", "code": 500}
BAD = {  # events after a token, and what of the server's words is kept
    "an end that tells why": ([part({}, OUT), DONE], "'abort': out of memory"),
    "an end, then the words": ([part({}, "error"), raw({"error": {"message": "out of memory"}})], "out of memory"),
    "the second of two texts": ([ENDS], "abort"),
    "the first of two texts": ([part({}, "abort"), STOP, DONE], "abort"),
    "Azure's filter": ([part({}, "content_filter", FILTER), DONE], "content_filter"),
    "TGI": ([raw({"error": "Request failed: no room", "error_type": "generation"})], "no room"),
    "llama.cpp": ([b"error: " + raw(NO_ROOM)[6:]], "no room"),
    "SGLang": ([raw({"error": {"object": "error", **NO_ROOM}})], "no room"),
    "vLLM": ([raw({"object": "error", **NO_ROOM}), DONE], "no room"),
    "OpenAI": ([b"event: error\n" + raw({"error": {**NO_ROOM, "code": None}})], "no room"),
    "a limit inside a stream": ([raw({"error": {"message": "slow down", "code": 429}})], "slow down"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_failure_however_it_is_written(name):
    events, words = BAD[name]
    answer = sent(part(" t"), *events)
    assert answer.status == "invalid"
    assert words in answer.error


@pytest.mark.parametrize("cut", [0, 1])
@pytest.mark.parametrize("named", [True, False])
def test_a_compressed_stream_named_or_not_in_pieces_or_not(named, cut):
    packer = zlib.compressobj(wbits=31)
    parts = [packer.compress(one) + packer.flush(zlib.Z_SYNC_FLUSH) for one in [*four(), *END]]
    head = HEAD.replace(b"Transfer", b"Content-Encoding: GZIP\r\nTransfer") if named else HEAD
    pieces = [parts[0][:1], parts[0][1:]] if cut else [parts[0]]
    answer = sent(*pieces, *parts[1:], packer.flush(), head=head)
    assert (answer.status, at(answer), answer.output_tokens) == ("ok", [cut + n for n in (1, 2, 3, 4)], 4)


@pytest.mark.parametrize("encoding", ["br", "zstd", "snappy"])
def test_a_compression_that_is_not_read_is_named(encoding):
    answer = sent(
        b"\x28\xb5\x2f\xfd", head=HEAD.replace(b"Transfer", b"Content-Encoding: %b\r\nTransfer" % encoding.encode())
    )
    assert (answer.status, encoding in answer.error) == ("invalid", True)


def test_a_server_of_http_1_0_ends_its_answer_by_closing():
    reads = [b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n", *four(), *END]
    answer = understand(read_message(reads, [10 * MS * number for number in range(len(reads))], True), 80 * MS)
    count(answer, None, "")
    assert (answer.status, at(answer), answer.output_tokens) == ("ok", [1, 2, 3, 4], 4)


@pytest.mark.parametrize(
    ("status", "more", "outcome", "words"),
    [
        ("204 No Content", "", "no_tokens", "held no token"),
        ("200 OK", "", "no_tokens", "held no token"),
        ("307 Temporary Redirect", "Location: /v2\r\n", "http_error", "/v2"),
        ("429 Too Many Requests", "Retry-After: Fri, 31 Dec 1999 23:59:59 GMT\r\n", "rate_limited", "31 Dec"),
        ("503 Busy", "Retry-After: 3\r\n", "http_error", "503"),
    ],
)
def test_answers_without_a_body(status, more, outcome, words):
    length = "" if status.startswith("204") else "Content-Length: 0\r\n"
    head = f"HTTP/1.1 {status}\r\n{length}{more}\r\n".encode()
    answer = understand(read_message([head], [1]), 1)
    assert (answer.status, words in answer.error) == (outcome, True)


def test_a_page_that_asks_to_log_in_and_an_error_that_came_as_a_stream():
    page = whole(b"<html>log in</html>", "text/html")
    assert (page.status, "log in" in page.error) == ("invalid", True)
    busy = whole(raw({"error": {"message": "no room"}}), "text/event-stream", "500 Internal Server Error")
    assert (busy.status, "no room" in busy.error) == ("http_error", True)
