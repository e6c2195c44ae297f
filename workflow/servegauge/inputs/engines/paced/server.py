"""A mock OpenAI-compatible server whose truth is known: `python -m servegauge.inputs.engines.paced.server --port 8001`.

It answers the k-th token of a request `first_s + k * gap_s` after the request was read, whatever the load, and logs
when it really sent each one. What a load generator reports, less this log, is the load generator's own error
(see `calibrate`). It is one process with one epoll loop and prebuilt chunks, about 10 us a token, so that it is not the
thing being measured; give it a CPU of its own (`--cpu`).

    GET  /health, /ping, /v1/models, /metrics
    POST /v1/completions, /v1/chat/completions      streaming or not
    POST /reset_prefix_cache                        with --prefix-cache: forgets the prompts seen
    GET  /truth[?clear=1]                           {"requests": [{"id", "received_ns", "sends_ns": [...]}, ...]}

All stamps are CLOCK_MONOTONIC, which processes of one machine share. `id` is the request's X-Request-Id header.
"""

from __future__ import annotations

import contextlib
import gc
import heapq
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from servegauge.base.errors import UserError, run_and_exit
from servegauge.base.linux import hold_many_connections, keep_memory, run_soon
from servegauge.base.supervisor import die_with_parent
from servegauge.inputs.engines.paced.options import Fault, Pace, parser
from servegauge.inputs.engines.paced.request import Asked, api_key, body_bytes
from servegauge.inputs.engines.paced.wire import Wire, http_reply

_READ_BYTES = 1 << 20  # of a long prompt, most in one read
_READS_KEPT = 16  # of one client and not looked at: what floods us waits in the kernel, not in our memory
_SENDS_BETWEEN_READS = 16  # a burst of sends must not delay the stamp of a request that arrives meanwhile
_SENDS_AT_ONCE = 64  # where tokens are always due, requests that came must be looked at all the same


class Peer:
    """One client's connection."""

    __slots__ = ("buffer", "closed", "out", "queued", "sock", "wanted")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = bytearray()
        self.wanted = 0  # bytes of the request that has begun, where its head has come
        self.queued = 0  # reads that were not looked at
        self.out = bytearray()
        self.closed = False


@dataclass(slots=True, eq=False)
class Stream:
    """One request being answered."""

    peer: Peer
    wire: Wire
    id: str
    received_ns: int
    tokens: int
    streaming: bool
    usage: bool
    prompt_tokens: int
    cached_tokens: int = 0
    fault: Fault | None = None
    sent: int = 0
    began: bool = False
    stalled: bool = False
    sends_ns: list[int] = field(default_factory=list)


class PacedServer:
    """The epoll loop. `run()` returns after `stop()`."""

    def __init__(self, host: str, port: int, pace: Pace, api_key: str = "") -> None:
        self.pace = pace
        self.api_key = api_key.encode()
        self.listener = socket.create_server((host, port), backlog=4096)
        self.listener.setblocking(False)
        self.port: int = self.listener.getsockname()[1]
        self.epoll = select.epoll()
        self.epoll.register(self.listener, select.EPOLLIN)
        self.peers: dict[int, Peer] = {}
        self.order = 0  # of what is due at the same time
        self.due: list[tuple[int, int, Stream]] = []
        self.arrived: deque[tuple[Peer, bytes, int]] = deque()  # read and stamped, not looked at
        self.waiting: deque[Stream] = deque()
        self.running = 0
        self.count = 0
        self.tokens_total = 0
        self.prompt_tokens_total = 0
        self.cached_tokens_total = 0
        self.seen: set[int] = set()
        self.log: list[Stream] = []
        self.started_ns = time.monotonic_ns()
        self.stopping = False

    def stop(self) -> None:
        self.stopping = True

    def run(self) -> None:
        """Serve until `stop()`; sleeps with microsecond timeouts (epoll itself has only milliseconds).

        Requests are stamped when they are read and looked at one by one, with reads between: when many come at once, or
        while tokens are sent, the stamp of the last must not wait for what the others cost us.
        """
        fd = self.epoll.fileno()
        while not self.stopping:
            wait = min(0.5, (self.due[0][0] - time.monotonic_ns()) / 1e9) if self.due else 0.5
            if wait > 0 and not self.arrived:
                select.select([fd], [], [], wait)
            self.read()
            self.send_due()
            if self.arrived:
                self.receive(*self.arrived.popleft())

    def read(self) -> None:
        """Read and stamp what is ready on every socket, without waiting."""
        for fd, event in self.epoll.poll(0, 4096):
            peer = self.peers.get(fd)
            if peer is None:
                if fd == self.listener.fileno():
                    self.accept()
                continue
            if event & select.EPOLLOUT:
                self.flush(peer)
            if event & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR) and peer.queued < _READS_KEPT:
                try:
                    data = peer.sock.recv(_READ_BYTES)
                except BlockingIOError:
                    continue
                except OSError:
                    data = b""
                if data:
                    peer.queued += 1
                    self.arrived.append((peer, data, time.monotonic_ns()))
                elif not peer.queued:  # else its end is seen again, after what it sent before was looked at
                    self.close(peer)

    def accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                sock, _ = self.listener.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.peers[sock.fileno()] = Peer(sock)
                self.epoll.register(sock, select.EPOLLIN)

    def receive(self, peer: Peer, data: bytes, now: int) -> None:
        """Look at what was read at `now`."""
        peer.queued -= 1
        if peer.closed:
            return
        peer.buffer += data
        while not peer.closed and len(peer.buffer) >= peer.wanted:
            end = peer.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(peer.buffer[:end])
            peer.wanted = end + 4 + body_bytes(head)
            if len(peer.buffer) < peer.wanted:
                return
            body = bytes(peer.buffer[end + 4 : peer.wanted])
            del peer.buffer[: peer.wanted]
            peer.wanted = 0
            self.request(peer, head, body, now)

    def request(self, peer: Peer, head: bytes, body: bytes, now: int) -> None:
        """Route one complete request."""
        method, _, rest = head.partition(b" ")
        path, _, query = rest.split(b" ", 1)[0].partition(b"?")
        if self.api_key and path.startswith(b"/v1/") and api_key(head) != self.api_key:
            self.write(peer, http_reply(401, {"error": {"message": "wrong or missing API key", "code": 401}}))
        elif method == b"POST" and path in (b"/v1/completions", b"/v1/chat/completions"):
            self.begin(peer, path.endswith(b"chat/completions"), head, body, now)
        else:
            self.write(peer, self.answer(method.decode(), path.decode(), query))

    def answer(self, method: str, path: str, query: bytes) -> bytes:
        """Replies that are not completions."""
        slow = self.pace.has("slow_start")
        match (method, path):
            case ("GET", "/health") if slow and time.monotonic_ns() < self.started_ns + slow.start_s * 1e9:
                return http_reply(503, {"status": "loading"})
            case ("GET", "/health" | "/ping"):
                return http_reply(200, {"status": "ok"})
            case ("GET", "/v1/models"):
                return http_reply(200, {"object": "list", "data": [{"id": "paced", "object": "model"}]})
            case ("GET", "/metrics"):
                return http_reply(200, self.metrics(), "text/plain; version=0.0.4")
            case ("GET", "/truth"):
                reply = http_reply(200, {"requests": [_truth(stream) for stream in self.log]})
                if b"clear=1" in query:
                    self.log.clear()
                return reply
            case ("POST", "/reset_prefix_cache"):
                if self.pace.has("refused_reset"):
                    return http_reply(200, {"success": False})
                self.seen.clear()
                return http_reply(200, {"success": True})
        return http_reply(404, {"error": {"message": f"no {method} {path} here", "code": 404}})

    def metrics(self) -> str:
        """Prometheus text with the names that `frameworks/paced.py` maps."""
        values = {
            "requests_running": ("gauge", self.running),
            "requests_waiting": ("gauge", len(self.waiting)),
            "prompt_tokens_total": ("counter", self.prompt_tokens_total),
            "cached_tokens_total": ("counter", self.cached_tokens_total),
            "generation_tokens_total": ("counter", self.tokens_total),
        }
        return "".join(f"# TYPE paced_{name} {kind}\npaced_{name} {value}\n" for name, (kind, value) in values.items())

    def begin(self, peer: Peer, chat: bool, head: bytes, body: bytes, now: int) -> None:
        """Accept one completion and schedule its first token."""
        self.count += 1
        asked = Asked.of(head, body)
        stream = Stream(
            peer,
            Wire.of(chat, self.pace.tokens_per_chunk),
            asked.id if asked.id is not None else str(self.count),
            now,
            asked.tokens,
            asked.streaming,
            asked.usage,
            asked.prompt_tokens,
            fault=self.pace.fault(self.count),
        )
        if self.pace.prefix_cache:
            seen = hash(body)
            stream.cached_tokens = stream.prompt_tokens if seen in self.seen else 0
            self.seen.add(seen)
        self.prompt_tokens_total += stream.prompt_tokens
        self.cached_tokens_total += stream.cached_tokens
        self.log.append(stream)
        if stream.fault is not None:
            if stream.fault.kind == "http_error":
                error = {"message": "fault on request", "code": stream.fault.status}
                self.write(peer, http_reply(stream.fault.status, {"error": error}))
                return
            if stream.fault.kind == "drop":
                self.close(peer)
                return
            if stream.fault.kind == "zero_tokens":
                stream.tokens = 0
            elif stream.fault.kind == "short":
                stream.tokens = min(stream.tokens, stream.fault.after)
        if self.pace.early_headers and stream.streaming:
            self.write(peer, stream.wire.head)
            stream.began = True
        if self.pace.slots is not None and self.running >= self.pace.slots:
            self.waiting.append(stream)
        else:
            self.start(stream, now)

    def start(self, stream: Stream, now: int) -> None:
        self.running += 1
        computed = stream.prompt_tokens - stream.cached_tokens
        first = self.pace.first_s + self.pace.prefill_s_per_token * computed
        if not stream.streaming:
            first += self.pace.gap_s * max(0, stream.tokens - 1)
        self.order += 1
        heapq.heappush(self.due, (now + int(first * 1e9), self.order, stream))

    def finish(self, stream: Stream) -> None:
        self.running -= 1
        if self.waiting:
            self.start(self.waiting.popleft(), time.monotonic_ns())

    def send_due(self) -> None:
        """Send the tokens whose time has come, and read now and then what arrives meanwhile."""
        due, sends = self.due, 0
        gap_ns = int(self.pace.gap_s * 1e9) * self.pace.tokens_per_chunk
        while due and sends < _SENDS_AT_ONCE and due[0][0] <= time.monotonic_ns():
            when, order, stream = heapq.heappop(due)
            if stream.peer.closed:
                self.finish(stream)
                continue
            fault = stream.fault
            if fault is not None and stream.sent >= fault.after and fault.kind in ("cut", "stall", "garbage"):
                if fault.kind == "cut":
                    self.close(stream.peer)
                    self.finish(stream)
                    continue
                if fault.kind == "stall" and not stream.stalled:
                    stream.stalled = True
                    heapq.heappush(due, (when + int(fault.stall_s * 1e9), order, stream))
                    continue
                if fault.kind == "garbage":
                    self.write(stream.peer, stream.wire.garbage)
            if self.send(stream):
                heapq.heappush(due, (when + gap_ns, order, stream))
            else:
                self.finish(stream)
            sends += 1
            if sends % _SENDS_BETWEEN_READS == 0:
                self.read()

    def send(self, stream: Stream) -> bool:
        """Send the next chunk; true if more follow. The stamp is taken just before the kernel gets the bytes."""
        wire = stream.wire
        if not stream.streaming:
            stream.sends_ns.append(time.monotonic_ns())
            self.write(stream.peer, wire.whole(stream.tokens, stream.prompt_tokens, stream.cached_tokens))
            self.tokens_total += stream.tokens
            return False
        size = min(self.pace.tokens_per_chunk, stream.tokens - stream.sent)
        stream.sent += size
        self.tokens_total += size
        if more := stream.sent < stream.tokens:
            data = wire.chunk
        else:
            usage = (stream.prompt_tokens, stream.tokens, stream.cached_tokens) if stream.usage else None
            data = wire.end(size, usage)
        if not stream.began:
            stream.began = True
            data = wire.head + data
        if size:
            stream.sends_ns.append(time.monotonic_ns())
        self.write(stream.peer, data)
        return more

    def write(self, peer: Peer, data: bytes) -> None:
        """Hand `data` to the kernel, and keep what it does not take."""
        if peer.closed:
            return
        if peer.out:
            peer.out += data
            return
        try:
            taken = peer.sock.send(data)
        except BlockingIOError:
            taken = 0
        except OSError:
            self.close(peer)
            return
        if taken < len(data):
            peer.out += data[taken:]
            self.epoll.modify(peer.sock, select.EPOLLIN | select.EPOLLOUT)

    def flush(self, peer: Peer) -> None:
        """The kernel has room again."""
        try:
            del peer.out[: peer.sock.send(peer.out)]
        except BlockingIOError:
            return
        except OSError:
            self.close(peer)
            return
        if not peer.out:
            self.epoll.modify(peer.sock, select.EPOLLIN)

    def close(self, peer: Peer) -> None:
        if not peer.closed:
            peer.closed = True
            self.peers.pop(peer.sock.fileno(), None)
            self.epoll.unregister(peer.sock)
            peer.sock.close()


def _truth(stream: Stream) -> dict[str, Any]:
    return {"id": stream.id, "received_ns": stream.received_ns, "sends_ns": stream.sends_ns}


def main() -> int:
    given = parser().parse_args()
    pace = Pace.of(given)
    if given.parent is not None:
        die_with_parent()
        if os.getppid() != given.parent:  # it may have ended before we asked
            raise UserError(f"--parent {given.parent} did not start this server, or has ended")
    if given.cpu is not None:
        os.sched_setaffinity(0, {given.cpu})
    run_soon()
    hold_many_connections()
    keep_memory()
    try:
        server = PacedServer(given.host, given.port, pace, os.environ.get("PACED_API_KEY", ""))
    except OSError as error:
        raise UserError(f"cannot listen on {given.host}:{given.port}: {error}; choose another --port, or 0") from None
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    signal.signal(signal.SIGINT, lambda *_: server.stop())
    gc.collect()
    gc.disable()
    if given.port_file:
        given.port_file.write_text(f"{server.port}\n")
    print(f"paced: listening on {given.host}:{server.port}", file=sys.stderr, flush=True)
    server.run()
    return 0


if __name__ == "__main__":
    run_and_exit(main)
