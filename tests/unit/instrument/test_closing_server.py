"""Servers that promise to keep a connection and close it after each answer, as llama.cpp does after a stream."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator

import pytest

from servegauge.instrument.coordinator import run_load
from tests.unit.instrument_helpers import load_job, rows_of, workload

CHUNK = b'data: {"choices":[{"text":"a","finish_reason":null}]}\n\n'
LAST = (
    b'data: {"choices":[{"text":"b","finish_reason":"length"}],"usage":{"prompt_tokens":5,"completion_tokens":2}}\n\n'
)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nKeep-Alive: timeout=5\r\n"


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def answer_once(connection: socket.socket, served: list[str]) -> None:
    """One request, one streamed answer, then the connection is closed without a word of it."""
    with connection:
        received = b""
        while b"\r\n\r\n" not in received:
            data = connection.recv(65536)
            if not data:
                return
            received += data
        head, _, body = received.partition(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        while len(body) < length:
            body += connection.recv(65536)
        served.append(json.loads(body)["prompt"])
        connection.sendall(
            HEAD + b"\r\n" + chunked(CHUNK) + chunked(LAST) + chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n"
        )


@pytest.fixture
def closing_server() -> Iterator[tuple[str, list[str]]]:
    served: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=answer_once, args=(connection, served), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", served
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_closed_loop_loses_no_request_and_sends_none_twice(tmp_path, closing_server, concurrency):
    url, served = closing_server
    path = workload(tmp_path, window=16)
    job = load_job(url, path, tmp_path / "out", "m", phase="window", concurrency=concurrency, warm_path=None)
    result = run_load(job)
    assert result.counts == {"ok": 16}
    assert sorted(served) == sorted(f"Say something. {number}" for number in range(16))
    assert all(row["output_tokens"] == 2 for row in rows_of(result.requests))


def test_an_open_loop_loses_no_request(tmp_path, closing_server):
    url, served = closing_server
    path = workload(tmp_path, window=16, scheduled_s=[0.01 * number for number in range(16)])
    job = load_job(url, path, tmp_path / "out", "m", phase="window", warm_path=None, reserve=2)
    assert run_load(job).counts == {"ok": 16}
    assert len(served) == 16
