"""nsys sqlite exports of schema 3.18 and later (nsys 2025 and 2026): green contexts, and the system's clock.

Checked with 3.20.3, 3.24.14 and 3.25.0. A later 3.x only adds to them by nsys' own rule for minor versions; what is
needed is asked for column by column, so one that is gone is named.
"""

from __future__ import annotations

from servegauge.traces import nsys_export, sqlite_source
from servegauge.traces.capture import Capture

KNOWN = "nsys sqlite exports of schema 3.18 and later 3.x"

_DIALECT = nsys_export.Dialect(driver_calls="CUPTI_ACTIVITY_KIND_DRIVER", system_clock=True)


def abstains(source) -> str | None:
    """None for these exports, else why not."""
    if source.format != "sqlite":
        return f"{source.format} is no sqlite export"
    return None if (3, 18) <= source.version < (4, 0) else f"schema {source.schema} is not 3.18 to 3.x"


def read(source) -> Capture:
    """The capture in the export."""
    with sqlite_source.opened(source.path) as export:
        return nsys_export.read(export, _DIALECT)
