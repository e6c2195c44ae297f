"""nsys sqlite exports of schema 3.0 to 3.17 (nsys 2022 to 2024): null where a value is absent, graphs as a whole."""

from __future__ import annotations

from servegauge.traces import nsys_export, sqlite_source
from servegauge.traces.capture import Capture

KNOWN = "nsys sqlite exports of schema 3.0 to 3.17"

_DIALECT = nsys_export.Dialect(driver_calls="CUPTI_ACTIVITY_KIND_DRIVER")


def abstains(source) -> str | None:
    """None for these exports, else why not."""
    if source.format != "sqlite":
        return f"{source.format} is no sqlite export"
    return None if (3, 0) <= source.version < (3, 18) else f"schema {source.schema} is not 3.0 to 3.17"


def read(source) -> Capture:
    """The capture in the export."""
    with sqlite_source.opened(source.path) as export:
        return nsys_export.read(export, _DIALECT)
