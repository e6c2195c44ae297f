"""The paced server keeps its pace, tells the truth about it, and misbehaves as asked; its framework file drives it."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import time

import pytest

from servegauge.base.errors import UserError
from servegauge.contract.spec import Launch, Layout
from servegauge.frameworks import framework
from servegauge.frameworks.base import Context, Reply
from servegauge.inputs.engines.paced.options import FAULTS, Fault, Pace
from servegauge.inputs.engines.paced.server import PacedServer
from tests.unit.instrument_helpers import paced


def post(url: str, body: dict, path: str = "/v1/completions", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    connection.request("POST", path, json.dumps(body), headers)
    reply = connection.getresponse()
    text = reply.read().decode()
    connection.close()
    return reply.status, text


def events(text: str) -> list[dict]:
    found = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert found.pop() == "[DONE]"
    return [json.loads(data) for data in found]


ASK = {"model": "m", "prompt": "x", "max_tokens": 4, "stream": True, "stream_options": {"include_usage": True}}


def test_the_truth_is_on_pace(tmp_path):
    with paced(tmp_path, "--first-s", "0.05", "--gap-s", "0.01") as server:
        status, text = post(server.url, ASK, **{"X-Request-Id": "mine"})
        truth = server.truth()["mine"]
    assert status == 200
    *chunks, usage = events(text)
    assert [chunk["choices"][0]["text"] for chunk in chunks] == [" tok"] * 4
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 3 + ["length"]
    assert usage["usage"]["completion_tokens"] == 4
    after = [(sent - truth["received_ns"]) / 1e9 for sent in truth["sends_ns"]]
    # Never early; late only by what the machine takes, which may be busy.
    for planned, real in zip([0.05, 0.06, 0.07, 0.08], after, strict=True):
        assert planned <= real < planned + 0.1


def test_the_log_is_forgotten_on_request(tmp_path):
    with paced(tmp_path, "--first-s", "0.001") as server:
        post(server.url, {**ASK, "max_tokens": 1})
        assert len(server.get("/truth?clear=1")["requests"]) == 1
        assert server.get("/truth") == {"requests": []}


def test_chat_whole_answers_and_several_tokens_a_chunk(tmp_path):
    with paced(tmp_path, "--first-s", "0.001", "--gap-s", "0.001", "--tokens-per-chunk", "3") as server:
        _, text = post(server.url, {**ASK, "max_tokens": 7}, "/v1/chat/completions")
        _, whole = post(server.url, {**ASK, "stream": False})
    *chunks, usage = events(text)
    assert [chunk["choices"][0]["delta"]["content"] for chunk in chunks] == [" tok" * 3, " tok" * 3, " tok"]
    assert usage["usage"]["completion_tokens"] == 7
    assert json.loads(whole)["choices"][0]["text"] == " tok" * 4


def clients(server: PacedServer, count: int) -> list[socket.socket]:
    """Connections to a server that nobody runs, each with a request on its way."""
    body = json.dumps({**ASK, "max_tokens": 2}).encode()
    found = []
    for _ in range(count):
        found.append(socket.create_connection(("127.0.0.1", server.port)))
        found[-1].sendall(b"POST /v1/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    return found


def look_at_all(server: PacedServer) -> None:
    while server.arrived:
        server.receive(*server.arrived.popleft())


def test_all_that_came_is_stamped_before_the_first_is_looked_at():
    server = PacedServer("127.0.0.1", 0, Pace())
    peers = clients(server, 3)
    server.read()  # accepts
    server.read()
    assert (len(server.arrived), server.log) == (3, [])
    stamps = [stamp for _, _, stamp in server.arrived]
    look_at_all(server)
    assert [stream.received_ns for stream in server.log] == stamps == sorted(stamps)
    for peer in [*peers, server.listener]:
        peer.close()


def test_a_burst_of_tokens_keeps_no_request_from_being_stamped_or_looked_at():
    server = PacedServer("127.0.0.1", 0, Pace(first_s=0.0, gap_s=0.0))
    peers = clients(server, 40)
    for _ in range(2):
        server.read()
    look_at_all(server)
    late = clients(server, 1)
    server.send_due()  # 80 tokens are due
    assert len(server.arrived) == 1, "read between the tokens"
    assert server.due, "did not go on until nothing was due"
    for peer in [*peers, *late, server.listener]:
        peer.close()


def test_a_client_that_asks_and_hangs_up_is_heard():
    server = PacedServer("127.0.0.1", 0, Pace())
    peer = socket.create_connection(("127.0.0.1", server.port))
    peer.sendall(b"GET /health HTTP/1.1\r\n\r\n")
    peer.shutdown(socket.SHUT_WR)
    for _ in range(3):
        server.read()
    assert len(server.arrived) == len(server.peers) == 1
    server.receive(*server.arrived.popleft())
    server.read()
    assert not server.peers
    assert peer.recv(1000).startswith(b"HTTP/1.1 200 OK")
    peer.close()
    server.listener.close()


def test_what_one_client_floods_it_with_waits_in_the_kernel():
    server = PacedServer("127.0.0.1", 0, Pace())
    peer = socket.create_connection(("127.0.0.1", server.port))
    peer.setblocking(False)
    one = b"GET /health HTTP/1.1\r\nContent-Length: 60000\r\n\r\n" + b"x" * 60000
    sent = 0
    for _ in range(100):
        with contextlib.suppress(BlockingIOError):
            sent += peer.send(one[sent % len(one) :])
        server.read()
    assert len(server.arrived) == 16
    answers, deadline = b"", time.monotonic() + 20
    while answers.count(b"200 OK") < sent // len(one) and time.monotonic() < deadline:
        server.read()
        if server.arrived:
            server.receive(*server.arrived.popleft())
        with contextlib.suppress(BlockingIOError):
            answers += peer.recv(1 << 20)
    assert answers.count(b"200 OK") == sent // len(one) > 16
    peer.close()
    server.listener.close()


def test_requests_that_waited_for_a_slot_may_be_due_at_one_time(monkeypatch):
    server = PacedServer("127.0.0.1", 0, Pace(slots=2))
    peers = clients(server, 4)
    for _ in range(2):
        server.read()
    look_at_all(server)
    monkeypatch.setattr("servegauge.inputs.engines.paced.server.time.monotonic_ns", lambda: 0)
    for stream in [stream for _, _, stream in server.due]:
        server.finish(stream)
    assert len(server.due) == 4
    for peer in [*peers, server.listener]:
        peer.close()


def test_slots_make_requests_wait(tmp_path):
    with paced(tmp_path, "--first-s", "0.1", "--gap-s", "0.001", "--slots", "1") as server:
        host, port = server.url.removeprefix("http://").split(":")
        body = json.dumps({**ASK, "max_tokens": 1})
        request = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        with socket.create_connection((host, int(port))) as one, socket.create_connection((host, int(port))) as two:
            one.sendall(request)
            two.sendall(request)
            assert one.recv(1000).startswith(b"HTTP/1.1 200")
            assert two.recv(1000).startswith(b"HTTP/1.1 200")
        first, second = server.truth().values()
    assert second["sends_ns"][0] - first["sends_ns"][0] >= 100_000_000


def test_two_requests_in_one_write_and_one_in_many(tmp_path):
    body = json.dumps({**ASK, "max_tokens": 1})
    request = f"POST /v1/completions HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    with paced(tmp_path, "--first-s", "0.001") as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(request + request)
            for byte in request:
                connection.sendall(bytes([byte]))
            deadline = time.monotonic() + 10
            while len([entry for entry in server.truth().values() if entry["sends_ns"]]) < 3:
                assert time.monotonic() < deadline
                time.sleep(0.01)


def test_the_prefix_cache_remembers_until_it_is_reset(tmp_path):
    def cached(server) -> int:
        *_, last = events(post(server.url, ASK)[1])
        return last["usage"]["prompt_tokens_details"]["cached_tokens"]

    with paced(tmp_path, "--first-s", "0.001", "--gap-s", "0.001", "--prefix-cache") as server:
        assert [cached(server) > 0, cached(server) > 0] == [False, True]
        assert json.loads(post(server.url, {}, "/reset_prefix_cache")[1]) == {"success": True}
        assert cached(server) == 0


def test_the_metrics_count(tmp_path):
    with paced(tmp_path, "--first-s", "0.001", "--gap-s", "0.001") as server:
        post(server.url, ASK)
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    assert "paced_generation_tokens_total 4\n" in text
    assert "paced_requests_running 0\n" in text
    names = {name for names in framework("paced").metrics.values() for name in names}
    assert all(f"\n{name} " in text for name in names)


def test_a_key_is_asked_for_where_there_is_one(tmp_path):
    with paced(tmp_path, "--first-s", "0.001", api_key="k") as server:
        assert post(server.url, ASK)[0] == 401
        assert post(server.url, ASK, Authorization="Bearer k")[0] == 200
        assert post(server.url, {}, "/nowhere")[0] == 404


def test_a_slow_start_and_a_refused_reset(tmp_path):
    with paced(tmp_path, "--fault", "slow_start:start_s=1", "--fault", "refused_reset") as server:
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
        connection.request("GET", "/health")
        assert connection.getresponse().status == 503
        assert json.loads(post(server.url, {}, "/reset_prefix_cache")[1]) == {"success": False}
        time.sleep(1)
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200


def test_a_client_that_leaves_does_not_stop_the_others(tmp_path):
    with paced(tmp_path, "--first-s", "0.05", "--gap-s", "0.001", "--slots", "1") as server:
        host, port = server.url.removeprefix("http://").split(":")
        body = json.dumps({**ASK, "max_tokens": 50})
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(f"POST /v1/completions HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        assert post(server.url, ASK)[0] == 200


def test_term_ends_it_well(tmp_path):
    with paced(tmp_path) as server:
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=10) == 0


def test_faults_are_read_with_their_numbers():
    assert Fault.parse("cut:every=7,after=2") == Fault("cut", every=7, after=2)
    pace = Pace(faults=(Fault("http_error", every=3), Fault("cut", every=2), Fault("slow_start")))
    assert [getattr(pace.fault(n), "kind", None) for n in range(1, 7)] == [
        None, "cut", "http_error", "cut", None, "http_error",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cutt", "Did you mean 'cut'"),
        ("cut:each=2", "every=<int>"),
        ("cut:every=x", "every=<int>"),
        ("cut:every=0", "least 1"),
    ],
)
def test_a_fault_that_does_not_exist_is_refused(text, said):
    with pytest.raises(UserError, match=said):
        Fault.parse(text)


# The framework file ------------------------------------------------------------------------------------------------


def launch(*extra: str, layout: Layout | None = None, **options: object) -> Launch:
    return Launch("paced", {"name": "m"}, {"name": "p"}, layout or Layout(), options, extra_args=extra)


class Client:
    def __init__(self, **replies: Reply) -> None:
        self.replies = replies

    def get(self, path: str, timeout_s: float = 10.0) -> Reply:
        return self.replies.get(path, Reply(404, ""))

    post = lambda self, path, body=None, timeout_s=30.0: self.get(path)  # noqa: E731


def test_the_framework_starts_it_with_the_launchs_options():
    argv = framework("paced").argv(
        Context(launch("--fault", "cut:every=2", max_batch=3, prefix_cache=True), "m", 8123, api_key="k")
    )
    assert argv[1:] == [
        "-m", "servegauge.inputs.engines.paced.server",
        "--host", "127.0.0.1", "--port", "8123", "--prefix-cache", "--slots", "3",
        "--fault", "cut:every=2",
    ]  # fmt: skip
    assert "k" not in argv
    assert framework("paced").environment(Context(launch(), "m", 1, api_key="k")) == {"PACED_API_KEY": "k"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (launch(layout=Layout(tp=2)), "no GPUs"),
        (launch("--no-such"), "--no-such"),
        (launch("--fault", "nonsense"), "nonsense"),
        (launch("--first-s", "soon"), "does not take"),
        (launch(kv_cache_dtype="fp8"), "no option for kv_cache_dtype"),
    ],
)
def test_what_it_cannot_do_is_said_while_planning(given, said, capsys):
    assert said in framework("paced").unsupported(given)
    # argparse must not print its usage among the plan's lines.
    assert capsys.readouterr().err == ""


def test_what_it_can_do():
    for kind in FAULTS:
        assert framework("paced").unsupported(launch("--fault", kind, max_batch=2)) is None


def test_a_reset_is_believed_by_its_body_only():
    paced_framework = framework("paced")
    said_yes = Client(**{"/reset_prefix_cache": Reply(200, '{"success": true}')})
    said_no = Client(**{"/reset_prefix_cache": Reply(200, '{"success": false}')})
    assert paced_framework.reset_cache(said_yes, launch()).ok
    refused = paced_framework.reset_cache(said_no, launch())
    assert not refused.ok
    assert "false" in refused.answer
    assert not paced_framework.reset_cache(Client(), launch()).ok
