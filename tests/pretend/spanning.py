"""A framework for a clone's `frameworks/`: the paced server, with a part on every node that must meet the first.

Like an engine that spans nodes: the head serves once every part has come to `head:head_port`, and a part ends when the
head does. Run as a file it is one part: RANK NODES HEAD PORT SERVER...
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Mapping
from typing import ClassVar

from servegauge.contract.spec import Launch
from servegauge.frameworks.base import Context, Framework
from servegauge.frameworks.paced import Paced


class Spanning(Paced):
    name: ClassVar[str] = "spanning"
    title: ClassVar[str] = "the paced server on several nodes"
    layout: ClassVar[Mapping[str, str]] = {"tp": "", "pp": "", "nodes": ""}

    def argv(self, ctx: Context) -> list[str]:
        place = (ctx.node_rank, ctx.nodes, ctx.head_address, ctx.head_port)
        return [sys.executable, __file__, *map(str, place), *super().argv(ctx)]

    def unsupported(self, launch: Launch) -> str | None:
        return Framework.unsupported(self, launch)


def main() -> None:
    rank, nodes, head, port = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    if rank == 0:
        with socket.create_server(("", port)) as listener:
            parts = [listener.accept() for _ in range(nodes - 1)]
        for part, address in parts:
            print(f"a part has come from {address[0]}", flush=True)
            part.set_inheritable(True)  # closed when the server ends, however it does
        os.execv(sys.argv[5], sys.argv[5:])
    end = time.monotonic() + 60
    while True:
        try:
            joined = socket.create_connection((head, port), timeout=5)
            break
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
    joined.settimeout(None)
    print(f"joined {joined.getpeername()[0]}", flush=True)
    joined.recv(1)


if __name__ == "__main__":
    main()
