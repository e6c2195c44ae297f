"""Servers that behave as real ones do: keep-alive limits, no length, HTTPS, large prompts, slow readers."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from servegauge.base.errors import UserError
from servegauge.instrument.coordinator import LoadJob, run_load
from tests.unit.instrument_helpers import paced, rows_of, workload

EVENTS = b'data: {"choices": [{"text": "a", "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


def with_length(more: bytes = b"") -> bytes:
    return HEAD + more + b"Content-Length: %d\r\n\r\n" % len(EVENTS) + EVENTS


class Script:
    """A server whose `behave(connection, number)` gets each accepted connection, in a thread of its own."""

    def __init__(self, behave: Callable[[socket.socket, int], None], tls: ssl.SSLContext | None) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.behave, self.tls = behave, tls
        self.accepted = 0
        self.requests: list[bytes] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.accepted += 1
                threading.Thread(target=self._serve, args=(connection, self.accepted), daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError), connection:
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
            self.behave(connection, number)

    def request(self, connection: socket.socket) -> bytes:
        """Read one request, head and body; empty where the client closed."""
        data = b""
        while b"\r\n\r\n" not in data:
            if not (piece := connection.recv(65536)):
                return b""
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"Content-Le")), 0)
        while len(body) < length:
            body += connection.recv(65536)
        self.requests.append(head + b"\r\n\r\n" + body)
        return self.requests[-1]


@contextlib.contextmanager
def script(behave: Callable[[Script, socket.socket, int], None], tls: ssl.SSLContext | None = None) -> Iterator[Script]:
    server = Script(lambda connection, number: behave(server, connection, number), tls)
    try:
        yield server
    finally:
        server.listener.close()


def job(server: Script, path: Path, tmp_path: Path, **fields: object) -> LoadJob:
    scheme = "https" if server.tls else "http"
    defaults = {"phase": "window", "mode": "closed", "concurrency": 1, "timeout_s": 10.0, "warm_path": None}
    url = f"{scheme}://localhost:{server.port}"
    return LoadJob([url], str(path), str(tmp_path / "out"), "m", **{**defaults, **fields})


def answer_all(server: Script, connection: socket.socket, number: int) -> None:
    while server.request(connection):
        connection.sendall(with_length())


def test_a_connection_that_is_not_kept_is_replaced(tmp_path):
    def behave(server: Script, connection: socket.socket, number: int) -> None:
        server.request(connection)
        connection.sendall(with_length(b"Connection: close\r\n"))

    with script(behave) as server:
        rows = rows_of(run_load(job(server, workload(tmp_path, window=3), tmp_path)).requests)
    assert [row["status"] for row in rows] == ["ok"] * 3
    assert [row["connection_reused"] for row in rows] == [False] * 3
    assert server.accepted >= 3
    assert len(server.requests) == 3


def test_an_answer_without_a_length_ends_with_its_connection(tmp_path):
    def behave(server: Script, connection: socket.socket, number: int) -> None:
        server.request(connection)
        connection.sendall(HEAD + b"\r\n" + EVENTS)

    with script(behave) as server:
        rows = rows_of(run_load(job(server, workload(tmp_path, window=2), tmp_path)).requests)
    assert [(row["status"], row["output_tokens"], row["tokens_source"]) for row in rows] == [("ok", 1, "chunks")] * 2


def test_a_keep_alive_that_ran_out_just_then_is_sent_again(tmp_path):
    dropped: list[int] = []

    def behave(server: Script, connection: socket.socket, number: int) -> None:
        if server.request(connection):
            connection.sendall(with_length())
        if not dropped and server.request(connection):  # gone exactly when the stream's next request comes
            dropped.append(number)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            return
        answer_all(server, connection, number)

    with script(behave) as server:
        rows = rows_of(run_load(job(server, workload(tmp_path, window=2), tmp_path)).requests)
    assert [row["status"] for row in rows] == ["ok", "ok"]
    assert len(dropped) == 1
    assert len(server.requests) == 3, "the second request was not sent again"


def test_a_request_that_was_read_and_dropped_is_an_error_and_not_sent_again(tmp_path):
    def behave(server: Script, connection: socket.socket, number: int) -> None:
        if number > 1:
            answer_all(server, connection, number)
        server.request(connection)
        connection.sendall(with_length())
        server.request(connection)
        time.sleep(0.3)

    with script(behave) as server:
        rows = rows_of(run_load(job(server, workload(tmp_path, window=3), tmp_path)).requests)
    assert [row["status"] for row in rows] == ["ok", "connection_error", "ok"]
    assert len(server.requests) == 3


def test_one_timeout_does_not_cost_the_others_their_connections(tmp_path):
    def behave(server: Script, connection: socket.socket, number: int) -> None:
        if number == 1:
            server.request(connection)
            server.request(connection)
        answer_all(server, connection, number)

    with script(behave) as server:
        rows = rows_of(run_load(job(server, workload(tmp_path, window=6), tmp_path, timeout_s=0.5)).requests)
    assert [row["status"] for row in rows] == ["timeout"] + ["ok"] * 5
    assert [row["connection_reused"] for row in rows] == [False, False] + [True] * 4


def test_an_error_answer_keeps_its_connection(tmp_path):
    def behave(server: Script, connection: socket.socket, number: int) -> None:
        server.request(connection)
        connection.sendall(b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\nno")
        answer_all(server, connection, number)

    with script(behave) as server:
        rows = rows_of(run_load(job(server, workload(tmp_path, window=2), tmp_path)).requests)
    assert [(row["status"], row["http_status"]) for row in rows] == [("http_error", 500), ("ok", 200)]
    assert rows[1]["connection_reused"]
    assert server.accepted == 1


def test_what_is_not_http_is_invalid(tmp_path):
    def behave(server: Script, connection: socket.socket, number: int) -> None:
        server.request(connection)
        connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

    with script(behave) as server:
        rows = rows_of(run_load(job(server, workload(tmp_path, window=1), tmp_path)).requests)
    assert rows[0]["status"] == "invalid"


def test_sent_is_when_the_kernel_has_the_last_byte_of_a_large_prompt(tmp_path):
    def behave(server: Script, connection: socket.socket, number: int) -> None:
        time.sleep(0.5)  # the client's and our own socket buffers fill, and it must wait
        answer_all(server, connection, number)

    path = workload(tmp_path, window=1, prompt="x" * 20_000_000)
    with script(behave) as server:
        result = run_load(job(server, path, tmp_path))
    row = rows_of(result.requests)[0]
    assert row["status"] == "ok"
    assert row["sent_ns"] > 100_000_000
    assert row["sent_ns"] < row["first_byte_ns"]
    assert len(server.requests[0]) > 20_000_000


def test_prompts_of_64k_tokens_do_not_slow_the_others_down(tmp_path):
    path = workload(tmp_path, window=8, prompt="word " * 65536, output_tokens=8)
    with paced(tmp_path, "--first-s", "0.05", "--gap-s", "0.005") as server:
        given = LoadJob(
            [server.url], str(path), str(tmp_path / "out"), "m", mode="closed", concurrency=4, phase="window"
        )
        rows = rows_of(run_load(given).requests)
        truth = server.truth()
    assert {row["status"] for row in rows} == {"ok"}
    for row in rows:
        said = truth[f"load-window-{row['request']}"]
        true = (said["sends_ns"][0] - said["received_ns"]) / 1e9
        assert (row["first_token_ns"] - row["sent_ns"]) / 1e9 == pytest.approx(true, abs=0.04)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    argv += ["-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(argv, cwd=folder, check=True, capture_output=True)
    return folder


def test_https_is_verified_with_the_given_certificate(tmp_path, certificate):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    path = workload(tmp_path, window=3)
    with script(answer_all, context) as server:
        good = run_load(job(server, path, tmp_path, ca_file=str(certificate / "cert.pem"), api_key="k"))
        loose = run_load(job(server, path, tmp_path, verify_tls=False))
        with pytest.raises(UserError, match="certificate"):
            run_load(job(server, path, tmp_path))
    assert good.counts == loose.counts == {"ok": 3}
    assert b"Authorization: Bearer k\r\n" in server.requests[0]
    row = rows_of(good.requests)[0]
    assert row["sent_ns"] <= row["first_byte_ns"] <= row["first_token_ns"]


def test_the_request_is_what_was_asked(tmp_path):
    path = workload(tmp_path, window=1, prompt="Grüße", output_tokens=7)
    with script(answer_all) as server:
        given = job(server, path, tmp_path, extra_body={"cache_prompt": False, "temperature": 0.5}, cell="cell-1")
        run_load(given)
        run_load(job(server, path, tmp_path, endpoint="chat", stream=False, ignore_eos=False))
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/completions HTTP/1.1\r\n")
    assert b"X-Request-Id: cell-1-window-0" in head
    assert json.loads(body) == {
        "model": "m", "prompt": "Grüße 0", "max_tokens": 7, "temperature": 0.5, "stream": True, "ignore_eos": True,
        "stream_options": {"include_usage": True}, "cache_prompt": False,
    }  # fmt: skip
    head, _, body = server.requests[1].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert json.loads(body) == {
        "model": "m", "messages": [{"role": "user", "content": "Grüße 0"}], "max_tokens": 7, "temperature": 0.0,
        "stream": False,
    }  # fmt: skip
