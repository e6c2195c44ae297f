"""API calls of an nsys export: of more rows than anything else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from servegauge.traces.names import plain_call
from servegauge.traces.sqlite_columns import Codes, narrow, need, or_default
from servegauge.traces.sqlite_source import Export

OS_CALLS = "OSRT_API"  # calls to the operating system, which start nothing on a device
Found = tuple[list[dict[str, np.ndarray]], Codes, list[str]]
"""Parts of Calls, the codes of threads (globalTid) in them, and the texts that their `name` is an index of."""


def read(export: Export, tables: Sequence[str]) -> Found:
    """The calls of those tables that are there. Raises UserError where a column is missing."""
    threads, ids = Codes(), Codes()
    parts = []
    for name in (table for table in tables if table in export.columns):
        need(export, name, "start", "end", "nameId", *(["correlationId"] if name != OS_CALLS else []))
        columns = {
            "start": "start",
            "end": 'COALESCE("end", start)',
            "thread": or_default(export, name, "globalTid", 0),
            "correlation": or_default(export, name, "correlationId", -1),
            "name": "COALESCE(nameId, 0)",
        }
        for batch in export.batches(name, columns):
            batch["thread"], batch["name"] = threads.of(batch["thread"]), ids.of(batch["name"])
            parts.append(narrow(batch))
    # The thread's number without its lowest 24 bits is that of its process.
    process = np.array(list(threads.index), dtype=np.int64) >> 24
    for part in parts:
        part["process"] = process[part["thread"]]
    return parts, threads, [plain_call(text) for text in export.names(ids.index)]
