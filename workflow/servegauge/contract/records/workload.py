"""What a compiled workload was made of: `workload.json`, which vouches for `workload.parquet` beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from servegauge.contract.records.base import Migration, Record
from servegauge.contract.records.specs import WorkloadSpec


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Least, mean and most tokens of the window's requests."""

    min: int
    mean: float
    max: int


def _without_ramp(document: dict[str, Any]) -> dict[str, Any]:
    """Version 1 had no ramp and no tail, and its window ended with its last answer."""
    return {**document, "ramp_requests": 0, "tail_requests": 0, "window_s": None}


class WorkloadRecord(Record, frozen=True, kw_only=True):
    """A compiled workload. `sha256` is that of its Parquet file, `files` those of every file that shaped it.

    `window_s` is the length of an open loop's window, `last_scheduled_s` when its last request is due, in seconds from
    its start; None for a closed loop. `prompts` is what the prompts' source says of what was drawn.
    """

    WHAT: ClassVar[str] = "the record of a workload"
    REMEDY: ClassVar[str] = "Remove the folder {folder} and give the same command again: it compiles the same bytes."
    VERSION: ClassVar[int] = 2
    MIGRATIONS: ClassVar[Mapping[int, Migration]] = {1: _without_ramp}

    version: int = 2
    id: str
    sha256: str
    requests: int
    warmup_requests: int
    ramp_requests: int
    tail_requests: int
    window_s: float | None
    last_scheduled_s: float | None
    prompt_tokens: Spread
    output_tokens: Spread
    files: dict[str, str]
    prompts: dict[str, Any]
    spec: WorkloadSpec
