"""BurstGPT: Timestamp in seconds, Model, Request tokens, Response tokens, ...; failed requests have 0 tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from servegauge.contract.config_types import Prompts
from servegauge.workloads.recording import Format, Recorded, csv_rows, seconds, whole


def _read(path: Path, spec: Prompts) -> Iterator[Recorded]:
    for line, row in csv_rows(path, ("Timestamp", "Request tokens", "Response tokens"), spec.get("where")):
        asked, answer = (whole(row[name], path, line, name) for name in ("Request tokens", "Response tokens"))
        yield Recorded(seconds(row["Timestamp"], path, line, "Timestamp"), asked, answer)


BURSTGPT = Format("burstgpt", "BurstGPT trace", _read)
