"""Rows of QUALITY: the graded questions of each launch, of the last attempt that asked them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

FILE = re.compile(r"attempt-(\d+)")
COLUMNS = ("item", "kind", "prompt_sha256", "text", "correct", "reason")


def quality_rows(results: Path, read: Callable[[Path], Mapping[str, Any] | None]) -> list[dict[str, Any]]:
    """Every launch's answers. `read` gives a file's JSON object, or null where it is none (and says so)."""
    found: dict[str, tuple[int, list[Mapping[str, Any]]]] = {}
    for path in sorted((results / "launches").glob("*/attempt-*/quality.json")):
        launch, attempt = path.parent.parent.name, FILE.fullmatch(path.parent.name)
        document = read(path) if attempt else None
        rows = (document or {}).get("items")
        if attempt and isinstance(rows, list) and int(attempt[1]) >= found.get(launch, (0, []))[0]:
            found[launch] = (int(attempt[1]), [row for row in rows if isinstance(row, dict)])
    return [
        {"launch": launch, **{name: row.get(name) for name in COLUMNS}}
        for launch, (_, rows) in found.items()
        for row in rows
    ]
