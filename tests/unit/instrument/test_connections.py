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
from servegauge.contract.spec import Load
from servegauge.instrument.coordinator import run_load
from servegauge.instrument.job import LoadJob
from servegauge.instrument.openai_api import Target
from tests.unit.instrument_helpers import load_job, paced, rows_of, workload

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
    defaults = {"phase": "window", "concurrency": 1, "timeout_s": 10.0, "warm_path": None}
    url = f"{scheme}://localhost:{server.port}"
    return load_job(url, path, tmp_path / "out", "m", **{**defaults, **fields})


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
        given = load_job(server.url, path, tmp_path / "out", "m", concurrency=4, phase="window")
        rows = rows_of(run_load(given).requests)
        truth = server.truth()
    assert {row["status"] for row in rows} == {"ok"}
    for row in rows:
        said = truth[row["request_id"]]
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


def heads_of(server: Script) -> list[tuple[str, dict[str, str], dict]]:
    """Request line, headers and body of each request that a server got, warming left out."""
    found = []
    for request in server.requests:
        head, _, body = request.partition(b"\r\n\r\n")
        line, *headers = head.decode("latin-1").split("\r\n")
        if line.startswith("POST"):
            found.append((line, dict(header.split(": ", 1) for header in headers), json.loads(body)))
    return found


def test_path_query_headers_and_the_lengths_field_are_sent_as_asked(tmp_path):
    path = workload(tmp_path, window=2, output_tokens=7)
    headers = {"api-key": "a-secret-of-azure", "authorization": "Token t", "X-Team": "a"}
    fields = {"api_key": "k", "length_field": "max_completion_tokens", "headers": headers}
    with script(answer_all) as server:
        base = f"http://127.0.0.1:{server.port}/openai/my model/v1?api-version=2024-10-21&x=a b"
        given = LoadJob([base], str(path), str(tmp_path / "out"), "m", Load(concurrency=1, endpoint="chat"),
                        phase="window", path="/chat/completions", **fields)  # fmt: skip
        assert run_load(given).counts == {"ok": 2}
    line, sent, body = heads_of(server)[0]
    assert line == "POST /openai/my%20model/chat/completions?api-version=2024-10-21&x=a%20b HTTP/1.1"
    assert (sent["api-key"], sent["X-Team"], sent["authorization"]) == ("a-secret-of-azure", "a", "Token t")
    assert "Authorization" not in sent, "the given one replaces ours"
    assert sent["Accept-Encoding"] == "identity"
    assert (body["max_completion_tokens"], "max_tokens" in body) == (7, False)
    assert "a-secret-of-azure" not in given.to_json(), "headers may hold keys: they stand in no file"
    assert "a-secret-of-azure" not in repr(given)


def test_a_secret_of_a_header_is_not_kept_with_a_servers_words(tmp_path):
    def repeats(server: Script, connection: socket.socket, number: int) -> None:
        while request := server.request(connection):
            words = request.split(b"api-key: ")[-1].split(b"\r\n")[0] if b"api-key" in request else b""
            words += b" DB_PASS=hunter2hunter2 \x1b[2J"
            connection.sendall(b"HTTP/1.1 401 No\r\nContent-Length: %d\r\n\r\n" % len(words) + words)

    path = workload(tmp_path, window=1)
    with script(repeats) as server:
        result = run_load(job(server, path, tmp_path, headers={"api-key": "a-secret-of-azure"}))
    assert rows_of(result.requests)[0]["error"] == "HTTP 401: *** DB_PASS=*** \\x1b[2J"


@pytest.mark.parametrize("base", ["", "/v1", "/v1/", "/v1/completions", "/v1/chat/completions"])
def test_a_base_url_may_go_as_far_as_the_endpoint(base):
    assert Target.of(f"http://h:1/gateway{base}").prefix == "/gateway"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"path": "v1/x"}, "must begin with /"),
        ({"path": "/v1/a b"}, "spaces"),
        ({"headers": {"Bad Name": "x"}}, "header name"),
        ({"headers": {"X-A": "x\r\nEvil: y"}}, "line break"),
        ({"headers": {"Content-Length": "3"}}, "own"),
    ],
)
def test_what_no_request_can_carry_is_refused(tmp_path, fields, said):
    with pytest.raises(UserError, match=said):
        LoadJob(["http://h"], "w", str(tmp_path), "m", Load(), **fields)


def test_request_ids_are_unique_over_phases_processes_and_runs(tmp_path):
    path = workload(tmp_path, warmup=4, window=6)
    with script(answer_all) as server:
        fields = {"phase": "both", "concurrency": 2, "workers": 2}
        rows = [row for _ in range(2) for phase in ("warmup", "window") for row in
                rows_of(run_load(job(server, path, tmp_path, **fields)).requests, phase)]  # fmt: skip
    sent = [headers["X-Request-Id"] for _, headers, _ in heads_of(server)]
    assert len(sent) == len(set(sent)) >= 20
    assert {row["request_id"] for row in rows} <= set(sent), (
        "the table names them, so that a server's log can be joined"
    )


def test_a_write_in_parts_is_counted_in_its_phase_and_outlives_its_connection(tmp_path):
    """The large request of the warm-up is no business of the window's; the window's own is, on a closed connection."""

    def slow(server: Script, connection: socket.socket, number: int) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        time.sleep(0.2)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)  # what has begun in parts may end soon
        if server.request(connection):
            connection.sendall(with_length(b"Connection: close\r\n"))

    path = workload(tmp_path, warmup=1, window=1, prompt="word " * 2_000_000)
    with script(slow) as server:
        both = run_load(job(server, path, tmp_path, phase="both", warm_path=None, concurrency=1))
        one = run_load(job(server, path, tmp_path, phase="window", warm_path=None, concurrency=1))
    assert (both.instrument["partial_writes"], one.instrument["partial_writes"]) == (1, 1)
