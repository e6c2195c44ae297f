"""Bytes split and merged anywhere: what is read, when each event was complete, and where a response ends."""

from __future__ import annotations

import gzip
import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servegauge.instrument.answers import understand
from servegauge.instrument.completion_events import decode
from servegauge.instrument.http_stream import Framing, MalformedResponse, read_message, sse_events
from servegauge.instrument.token_counts import count

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def framed(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)


def event(text: str, finish: str | None = None, **more: object) -> bytes:
    data = {"choices": [{"index": 0, "text": text, "finish_reason": finish}], **more}
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


def usage(tokens: int, cached: int | None = None) -> bytes:
    details = {} if cached is None else {"prompt_tokens_details": {"cached_tokens": cached}}
    data = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": tokens, **details}}
    return b"data: " + json.dumps(data).encode() + b"\n\n"


BODY = [event("Grüße"), b": a comment\n\n", event(" 世界"), event("", "length"), usage(2, 3), b"data: [DONE]\n\n"]
RESPONSE = HEAD + framed(*BODY) + b"0\r\n\r\n"


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return [data[a:b] for a, b in pairwise(edges) if b > a]


def complete_at(reads: list[bytes]) -> list[int]:
    """Which reads complete a response on one connection."""
    framing, found = Framing(), []
    for number, data in enumerate(reads):
        framing.feed(data)
        if framing.complete:
            found.append(number)
            framing.next()
    return found


def answer_of(reads: list[bytes], closed: bool = False):
    return understand(read_message(reads, range(len(reads)), closed), len(reads))


def test_a_response_cut_at_every_position_reads_the_same():
    for cut in range(1, len(RESPONSE)):
        reads = [RESPONSE[:cut], RESPONSE[cut:]]
        assert complete_at(reads) == [1]
        answer = answer_of(reads)
        assert (answer.status, answer.text, answer.finish_reason) == ("ok", "Grüße 世界", "length")
        assert (answer.output_tokens, answer.prompt_tokens, answer.cached_tokens) == (2, 7, 3)


def test_a_chunk_is_stamped_by_the_read_that_completed_its_event():
    head, first, second = HEAD, framed(event("a")), framed(event("b"))
    rest = framed(event("", "stop"), usage(2), b"data: [DONE]\n\n") + b"0\r\n\r\n"
    answer = answer_of([head, first[:-9], first[-9:], second + rest])
    assert answer.chunks == [("a", 2), ("b", 3)]
    # The last byte of the event itself, not of the HTTP chunk around it, completes it.
    answer = answer_of([head + first[:-2], first[-2:] + second + rest])
    assert answer.chunks == [("a", 0), ("b", 1)]
    answer = answer_of([head + first[:-3], first[-3:] + second + rest])
    assert answer.chunks == [("a", 1), ("b", 1)]


@given(st.lists(st.integers(0, 10**6), max_size=40))
def test_any_split_reads_the_same_and_is_stamped_in_order(cuts):
    reads = pieces(RESPONSE, cuts)
    assert complete_at(reads) == [len(reads) - 1]
    answer = answer_of(reads)
    assert answer.text == "Grüße 世界"
    stamps = [stamp for _, stamp in answer.chunks]
    assert stamps == sorted(stamps)
    # Each event is complete exactly in the read that holds its last byte.
    ends = [RESPONSE.index(BODY[number]) + len(BODY[number]) for number in (0, 2)]
    positions, total = [], 0
    for data in reads:
        total += len(data)
        positions.append(total)
    assert stamps == [next(n for n, position in enumerate(positions) if position >= end) for end in ends]


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=6),
    st.lists(st.integers(0, 10**6), max_size=20),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
    st.booleans(),
)
@settings(max_examples=150)
def test_events_of_any_text_line_ends_and_split(texts, cuts, end, one_frame):
    events = [event(text).replace(b"\n", end) for text in texts]
    events += [b": keep-alive" + end + end, b"event: done" + end + b"data: [DONE]" + end + end]
    body = framed(b"".join(events)) if one_frame else framed(*events)
    reads = pieces(HEAD + body + b"0\r\n\r\n", cuts)
    assert complete_at(reads) == [len(reads) - 1]
    answer = answer_of(reads)
    assert [text for text, _ in answer.chunks] == texts
    assert answer.status == "ok"


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("merged", [False, True])
def test_of_a_long_stream_only_a_few_events_are_parsed_however_they_come(end, merged, monkeypatch):
    texts = [f" word{number}" for number in range(100)]
    events = [event(text).replace(b"\n", end) for text in texts]
    tail = framed(event("", "stop"), usage(100), b"data: [DONE]\n\n") + b"0\r\n\r\n"
    reads = [HEAD, framed(b"".join(events)) if merged else framed(*events), tail]
    parsed = []
    monkeypatch.setattr("servegauge.instrument.answers.decode", lambda data: parsed.append(data) or decode(data))
    answer = answer_of(reads)
    assert ([text for text, _ in answer.chunks], answer.status, answer.output_tokens) == (texts, "ok", 100)
    assert len(parsed) < 10


def test_a_stream_whose_events_are_mostly_alike_is_still_held_to_json():
    """What looks like the others around its text, and is not JSON, ends as it would have ended alone."""
    for text in (b'a"b', b"a\\b\\xb"):
        odd = event("X").replace(b"X", text)
        reads = [HEAD, *(framed(event(f"{number}")) for number in range(5)), framed(odd) + b"0\r\n\r\n"]
        assert answer_of(reads).status == "invalid"
        assert len(answer_of(reads).chunks) == 5


@given(st.binary(max_size=300), st.lists(st.integers(0, 10**6), max_size=10))
def test_no_bytes_at_all_can_raise(data, cuts):
    reads = pieces(HEAD + framed(data) + b"0\r\n\r\n" if data else HEAD, cuts)
    assert answer_of(reads).status in ("ok", "invalid", "no_tokens", "truncated")
    noise = pieces(data, cuts)
    read_message(noise, range(len(noise)), closed=True)
    list(sse_events([(data, 1)]))


def test_json_nested_without_end_is_invalid():
    assert answer_of([HEAD, framed(b"data: " + b"[" * 100_000 + b"\n\n") + b"0\r\n\r\n"]).status == "invalid"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(
                st.sampled_from(["choices", "usage", "delta", "text", "error", "timings"]), inner, max_size=3
            )
        ),
        max_leaves=8,
    )
)
def test_no_json_at_all_can_raise(data):
    stream = HEAD + framed(b"data: " + json.dumps(data).encode() + b"\n\n") + b"0\r\n\r\n"
    body = json.dumps(data).encode()
    whole = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    for read in (stream, whole):
        answer = answer_of([read])
        assert answer.status in ("ok", "invalid", "no_tokens", "truncated")
        count(answer, None, "")
        assert answer.text_sha256 is None or len(answer.text_sha256) == 64
        for number in (answer.prompt_tokens, answer.output_tokens, answer.cached_tokens):
            assert number is None or (type(number) is int and 0 <= number < 1 << 31)
        assert isinstance(answer.finish_reason, str | None)


def test_fields_as_the_standard_has_them():
    segments = [(b"\xef\xbb\xbfdata:a\ndata: b\nid: 1\n\n:\n\nevent: x\n\ndata\n\nretry: 3\ndata:  c\n\n", 5)]
    assert list(sse_events(segments)) == [(b"a\nb", 5), (b"", 5), (b" c", 5)]


def test_a_line_end_split_between_cr_and_lf_is_one():
    segments = [(b"data: a\r", 1), (b"\n\r", 2), (b"\n", 3), (b"data: b\r\n\r\n", 4)]
    assert list(sse_events(segments)) == [(b"a", 2), (b"b", 4)]


def test_an_event_without_its_blank_line_counts_only_in_a_whole_response():
    assert list(sse_events([(b"data: a\n", 1)], complete=True)) == [(b"a", 1)]
    assert list(sse_events([(b"data: a\n", 1)], complete=False)) == []


def test_trailers_after_the_last_chunk():
    reads = [HEAD + framed(*BODY) + b"0\r\nX-Time: 3\r\n", b"X-More: 1\r\n\r\n"]
    assert complete_at(reads) == [1]
    assert answer_of(reads).status == "ok"


def test_the_next_response_of_the_same_connection_even_after_an_error():
    refused = b"HTTP/1.1 429 Too Many\r\nContent-Length: 4\r\n\r\nslow"
    framing = Framing()
    framing.feed(refused)
    assert (framing.complete, framing.status, framing.keep_alive) == (True, 429, True)
    framing.next()
    framing.feed(RESPONSE[:50])
    assert not framing.complete
    framing.feed(RESPONSE[50:])
    assert (framing.complete, framing.status) == (True, 200)


def test_interim_responses_do_not_count():
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    assert complete_at([early, RESPONSE]) == [1]
    assert answer_of([early, RESPONSE]).text == "Grüße 世界"


def test_connection_close_is_heard():
    framing = Framing()
    framing.feed(RESPONSE.replace(b"Transfer", b"Connection: close\r\nTransfer", 1))
    assert (framing.complete, framing.keep_alive) == (True, False)


def test_a_response_without_a_length_ends_with_the_connection():
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    reads = [head + BODY[0], b"".join(BODY[2:])]
    framing = Framing()
    for data in reads:
        framing.feed(data)
    assert not framing.complete
    assert framing.ends_with_connection
    assert answer_of(reads, closed=True).status == "ok"
    assert not read_message(reads, [0, 1]).complete


def test_a_server_that_closes_early_leaves_what_was_whole():
    reads = [HEAD + framed(event("a"), event("b"))[:-20]]
    message = read_message(reads, [3], closed=True)
    assert not message.complete
    assert understand(message, 9).chunks == [("a", 3)]


def test_a_stream_that_just_ends_is_truncated():
    answer = answer_of([HEAD + framed(event("a")) + b"0\r\n\r\n"])
    assert (answer.status, answer.chunks) == ("truncated", [("a", 0)])


def test_invalid_utf8_is_replaced_as_the_format_has_it_and_a_character_across_chunks_is_whole():
    broken = HEAD + framed(b'data: {"choices": [{"text": "\xff"}]}\n\n', b"data: [DONE]\n\n") + b"0\r\n\r\n"
    assert (answer_of([broken]).status, answer_of([broken]).text) == ("ok", "\ufffd")
    whole = event("世")
    middle = whole.index("世".encode()) + 1
    split = HEAD + framed(whole[:middle], whole[middle:], b"data: [DONE]\n\n") + b"0\r\n\r\n"
    assert answer_of([split]).text == "世"


def test_what_is_not_http_is_said():
    framing = Framing()
    with pytest.raises(MalformedResponse):
        framing.feed(b"220 smtp.example.org ESMTP\r\n")
    answer = answer_of([b"220 smtp.example.org ESMTP\r\n"])
    assert answer.status == "invalid"
    assert answer.error.startswith("not HTTP")


def test_an_error_answer_keeps_its_status_and_words():
    body = b'{"error": {"message": "context too long"}}'
    answer = answer_of([b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n" % len(body) + body])
    assert (answer.status, answer.http_status) == ("http_error", 400)
    assert "context too long" in answer.error


def test_an_error_inside_a_stream_is_invalid_and_said():
    stream = HEAD + framed(event("a"), b'data: {"error": {"message": "out of blocks"}}\n\n') + b"0\r\n\r\n"
    answer = answer_of([stream])
    assert answer.status == "invalid"
    assert "out of blocks" in answer.error


def test_a_body_that_is_not_a_completion_is_invalid():
    body = gzip.compress(b"{}")
    answer = answer_of([b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body])
    assert answer.status == "invalid"


def chat(delta: dict, finish: str | None = None, **more: object) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": delta, "finish_reason": finish}], **more}).encode() + b"\n\n"


def stream(*events: bytes) -> list[bytes]:
    return [HEAD, *(framed(one) for one in events), framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"]


def test_a_chat_opening_is_no_token_and_reasoning_is():
    answer = answer_of(
        stream(
            chat({"role": "assistant", "content": ""}), chat({"reasoning_content": "Hm"}), chat({"content": "Yes"}),
            chat({}, "stop"),
        )
    )  # fmt: skip
    assert answer.chunks == [("Hm", 2), ("Yes", 3)]
    assert answer.finish_reason == "stop"


def test_a_token_whose_text_is_held_back_still_has_its_stamp():
    answer = answer_of(stream(event("a"), event(""), event("é"), event("", "length"), usage(4)))
    assert [stamp for _, stamp in answer.chunks] == [1, 2, 3, 4]
    answer = answer_of(stream(event("a"), event("", "stop"), usage(1)))
    assert [stamp for _, stamp in answer.chunks] == [1]


def test_usage_in_every_chunk_counts_up():
    events = [event(text, usage={"prompt_tokens": 1, "completion_tokens": n}) for text, n in (("ab", 2), ("c", 3))]
    answer = answer_of(stream(*events))
    assert answer.counted == [2, 3]
    assert answer.output_tokens == 3


def test_cached_tokens_by_timings():
    answer = answer_of(stream(event("a", "stop", timings={"cache_n": 12})))
    assert answer.cached_tokens == 12


def test_chunks_alike_are_read_as_each_would_be_alone():
    texts = ["a", "b", "", 'c"', "d\\", "é", " ", '", "finish_reason": "stop', "end"]
    events = [event(text) for text in texts]
    events.insert(3, event("x", None, usage={"prompt_tokens": 1, "completion_tokens": 4}))
    events.insert(5, event("y", "length"))
    answer = answer_of(stream(*events))
    alone = [answer_of(stream(one)).chunks for one in events]
    assert [text for text, _ in answer.chunks] == [text for chunks in alone for text, _ in chunks]
    assert answer.finish_reason == "length"
    assert answer.output_tokens == 4


def test_half_a_character_in_an_event_of_its_own_is_a_chunk_like_the_others():
    broken = event("b").replace(b'"b"', b'"\xff"')
    answer = answer_of(stream(event("a"), broken, event("c")))
    assert [text for text, _ in answer.chunks] == ["a", "\ufffd", "c"]


def test_a_text_that_is_elsewhere_too_is_not_mistaken():
    both = [chat({"content": text, "reasoning_content": "r"}) for text in "ab"]
    assert [text for text, _ in answer_of(stream(*both)).chunks] == ["ra", "rb"]
    echo = [b'data: {"prompt": {"text": "%d"}, "choices": [{"text": "%d"}]}\n\n' % (n, n) for n in range(3)]
    assert [text for text, _ in answer_of(stream(*echo)).chunks] == ["0", "1", "2"]
