"""Round trips and bandwidth over TCP as the load generator sees them: loopback, and between the nodes of a job.

The client runs on the platform's load_cpus and the answering process on its server_cpus, with TCP_NODELAY, as in a
measured cell. `python -m servegauge.probes.suite.network` is the answering side; on another node the job starts it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from servegauge.probes.harness.base import Case, Context, Measured, Probe, Skip, Wrong, per_second, pin
from servegauge.probes.harness.stats import Effort, repeat

HEADER = struct.Struct("!cQQ")  # kind (e: echo, s: sink), bytes that follow, bytes to answer
TIMEOUT_S = 10.0
BLOCK = 1 << 20


class Network(Probe):
    name = "network"
    title = "Network"
    units: ClassVar = {"time_us": "us", "bandwidth_gb_s": "GB/s"}
    primary = ("time_us", "bandwidth_gb_s")
    one_thread = True
    measures = "TCP connection, round trip and bandwidth: loopback, and node to node where the job has several nodes"
    pinned = False  # it pins each of its two processes itself

    def explains(self, variant: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> str | None:
        return "every request on its way in and every token on its way out (TTFT, E2E)"

    def cases(self, context: Context) -> Iterator[Case]:
        before = os.sched_getaffinity(0)
        try:
            with _answering(context.server_cpus) as here:
                pin(context.load_cpus)
                yield from self._cases(context, "loopback", here)
            if not context.peers:
                about = {"operation": "round trip", "path": "node-to-node"}
                yield Case.without(about, "time_us", Skip("the job has one node"))
            for peer in context.peers:
                yield from self._cases(context, "node-to-node", (peer["host"], int(peer["port"])))
        finally:
            os.sched_setaffinity(0, before)

    @staticmethod
    def _cases(context: Context, path: str, address: tuple[str, int]) -> Iterator[Case]:
        effort = context.effort
        yield Case({"operation": "connect", "path": path}, "time_us", partial(_connect, address, effort))
        # A short answer is a streamed token, a long one a prompt's echo.
        for size in context.sizes((16,), (16, 16384), (1, 16, 1024, 16384, 262144)):
            about = {"operation": "round trip", "path": path, "size_bytes": size}
            yield Case(about, "time_us", partial(_round_trip, address, size, effort))
        size = context.sizes(1 << 20, 32 << 20, 256 << 20)
        about = {"operation": "send", "path": path, "size_bytes": size}
        yield Case(about, "bandwidth_gb_s", partial(_bandwidth, address, size, effort))


@contextlib.contextmanager
def _answering(cpus: list[int]) -> Iterator[tuple[str, int]]:
    """The answering process on `cpus` of this machine; gives its address."""
    argv = [sys.executable, "-m", "servegauge.probes.suite.network", "--cpus", ",".join(map(str, cpus))]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline().strip()
        if not line:
            raise RuntimeError(f"the answering process ended with status {process.wait()} before it listened")
        yield "127.0.0.1", int(line)
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def _open(address: tuple[str, int]) -> socket.socket:
    connection = socket.create_connection(address, timeout=TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _connect(address: tuple[str, int], effort: Effort) -> Measured:
    def connect() -> float:
        begin = time.perf_counter()
        connection = _open(address)
        seconds = time.perf_counter() - begin
        connection.close()
        return seconds * 1e6

    return Measured("time_us", repeat(connect, effort))


def _round_trip(address: tuple[str, int], size: int, effort: Effort) -> Measured:
    """`size` bytes there and the same bytes back."""
    message = os.urandom(size)
    with _open(address) as connection:

        def trip() -> float:
            begin = time.perf_counter()
            connection.sendall(HEADER.pack(b"e", size, size) + message)
            answer = _receive(connection, size)
            seconds = time.perf_counter() - begin
            if answer != message:
                raise Wrong(f"{size} bytes came back changed")
            return seconds * 1e6

        return Measured("time_us", repeat(trip, effort), verified=True)


def _bandwidth(address: tuple[str, int], size: int, effort: Effort) -> Measured:
    """`size` bytes sent, until the other side says that it has read them all."""
    block = memoryview(bytes(BLOCK))
    with _open(address) as connection:

        def send() -> float:
            begin = time.perf_counter()
            connection.sendall(HEADER.pack(b"s", size, 1))
            for offset in range(0, size, BLOCK):
                connection.sendall(block[: min(BLOCK, size - offset)])
            _receive(connection, 1)
            return time.perf_counter() - begin

        return Measured("bandwidth_gb_s", per_second(size, repeat(send, effort), 1e9))


def _receive(connection: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes; EOFError if the other side closed before."""
    data = bytearray(size)
    view, have = memoryview(data), 0
    while have < size:
        got = connection.recv_into(view[have:])
        if got == 0:
            raise EOFError(f"the connection was closed after {have} of {size} bytes")
        have += got
    return bytes(data)


def _answer(connection: socket.socket) -> None:
    """Serve one connection until it is closed."""
    sink = bytearray(BLOCK)
    while True:
        try:
            kind, size, back = HEADER.unpack(_receive(connection, HEADER.size))
            if kind == b"e":
                connection.sendall(_receive(connection, size)[:back])
                continue
            have = 0
            while have < size:
                got = connection.recv_into(sink, min(BLOCK, size - have))
                if got == 0:
                    return
                have += got
            connection.sendall(b"k" * back)
        except (EOFError, ConnectionError):
            return


def serve(host: str, port: int, cpus: list[int] | None) -> None:
    """Answer connections one after the other, for ever; prints the port once it listens."""
    if cpus:
        pin(cpus)
    with socket.create_server((host, port)) as server:
        print(server.getsockname()[1], flush=True)
        while True:
            connection, _ = server.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                _answer(connection)


def main() -> None:
    parser = argparse.ArgumentParser(description="Answer the network probe.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (0.0.0.0 for other nodes)")
    parser.add_argument("--port", type=int, default=0, help="port, 0 for any free one (printed)")
    parser.add_argument("--cpus", default="", help="CPUs to stay on, such as 0,1")
    given = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        serve(given.host, given.port, [int(cpu) for cpu in given.cpus.split(",") if cpu])


if __name__ == "__main__":
    main()
