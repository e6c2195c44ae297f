"""What `servegauge join` brought from another results folder, and where from."""

from __future__ import annotations

from pathlib import Path

from servegauge.base.files import read_json

FOLDER = "joined"
"""Folder of results: one record for each call of `servegauge join` that brought something."""


def labels(results: Path) -> dict[str, str]:
    """Launch -> the label under which it was joined; none for those measured here."""
    found: dict[str, str] = {}
    for path in sorted((results / FOLDER).glob("*.json"), key=lambda path: (len(path.name), path.name)):
        record = read_json(path)
        found.update(dict.fromkeys(record["launches"], record["label"]))
    return found
