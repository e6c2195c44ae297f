"""Traces under results/ as a capture leaves them, made from the small captures of the tests."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from servegauge.base.files import sha256, whole_folder, write_json
from servegauge.traces import build, requests

H100 = Path(__file__).parent / "unit/traces/captures/vllm_h100_eager.sqlite.gz"
H100_FIT_NS = 1_255_000_000  # the requests' zero on the capture's clock: captures/README.md


@cache
def h100() -> dict[str, pa.Table]:
    """The tables of vLLM's capture on an H100: its decode steps wait for the CPU."""
    return build.tables("h100", build.read([H100]))


@cache
def h100_joined() -> dict[str, pa.Table]:
    """The same beside the requests of its window, whose clocks are joined by fit, to 1 ms."""
    capture, table = build.read([H100]), pq.read_table(H100.with_name("requests_nsys.parquet"))
    clock = {"window_start_ns": 1, "epoch_offset_start_ns": (capture.epoch_zero_ns or 0) + H100_FIT_NS - 1}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "requests.parquet"
        pq.write_table(table.replace_schema_metadata({"clock": json.dumps(clock)}), path)
        return build.tables("h100", capture, requests.read(path))


def slower(tables: Mapping[str, pa.Table], kind: str, factor: int) -> dict[str, pa.Table]:
    """The same tables, in which every kernel of `kind` took `factor` times as long."""
    kernels = tables["kernels"]
    longer = pc.if_else(pc.equal(pc.cast(kernels["kind"], "string"), kind), factor, 1)
    total = pc.multiply(kernels["total_ns"], longer)
    return {**tables, "kernels": kernels.set_column(kernels.column_names.index("total_ns"), "total_ns", total)}


def write_trace(
    results: Path, trace: str, cell: Mapping[str, Any], tables: Mapping[str, pa.Table] | None, **said: Any
) -> Path:
    """One trace of `cell` (a row of the dataset's `cells`); without tables one that failed."""
    folder = results / "traces" / trace
    with whole_folder(folder) as temporary:
        for path in build.write(dict(tables), temporary) if tables else []:
            said.setdefault("files", {})[path.name] = {"sha256": sha256(path), "bytes": path.stat().st_size}
        record = {
            "version": 1,
            "trace": trace,
            "cell": cell["cell"],
            "launch": f"{cell['launch']}-traced",
            "attempt": 0,
        }
        record |= {"platform": cell["platform"], "condition": "short, conc1", "profiler": "nsys", "status": "ok"}
        write_json(temporary / "trace.json", record | said)
    return folder
