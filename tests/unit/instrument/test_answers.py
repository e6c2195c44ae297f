"""What real servers and proxies send: which events are tokens, what is a failure, and in whose words."""

from __future__ import annotations

import gzip
import json
import zlib

import pytest

from servegauge.instrument.answers import Answer, understand
from servegauge.instrument.http_stream import read_message
from servegauge.instrument.token_counts import count
from tests.unit.instrument.test_http_stream import HEAD, chat, event, framed, usage

MS = 1_000_000
DONE = b"data: [DONE]\n\n"
END = [event("", "length"), usage(4), DONE]


def sent(*events: bytes, gap: int = 10 * MS, head: bytes = HEAD, body: bool = True) -> Answer:
    """The answer to a stream whose events came `gap` ns apart, the first at `gap`; counted as after a window."""
    reads = [head, *map(framed, events), b"0\r\n\r\n"]
    stamps = [number * gap for number in range(len(reads) - 1)]
    answer = understand(read_message(reads, [*stamps, stamps[-1]]), stamps[-1])
    count(answer, None, "")
    return answer


def whole(data: object, content_type: str = "application/json", status: str = "200 OK", more: str = "") -> Answer:
    """The answer to one document, which came at 300 ms."""
    text = data if isinstance(data, bytes) else json.dumps(data).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(text)}\r\n{more}\r\n".encode()
    answer = understand(read_message([head + text], [300 * MS]), 300 * MS)
    count(answer, None, "")
    return answer


def tokens(number: int) -> list[bytes]:
    return [event(f" t{index}") for index in range(number)]


def at(answer: Answer) -> list[int]:
    """Stamps of the chunks in units of the gap."""
    return [stamp // (10 * MS) for stamp in answer.stamps]


# -- what is no token --------------------


@pytest.mark.parametrize(
    "beat",
    [
        event(""),
        chat({"content": ""}),
        chat({"content": None}),
        chat({"role": "assistant", "content": ""}),
        chat({"role": "assistant", "content": "", "reasoning_content": None, "tool_calls": None}),
        chat({}),
        chat({"content": []}),
        b": PROCESSING\n\n",
        b"data:\n\n",
        b"data: \n\n",
        b"data: null\n\n",
        b'event: ping\ndata: {"type": "ping"}\n\n',
        b"event: keepalive\ndata: still here\n\n",
        b'data: {"choices": [], "prompt_filter_results": []}\n\n',
        b'data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 0}}\n\n',
        b'data: {"message": "queued", "position": 3}\n\n',
        b"retry: 100\nid: 7\n\n",
        b"\xef\xbb\xbf: a mark\n\n",
    ],
)
def test_what_comes_before_the_first_token_is_none(beat):
    answer = sent(beat, beat, *tokens(4), *END)
    assert (answer.status, answer.output_tokens, answer.chunk_tokens) == ("ok", 4, [1] * 4)
    assert at(answer) == [3, 4, 5, 6]
    assert answer.answered_ns == answer.stamps[0]


def test_an_event_whose_own_usage_grew_is_a_token_without_text():
    def held(number):
        return chat({"content": ""}, usage={"prompt_tokens": 7, "completion_tokens": number})

    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}
    events = [held(0), held(1), held(2), held(2), held(3)]
    done = [chat({"tool_calls": [call]}, usage={"completion_tokens": 4}), chat({}, "tool_calls"), usage(4), DONE]
    answer = sent(*events, *done)
    assert (at(answer), answer.output_tokens, answer.chunk_tokens) == ([2, 3, 5, 6], 4, [1, 1, 1, 1])
    assert (answer.status, answer.text) == ("ok", "f{}")
    assert answer.answered_ns == 60 * MS


def test_the_usage_of_the_last_event_is_no_token():
    answer = sent(*tokens(4), event("", "length", usage={"completion_tokens": 4, "prompt_tokens": 7}), DONE)
    assert (at(answer), answer.output_tokens) == ([1, 2, 3, 4], 4)


def test_the_opening_of_a_tool_call_is_no_token_but_part_of_the_text():
    def call(function):
        return chat({"tool_calls": [{"index": 0, "function": function}]})

    answer = sent(call({"name": "f", "arguments": ""}), call({"arguments": '{"a"'}), call({"arguments": ": 1}"}),
                  chat({}, "tool_calls"), DONE)  # fmt: skip
    assert (at(answer), answer.text, answer.status) == ([2, 3], 'f{"a": 1}', "ok")


def test_a_tool_call_without_arguments_is_an_answer():
    answer = sent(chat({"tool_calls": [{"function": {"name": "f"}}]}), chat({}, "tool_calls"), DONE)
    assert (at(answer), answer.text, answer.status) == ([1], "f", "ok")


def test_the_message_so_far_beside_a_delta_is_not_read_twice():
    def both(delta, message, finish=None):
        choice = {"delta": delta, "message": {"content": message}, "finish_reason": finish}
        return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"

    answer = sent(both({"content": "a"}, "a"), both({"content": "b"}, "ab"), both({}, "ab", "stop"), DONE)
    assert answer.text == "ab"


# -- what text is --------------------


@pytest.mark.parametrize(
    ("delta", "text", "is_answer"),
    [
        ({"content": "a"}, "a", True),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "ab", True),
        ({"content": {"type": "text", "text": {"value": "a"}}}, "a", True),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}, "hm", False),
        ({"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}]}, "hma", True),
        ({"reasoning_content": "hm"}, "hm", False),
        ({"reasoning": "hm", "reasoning_content": "hm"}, "hm", False),
        ({"reasoning": "hm", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}, "hm", False),
        ({"reasoning_details": [{"type": "reasoning.text", "text": "hm"}], "content": ""}, "hm", False),
        ({"refusal": "no"}, "no", True),
        ({"function_call": {"name": "f", "arguments": "{}"}}, "f{}", True),
        ({"tool_calls": [{"type": "custom", "custom": {"name": "f", "input": "x"}}]}, "fx", True),
        ({"tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}, 'f{"a": 1}', True),
    ],
)
def test_text_wherever_a_server_puts_it(delta, text, is_answer):
    answer = sent(chat({"role": "assistant"}), chat(delta), chat({"content": "z"}), chat({}, "stop"), DONE)
    assert (answer.text, at(answer)) == (f"{text}z", [2, 3])
    assert answer.answered_ns == (2 if is_answer else 3) * 10 * MS


def test_reasoning_only_has_no_answer_token():
    answer = sent(*[chat({"reasoning_content": "hm"})] * 4, chat({}, "length"), usage(4), DONE)
    assert (at(answer), answer.answered_ns, answer.status) == ([1, 2, 3, 4], None, "ok")


# -- counts --------------------


@pytest.mark.parametrize("number", ["4", "4.0", 4.0, 4])
def test_a_count_is_a_count_as_text_or_float_too(number):
    last = {"choices": [], "usage": {"prompt_tokens": number, "completion_tokens": number}}
    answer = sent(*tokens(4), event("", "length"), b"data: " + json.dumps(last).encode() + b"\n\n", DONE)
    assert (answer.status, answer.output_tokens, answer.prompt_tokens) == ("ok", 4, 4)


@pytest.mark.parametrize("number", ["many", -1, True, 1.5, 1e12, [4], None])
def test_what_is_no_count_is_not_told(number):
    answer = sent(*tokens(4), event("", "length", usage={"completion_tokens": number}), DONE)
    assert (answer.status, answer.output_tokens) == ("ok", 4)
    assert count(answer_again(answer), None, "") == "chunks"


def answer_again(answer: Answer) -> Answer:
    return Answer(texts=answer.texts, stamps=answer.stamps, counted=answer.counted)


@pytest.mark.parametrize(
    "more",
    [
        {"usage": {"completion_tokens": 4, "prompt_cache_hit_tokens": 3}},
        {"usage": {"output_tokens": 4, "prompt_tokens_details": {"cached_tokens": 3}}},
        {"x_groq": {"usage": {"completion_tokens": 4, "cached_tokens": 3}}},
    ],
)
def test_usage_wherever_a_server_puts_it(more):
    answer = sent(*tokens(4), event("", "length", **more), DONE)
    assert (answer.output_tokens, answer.cached_tokens) == (4, 3)


def test_a_usage_of_none_beside_a_text_is_no_count():
    answer = sent(*tokens(4), event("", "length"), usage(0), DONE)
    assert answer.output_tokens == 4


@pytest.mark.parametrize(
    ("texts", "total", "expected"),
    [
        ([" t" * 8, " t" * 8], 16, [8, 8]),
        ([" a b c", " d", " e"], 5, [3, 1, 1]),
        (["abc", "def"], 5, None),  # it is unknown
        (["abc", "def", "g"], 2, None),  # more chunks than tokens
        ([" a", " b"], 2, [1, 1]),
        (["abc def"], 7, [7]),
    ],
)
def test_tokens_of_each_chunk_where_they_can_be_told(texts, total, expected):
    answer = sent(*map(event, texts), event("", "length"), usage(total), DONE)
    assert (answer.output_tokens, answer.chunk_tokens) == (total, expected)


@pytest.mark.parametrize("named", [{"token_ids": [1, 2]}, {"logprobs": {"content": [{}, {}]}}])
def test_events_that_list_their_tokens_tell(named):
    def listed(text):
        choice = {"index": 0, "text": text, "finish_reason": None, **named}
        return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"

    answer = sent(listed("ab"), listed("cd"), event("", "length"), DONE)
    assert (answer.output_tokens, answer.chunk_tokens) == (4, [2, 2])


# -- in one piece --------------------


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (lambda: sent(*tokens(4), *END), False),
        (lambda: sent(*tokens(4), *END, gap=5_000), True),  # a proxy that held it all, in several reads
        (lambda: sent(b"".join([*tokens(4), *END])), True),
        (lambda: sent(event(" t" * 4), *END), True),
        (lambda: sent(event(" t t"), event("", "length"), DONE), True),  # no usage, two words
        (lambda: sent(event(" t"), event("", "length"), usage(1), DONE), False),  # one token was asked for
        (lambda: sent(event(" t t"), event(" t t"), *END), False),
        (
            lambda: whole({"choices": [{"text": "a", "finish_reason": "length"}], "usage": {"completion_tokens": 1}}),
            True,
        ),
    ],
)
def test_an_answer_in_one_piece_is_known(answer, expected):
    assert answer().at_once is expected


# -- bodies under any name --------------------


@pytest.mark.parametrize("kind", ["application/json", "text/plain; charset=utf-8", "application/x-ndjson", ""])
def test_a_stream_is_one_under_any_content_type(kind):
    head = HEAD.replace(b"Content-Type: text/event-stream\r\n", f"Content-Type: {kind}\r\n".encode() if kind else b"")
    answer = sent(*tokens(4), *END, head=head)
    assert (answer.status, at(answer)) == ("ok", [1, 2, 3, 4])


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
@pytest.mark.parametrize("before", [b"", b" \n\n", b"\xef\xbb\xbf"])
def test_a_document_is_one_under_any_content_type(kind, before):
    data = {"choices": [{"message": {"content": "a b"}, "finish_reason": "stop"}], "usage": {"completion_tokens": 2}}
    answer = whole(before + json.dumps(data, indent=1).encode(), kind)
    assert (answer.status, answer.text, answer.output_tokens, answer.stamps) == ("ok", "a b", 2, [300 * MS])


@pytest.mark.parametrize("mark", [b"", b"data: "])
def test_events_on_single_lines_are_stamped_one_by_one(mark):
    lines = [mark + one.removeprefix(b"data: ").strip() + b"\n" for one in [*tokens(4), event("", "length"), usage(4)]]
    answer = sent(*lines, *([] if not mark else [b"data: [DONE]\n"]))
    assert (answer.status, at(answer), answer.output_tokens) == ("ok", [1, 2, 3, 4], 4)


def test_a_list_of_chunks_is_a_document():
    chunks = [{"choices": [{"delta": {"content": text}}]} for text in "ab"]
    answer = whole([*chunks, {"choices": [{"delta": {}, "finish_reason": "stop"}]}])
    assert (answer.status, answer.text, answer.at_once) == ("ok", "ab", True)


def test_an_event_wrapped_twice_is_read():
    answer = sent(*(b"data: " + one.strip() + b"\r\ndata: \r\n\r\n" for one in [*tokens(4), *END]))
    assert (answer.status, at(answer)) == ("ok", [1, 2, 3, 4])


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "raw", "gzip, identity"])
def test_a_compressed_stream_is_read_as_it_came(encoding):
    bits = {"gzip": 31, "gzip, identity": 31, "deflate": 15, "raw": -15}[encoding]
    packer = zlib.compressobj(wbits=bits)
    parts = [packer.compress(one) + packer.flush(zlib.Z_SYNC_FLUSH) for one in [*tokens(4), *END]]
    name = b"deflate" if encoding == "raw" else encoding.encode()
    answer = sent(
        *parts, packer.flush(), head=HEAD.replace(b"Transfer", b"Content-Encoding: " + name + b"\r\nTransfer")
    )
    assert (answer.status, at(answer), answer.output_tokens) == ("ok", [1, 2, 3, 4], 4)


def test_a_compressed_error_is_read_and_other_compression_is_named():
    refused = whole(gzip.compress(b"no room"), status="503 Busy", more="Content-Encoding: gzip\r\n")
    assert refused.error == "HTTP 503: no room"
    named = whole(gzip.compress(b"{}"), more="Content-Encoding: br\r\n")
    assert (named.status, "compressed with br" in named.error) == ("invalid", True)
    false = whole(b"{}", more="Content-Encoding: gzip\r\n")
    assert (false.status, "is not" in false.error) == ("invalid", True)


# -- failures --------------------


@pytest.mark.parametrize("finish", ["length", "stop", "tool_calls", "function_call", "eos_token", "STOP", "end_turn"])
def test_an_end_by_length_stop_or_tool_call_is_one(finish):
    assert sent(*tokens(2), event("", finish), DONE).status == "ok"


@pytest.mark.parametrize("finish", ["abort", "error", "cancelled", "content_filter", "timeout", "unheard of"])
def test_any_other_end_is_a_failure(finish):
    for answer in (
        sent(*tokens(2), event("", finish), DONE),
        whole({"choices": [{"text": "a", "finish_reason": finish}]}),
    ):
        assert (answer.status, finish in answer.error) == ("invalid", True)


@pytest.mark.parametrize("finish", ["", "null", None])
def test_a_finish_reason_that_says_nothing_is_none(finish):
    assert sent(event(" a", finish), event(" b", finish), event("", "stop"), DONE).status == "ok"
    assert sent(event(" a", finish), event(" b", finish)).status == "truncated"


@pytest.mark.parametrize(
    "failure",
    [
        b'data: {"error": {"message": "out of memory", "code": 500}}\n\n',
        b'data: {"error": "out of memory"}\n\n',
        b'data: {"errors": [{"message": "out of memory"}]}\n\n',
        b'data: {"object": "error", "message": "out of memory", "code": 500}\n\n',
        b'data: {"type": "error", "message": "out of memory"}\n\n',
        b'data: {"detail": "out of memory", "status_code": 500}\n\n',
        b'data: {"detail": [{"loc": ["body"], "msg": "out of memory"}]}\n\n',
        b'data: {"code": 500, "message": "out of memory"}\n\n',
        b'data: {"code": "internal_error", "msg": "out of memory"}\n\n',
        b'data: {"text": "out of memory", "error_code": 50002}\n\n',
        b'data: {"choices": [{"delta": {}, "finish_reason": null, "error": {"message": "out of memory"}}]}\n\n',
        b'data: {"error": {"message": "out of memory"}, "choices": [{"delta": {}, "finish_reason": "error"}]}\n\n',
        b'event: error\ndata: {"message": "out of memory"}\n\n',
        b"event: error\ndata: out of memory\n\n",
        b'event: upstream_error\ndata: "out of memory"\n\n',
        b'error: {"code": 500, "message": "out of memory"}\n\n',
        b'{"error": {"code": 500, "message": "out of memory"}}',
        b'{"error": {"code": 500, "message": "out of memory"}}\n\n',
        b'{\n "error": {\n  "message": "out of memory"\n }\n}\n\n',
        b"data: Error: out of memory\n\n",
        b'data: {"status": "failed", "message": "out of memory"}\n\n',
        b'data: {"success": false, "message": "out of memory"}\n\n',
        b'data: {"statusCode": 503, "message": "out of memory"}\n\n',
        b'data: {"error_message": "out of memory"}\n\n',
        b'data: {"errorMessage": "out of memory", "id": 7}\n\n',
        b'data: {"exception": "out of memory"}\n\n',
        b'data: {"code": "RESOURCE_EXHAUSTED", "message": "out of memory"}\n\n',
        b'data: {"type": "server_error", "message": "out of memory"}\n\n',
        b'data: {"choices": [{"delta": {"error": "out of memory"}, "finish_reason": null}]}\n\n',
        b'data: {"choices": [{"delta": {"content": "x", "error": "out of memory"}, "finish_reason": null}]}\n\n',
        b"event: exception\ndata: out of memory\n\n",
        b'event: generation_failed\ndata: {"message": "out of memory"}\n\n',
    ],
)
@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("ends_as_if_well", [False, True])
def test_an_error_in_any_form_is_a_failure_in_the_servers_words(failure, before, ends_as_if_well):
    goes_on = ends_as_if_well and failure.endswith(b"\n")
    answer = sent(*tokens(before), failure, *([event("", "stop"), DONE] if goes_on else []))
    assert answer.status == "invalid"
    assert "out of memory" in answer.error
    assert len(answer.stamps) == before


@pytest.mark.parametrize("page", [b"<html>502 Bad Gateway</html>", b"upstream connect error or disconnect/reset\n"])
def test_what_a_proxy_writes_into_a_stream_is_quoted(page):
    alone, after = sent(page), sent(*tokens(2), page)
    assert (alone.status, after.status) == ("invalid", "truncated")
    assert page.strip().decode() in alone.error
    assert page.strip().decode() in after.error


def test_an_error_that_is_null_or_empty_is_none():
    quiet = [event(" a", None, error=None), event(" b", None, error={}), event("", "stop", error=""), DONE]
    assert sent(*quiet).status == "ok"


@pytest.mark.parametrize("data", [{"error": {"message": "out of memory"}}, {"detail": "out of memory"}])
def test_an_error_as_a_document_is_a_failure_in_the_servers_words(data):
    answer = whole(data)
    assert (answer.status, "out of memory" in answer.error) == ("invalid", True)


@pytest.mark.parametrize(
    "quiet",
    [
        b'data: {"status": "processing", "code": 0, "success": true}\n\n',
        b'data: {"type": "queue", "message": "place 3", "errors": 0, "error_count": 3, "error_code": "0"}\n\n',
        b"event: progress\n\n",
        b'data: {"choices": [null]}\n\n',
        b'data: {"object": "chat.completion.chunk", "status": 200}\n\n',
    ],
)
def test_an_event_that_tells_of_no_failure_is_none(quiet):
    answer = sent(quiet, *tokens(4), quiet, *END)
    assert (answer.status, answer.error, at(answer)) == ("ok", None, [2, 3, 4, 5])


@pytest.mark.parametrize(
    "done", [b"data:[DONE]\n\n", b'data: "[DONE]"\n\n', b"data: [done]\n\n", b"data: [DONE] \r\n\r\n"]
)
def test_the_end_of_a_stream_as_servers_write_it(done):
    assert sent(*tokens(4), usage(4), done).status == "ok"


def test_a_429_that_says_when_to_come_again_is_an_outcome_of_its_own():
    limited = whole({"error": "slow down"}, status="429 Too Many Requests", more="Retry-After: 3\r\n")
    assert (limited.status, limited.http_status) == ("rate_limited", 429)
    assert limited.error == 'HTTP 429, Retry-After 3: {"error": "slow down"}'
    assert whole({}, status="429 Too Many Requests", more="retry-after-ms: 300\r\n").status == "rate_limited"
    assert whole({}, status="429 Too Many Requests").status == "http_error"


def test_a_redirect_says_where_to():
    moved = whole(b"", status="307 Temporary Redirect", more="Location: http://other/v1\r\n")
    assert (moved.status, "http://other/v1" in moved.error) == ("http_error", True)
