"""From flights to rows of the raw requests table: runs after the window, in the generator's process."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from servegauge.base import redact
from servegauge.base.text import visible
from servegauge.contract.cell_tables import REQUESTS_RAW
from servegauge.contract.tables import conform, from_rows
from servegauge.instrument.answers import Answer
from servegauge.instrument.connection import InFlight
from servegauge.instrument.job import LoadJob
from servegauge.instrument.openai_api import request_id
from servegauge.instrument.share import Done, Share, understood
from servegauge.instrument.token_counts import Encoder, count

_SECRET_LENGTH = 8  # characters from which on the value of a header is taken for a secret, in a server's words


def write_part(job: LoadJob, worker: int, done: Done, path: Path, api_key: str = "") -> Path:
    """Write this worker's part of the raw requests table to `path` (Parquet), rows of every phase that ran."""
    zero_ns = done.start_ns.get("window", min(done.start_ns.values(), default=0))
    pq.write_table(part_of(job, worker, done, zero_ns, api_key), path, compression="none")
    return path


def part_of(job: LoadJob, worker: int, done: Done, zero_ns: int, api_key: str = "") -> pa.Table:
    """Rows of REQUESTS_RAW for what a worker has done; stamps are relative to `zero_ns`, the start of the window."""
    tokenizer = Encoder(job.tokenizer) if job.tokenizer else None
    secrets = [
        secret for secret in (api_key, *job.headers.values()) if len(secret) >= _SECRET_LENGTH or secret == api_key
    ]
    rows: list[dict[str, Any]] = []
    stamps, tokens = _Lists(), _Lists()
    for phase, flights in done.flights.items():
        for flight in flights:
            answer = flight.answer or understood(flight)
            rows.append(_row_of(job, worker, phase, done.share, flight, answer, zero_ns, tokenizer, secrets))
            stamps.add(answer.stamps)
            tokens.add(answer.chunk_tokens)
    scalar = pa.schema([field for field in REQUESTS_RAW if field.name not in ("chunk_ns", "chunk_tokens")])
    table = from_rows(rows, scalar)
    # One array for the stamps of all requests: a list of Python's numbers for each takes longer than all else.
    table = table.append_column("chunk_ns", stamps.array(pa.int64(), -zero_ns))
    table = table.append_column("chunk_tokens", tokens.array(pa.int32()))
    return conform(table, REQUESTS_RAW)


class _Lists:
    """A column of lists of numbers, some of which may be None."""

    def __init__(self) -> None:
        self.values: list[int] = []
        self.offsets: list[int | None] = []

    def add(self, values: list[int] | None) -> None:
        self.offsets.append(None if values is None else len(self.values))
        self.values.extend(values or ())

    def array(self, kind: pa.DataType, shift: int = 0) -> pa.ListArray:
        """The column, each number with `shift` added."""
        values = np.array(self.values, kind.to_pandas_dtype())
        values += shift
        return pa.ListArray.from_arrays(pa.array([*self.offsets, len(self.values)], pa.int32()), pa.array(values, kind))


def _row_of(
    job: LoadJob,
    worker: int,
    phase: str,
    share: Share,
    flight: InFlight,
    answer: Answer,
    zero_ns: int,
    tokenizer: Encoder | None,
    secrets: Sequence[str],
) -> dict[str, Any]:
    """One row of REQUESTS_RAW but its lists."""
    columns = share.columns
    source = count(answer, tokenizer, columns["prompt"][flight.row])
    error = answer.error and _said(answer.error, tuple(secrets))
    # What came in one piece tells when it came, not when its first token was made.
    streamed = bool(answer.stamps) and job.load.stream and not answer.at_once
    number = columns["request"][flight.row]
    return {
        "cell": job.cell,
        "launch": job.launch,
        "request": number,
        "request_id": request_id(job.cell, columns["phase"][flight.row], number, job.run_id),
        "phase": phase,
        "instance": flight.instance,
        "worker": worker,
        "scheduled_ns": flight.scheduled_ns - zero_ns,
        "sent_ns": flight.sent_ns - zero_ns if flight.sent_ns else None,
        "first_byte_ns": flight.stamps[0] - zero_ns if flight.stamps else None,
        "first_token_ns": answer.stamps[0] - zero_ns if streamed else None,
        "first_answer_ns": answer.answered_ns - zero_ns if streamed and answer.answered_ns is not None else None,
        "last_ns": answer.stamps[-1] - zero_ns if answer.stamps else None,
        "end_ns": flight.end_ns - zero_ns if flight.end_ns else None,
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
        "session": columns["session"][flight.row] if "session" in columns else None,
        "adapter": columns["adapter"][flight.row] if "adapter" in columns else None,
        "turn": columns["turn"][flight.row] if "turn" in columns else None,
        "text_sha256": answer.text_sha256,
    }


@lru_cache(maxsize=1024)  # a server that fails mostly says the same
def _said(error: str, secrets: tuple[str, ...]) -> str:
    """A server's words for an error without secrets and control characters; ours however short they are."""
    for secret in filter(None, secrets):
        error = error.replace(secret, redact.REMOVED)
    return visible(redact.text(error, secrets))


def join_parts(parts: list[Path], path: Path) -> pa.Table:
    """One table from the workers' parts, in order of phase and request, written to `path`."""
    # ParquetFile and from_arrays: read_table and pa.table would import pandas, which takes longer than all of this.
    table = pa.concat_tables([pq.ParquetFile(part).read() for part in parts])
    keys = pa.Table.from_arrays([table["phase"].cast(pa.string()), table["request"]], names=["phase", "request"])
    order = pa.compute.sort_indices(keys, sort_keys=[("phase", "ascending"), ("request", "ascending")])
    table = table.take(order).combine_chunks()
    pq.write_table(table, path, compression="zstd")
    return table
