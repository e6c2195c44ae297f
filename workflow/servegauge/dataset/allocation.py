"""Where an attempt's time went: servers starting, cells, and in them the windows that were counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from servegauge.base.progress import seconds_of
from servegauge.contract.tables import ALLOCATION


def columns(
    started_utc: str | None,
    finished_utc: str | None,
    starts_s: Iterable[float],
    cells: Iterable[Mapping[str, Any]],
    spent_s: Mapping[str, float],
) -> dict[str, float | None]:
    """ALLOCATION of one attempt: its times, how long each start of its servers took, its rows of CELLS, `spent_s`."""
    job = _between(started_utc, finished_utc)
    if job is None:
        return dict.fromkeys(field.name for field in ALLOCATION)
    cells = list(cells)
    spans = [_between(row.get("started_utc"), row.get("finished_utc")) or 0.0 for row in cells]
    windows = [row.get("window_s") or 0.0 for row in cells]
    resets = [row["reset_s"] for row in cells if row.get("reset_s") is not None]
    return {
        "job_s": job,
        "starts_s": sum(starts_s),
        "cells_s": sum(spans),
        "windows_s": sum(windows),
        "resets_s": sum(resets) if resets else None,
        **{f"{what}_s": spent_s.get(what) for what in ("calibration", "idle_power")},
    }


def _between(start: str | None, end: str | None) -> float | None:
    began, ended = seconds_of(start), seconds_of(end)
    return None if began is None or ended is None else ended - began
