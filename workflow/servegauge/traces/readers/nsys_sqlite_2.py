"""nsys sqlite exports of schema 1 and 2, and from before there was a version (nsys 2019 to 2021).

Every column is NOT NULL there: an absent value is the type's default (0, an empty text), and a graph is never one row.
"""

from __future__ import annotations

from servegauge.traces import nsys_export, sqlite_source
from servegauge.traces.capture import Capture

KNOWN = "nsys sqlite exports of schema 1 and 2, or without version"

_DIALECT = nsys_export.Dialect(driver_calls="CUPTI_ACTIVITY_KIND_DRIVER", null_text=False, graphs=False)


def abstains(source) -> str | None:
    """None for these exports, else why not."""
    if source.format != "sqlite":
        return f"{source.format} is no sqlite export"
    return None if source.version < (3, 0) else f"schema {source.schema} is not before 3.0"


def read(source) -> Capture:
    """The capture in the export."""
    with sqlite_source.opened(source.path) as export:
        return nsys_export.read(export, _DIALECT)
