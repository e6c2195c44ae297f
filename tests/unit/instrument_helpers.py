"""A paced server and workloads for the tests of the instrument."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from servegauge.contract.spec import Load
from servegauge.instrument.job import LoadJob

WORKLOAD = pa.schema(
    {
        "request": pa.int32(),
        "phase": pa.string(),
        "scheduled_s": pa.float64(),
        "prompt": pa.string(),
        "messages": pa.string(),
        "prompt_tokens": pa.int32(),
        "output_tokens": pa.int32(),
    }
)


def workload(
    path: Path,
    window: int = 4,
    warmup: int = 0,
    output_tokens: int = 4,
    scheduled_s: Sequence[float] | None = None,
    prompt: str = "Say something.",
    messages: str | None = None,
) -> Path:
    """Write a workload of `warmup` then `window` requests to `path`/workload.parquet."""
    path.mkdir(parents=True, exist_ok=True)
    total = warmup + window
    times = [None] * warmup + (list(scheduled_s) if scheduled_s is not None else [None] * window)
    table = pa.table(
        {
            "request": list(range(total)),
            "phase": ["warmup"] * warmup + ["window"] * window,
            "scheduled_s": times,
            "prompt": [f"{prompt} {number}" for number in range(total)],
            "messages": [messages] * total,
            "prompt_tokens": [5] * total,
            "output_tokens": [output_tokens] * total,
        },
        schema=WORKLOAD,
    )
    pq.write_table(table, path / "workload.parquet")
    return path / "workload.parquet"


class PacedProcess:
    """A running paced server."""

    def __init__(self, url: str, process: subprocess.Popen[bytes]) -> None:
        self.url, self.process = url, process

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=10) as reply:
            return json.load(reply)

    def truth(self) -> dict[str, dict[str, Any]]:
        """The server's own log by request id."""
        return {entry["id"]: entry for entry in self.get("/truth")["requests"]}


@contextlib.contextmanager
def paced(tmp_path: Path, *arguments: str, api_key: str = "") -> Iterator[PacedProcess]:
    """A paced server in a process of its own on a free port."""
    port_file = tmp_path / f"port-{time.monotonic_ns()}"
    argv = [
        sys.executable,
        "-m",
        "servegauge.inputs.engines.paced.server",
        "--port",
        "0",
        "--port-file",
        str(port_file),
        *arguments,
    ]
    environment = {**os.environ, "PACED_API_KEY": api_key}
    with subprocess.Popen(argv, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 20
            while not port_file.exists() or not port_file.read_text():
                assert process.poll() is None, "the paced server ended"
                assert time.monotonic() < deadline, "the paced server did not start"
                time.sleep(0.01)
            yield PacedProcess(f"http://127.0.0.1:{port_file.read_text().strip()}", process)
        finally:
            process.terminate()
            process.wait(timeout=10)


def load_job(url: str, path: Path, out: Path, model: str, **fields: Any) -> LoadJob:
    """A load job from the fields of its load and its own."""
    load = {name: fields.pop(name) for name in tuple(fields) if name in Load.__dataclass_fields__}
    return LoadJob([url], str(path), str(out), model, Load(**load), **fields)


def rows_of(path: Path, phase: str = "window") -> list[dict[str, Any]]:
    """Rows of a requests table in order of request."""
    rows = [row for row in pq.read_table(path).to_pylist() if row["phase"] == phase]
    return sorted(rows, key=lambda row: row["request"])
