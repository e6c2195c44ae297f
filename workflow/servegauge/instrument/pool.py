"""The connections of one generator process to its instances, kept between requests."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any

from servegauge.instrument.connection import Connection, InFlight, Owner
from servegauge.instrument.openai_api import Target, get_bytes

_WARM_TIMEOUT_S = 5.0


class Pool:
    """Idle and busy connections, by instance. They tell `owner` what happens on them."""

    def __init__(self, owner: Owner, targets: Sequence[Target], tls: ssl.SSLContext | None) -> None:
        self.loop = asyncio.get_running_loop()
        self.owner = owner
        self.targets = targets
        self.tls = tls
        self.idle: list[list[Connection]] = [[] for _ in targets]
        self.all: set[Connection] = set()
        self.opened = 0  # since it was last set to 0
        self.refilling = [False for _ in targets]
        self._addresses: list[tuple[Any, ...] | None] = [None for _ in targets]
        self._warming: dict[InFlight, asyncio.Future[bool]] = {}

    async def connect(self, instance: int) -> Connection:
        """A new connection to an instance. OSError where there is none to be had."""
        target = self.targets[instance]
        known = self._addresses[instance]
        if known is None:
            known_all = await self.loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
            addresses = [address for *_, address in known_all]
        else:
            addresses = [known]
        failure: OSError | None = None
        for address in addresses:
            try:
                _, connection = await self.loop.create_connection(
                    lambda: Connection(self.owner, instance),
                    str(address[0]),
                    int(address[1]),
                    ssl=self.tls if target.tls else None,
                    server_hostname=target.host if target.tls else None,
                )
            except OSError as error:
                failure = failure or error
                continue
            self._addresses[instance] = address
            self.all.add(connection)
            self.opened += 1
            return connection
        raise failure or OSError(f"{target.host} has no address")

    async def open(self, instance: int, count: int, warm_path: str | None, api_key: str = "") -> int:
        """Open connections until `count` are idle, each warmed by one GET of `warm_path`; returns how many are idle.

        Any answer warms; a connection that gives none within 5 s is closed. OSError if not even one can be opened.
        """
        idle = self.idle[instance]
        while len(idle) < count:
            batch = []
            for _ in range(min(64, count - len(idle))):
                batch.append(await self.connect(instance))
            if warm_path is None:
                idle.extend(batch)
                continue
            payload = get_bytes(self.targets[instance], warm_path, api_key)
            futures = []
            for connection in batch:
                flight = InFlight(-1, payload, instance, 0)
                futures.append(self._warming.setdefault(flight, self.loop.create_future()))
                connection.send(flight)
            await asyncio.wait(futures, timeout=_WARM_TIMEOUT_S)
            for connection in batch:
                connection.abandon("timeout", "no answer while warming")
            if not any(future.result() for future in futures):
                warm_path = None  # an instance that closes after each answer cannot be warmed
        return len(idle)

    async def refill(self, instance: int, count: int, wanted: Callable[[], bool]) -> None:
        """Open connections ahead of need until `count` are idle, or one is not `wanted` any more.

        A server that refuses shows when one is needed. `refilling` is for the caller to set when it begins this.
        """
        try:
            while len(self.idle[instance]) < count and wanted():
                self.idle[instance].append(await self.connect(instance))
        except OSError:
            pass
        finally:
            self.refilling[instance] = False

    def lost(self, connection: Connection) -> None:
        """An idle connection was closed by its server."""
        self.all.discard(connection)
        idle = self.idle[connection.instance]
        if connection in idle:
            idle.remove(connection)

    def warmed(self, flight: InFlight, connection: Connection | None) -> None:
        """A request that warmed a connection has ended; None where that connection is no longer usable."""
        if connection is not None:
            self.idle[flight.instance].append(connection)
        waiting = self._warming.pop(flight)
        if not waiting.done():
            waiting.set_result(connection is not None)

    def close(self) -> None:
        """Close every connection."""
        for connection in list(self.all):
            connection.drop()
