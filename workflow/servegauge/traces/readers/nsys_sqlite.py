"""nsys sqlite exports: of schema 3 (nsys 2022 and later), 1 and 2, and from before there was a version (nsys 2019).

Checked with 3.0.0, 3.20.3, 3.24.14 and 3.25.0. A later 3.x only adds to them by nsys' own rule for minor versions; what
is needed is asked for column by column, so one that is gone is named. Before schema 3 every column is NOT NULL: an
absent value is the type's default (0, an empty text), and a graph is never one row.
"""

from __future__ import annotations

from servegauge.traces import nsys_export, sqlite_source
from servegauge.traces.capture import Capture

KNOWN = "nsys sqlite exports of schema 1 to 3, or without version"


def reads(source) -> bool:
    """Whether it is such an export."""
    return source.format == "sqlite" and source.version < (4, 0)


def read(source) -> Capture:
    """The capture in the export."""
    with sqlite_source.opened(source.path) as export:
        return nsys_export.read(export, nulls=source.version >= (3, 0))
