"""From flights to rows of the raw requests table: runs after the window, in the generator's process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from servegauge.contract.tables import REQUESTS_RAW, from_rows
from servegauge.instrument.connection import Flight
from servegauge.instrument.job import LoadJob
from servegauge.instrument.share import Share, understood
from servegauge.instrument.token_counts import Encoder, count


def write_part(job: LoadJob, worker: int, done: dict[str, Any], path: Path, api_key: str = "") -> Path:
    """Write this worker's part of the raw requests table to `path` (Parquet), rows of every phase that ran."""
    tokenizer = Encoder(job.tokenizer) if job.tokenizer else None
    zero_ns = done["start_ns"].get("window", min(done["start_ns"].values(), default=0))
    rows = [
        row_of(job, worker, phase, done["share"], flight, zero_ns, tokenizer, api_key)
        for phase, flights in done["flights"].items()
        for flight in flights
    ]
    pq.write_table(from_rows(rows, REQUESTS_RAW), path, compression="none")
    return path


def row_of(
    job: LoadJob,
    worker: int,
    phase: str,
    share: Share,
    flight: Flight,
    zero_ns: int,
    tokenizer: Encoder | None,
    api_key: str = "",
) -> dict[str, Any]:
    """One row of REQUESTS_RAW; stamps are relative to `zero_ns`, the start of the window."""
    columns = share.columns
    answer = flight.answer or understood(flight)
    source = count(answer, tokenizer, columns["prompt"][flight.row])
    error = answer.error.replace(api_key, "***") if answer.error and api_key else answer.error
    chunk_ns = [stamp - zero_ns for _, stamp in answer.chunks]
    return {
        "cell": job.cell,
        "launch": job.launch,
        "request": columns["request"][flight.row],
        "phase": phase,
        "instance": flight.instance,
        "worker": worker,
        "scheduled_ns": flight.scheduled_ns - zero_ns,
        "sent_ns": flight.sent_ns - zero_ns if flight.sent_ns else None,
        "first_byte_ns": flight.stamps[0] - zero_ns if flight.stamps else None,
        # A whole document tells when it came, not when its first token was made.
        "first_token_ns": chunk_ns[0] if chunk_ns and job.stream else None,
        "last_ns": chunk_ns[-1] if chunk_ns else None,
        "end_ns": flight.end_ns - zero_ns if flight.end_ns else None,
        "chunk_ns": chunk_ns,
        "chunk_tokens": answer.chunk_tokens,
        "connection_reused": flight.reused,
        "http_status": answer.http_status,
        "status": answer.status,
        "error": error,
        "finish_reason": answer.finish_reason,
        "prompt_tokens_asked": columns["prompt_tokens"][flight.row],
        "output_tokens_asked": columns["output_tokens"][flight.row],
        "prompt_tokens": answer.prompt_tokens,
        "output_tokens": answer.output_tokens,
        "tokens_source": source,
        "cached_tokens": answer.cached_tokens,
        "text_sha256": answer.text_sha256,
    }


def join_parts(parts: list[Path], path: Path) -> pa.Table:
    """One table from the workers' parts, in order of phase and request, written to `path`."""
    # ParquetFile and from_arrays: read_table and pa.table would import pandas, which takes longer than all of this.
    table = pa.concat_tables([pq.ParquetFile(part).read() for part in parts])
    keys = pa.Table.from_arrays([table["phase"].cast(pa.string()), table["request"]], names=["phase", "request"])
    order = pa.compute.sort_indices(keys, sort_keys=[("phase", "ascending"), ("request", "ascending")])
    table = table.take(order).combine_chunks()
    pq.write_table(table, path, compression="zstd")
    return table
