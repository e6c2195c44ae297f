"""The LLM inference traces of Azure's public data set (2023 and 2024): TIMESTAMP, ContextTokens, GeneratedTokens."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from servegauge.base.errors import UserError
from servegauge.contract.config_types import Prompts
from servegauge.workloads.recording import Format, Recorded, csv_rows, whole


def _read(path: Path, spec: Prompts) -> Iterator[Recorded]:
    first = None
    for line, row in csv_rows(path, ("TIMESTAMP", "ContextTokens", "GeneratedTokens"), spec.get("where")):
        try:
            when = datetime.fromisoformat(row["TIMESTAMP"])
            first = first or when
            at_s = (when - first).total_seconds()
        except (TypeError, ValueError) as error:
            text = (
                f"{path}:{line}: TIMESTAMP is {row['TIMESTAMP']!r}, expected a time such as 2023-11-16 18:15:46.68059"
            )
            raise UserError(text) from error
        asked, answer = (whole(row[name], path, line, name) for name in ("ContextTokens", "GeneratedTokens"))
        yield Recorded(at_s, asked, answer)


AZURE = Format("azure", "Azure LLM inference trace", _read)
