"""What an exporter and an importer are. `exporters/` and `importers/` hold one file each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from servegauge.contract import cell_tables, tables

SURE = ("cell", "launch", "request", "phase", "status")
"""Columns that an importer always knows. All others may be null: what another tool does not keep is not invented."""

IMPORTED = pa.schema([field.with_nullable(field.name not in SURE) for field in cell_tables.REQUESTS_RAW])
"""The columns of an imported table of requests."""


class Exporter:
    """Writes a study of the dataset in another form. Subclass it once in `exporters/<name>.py`."""

    name: ClassVar[str]
    writes: ClassVar[str]  # what, in a line, for `servegauge export --help`

    def export(self, results: Path, study: str, out: Path) -> list[Path]:
        """Write `study` from results/dataset/ into the folder `out`; the files that were written."""
        raise NotImplementedError


class Importer:
    """Reads requests that another tool measured. Subclass it once in `importers/<name>.py`."""

    name: ClassVar[str]
    reads: ClassVar[str]  # what, in a line, for `servegauge import --help`

    def recognises(self, path: Path) -> bool:
        """True where the file looks like this format; it is asked where no format is named."""
        raise NotImplementedError

    def requests(self, path: Path) -> tuple[pa.Table, Sequence[str]]:
        """The requests as a table of IMPORTED, 0 being the first request's start; and what a reader must know of it.

        UserError names the line that is not what the format says.
        """
        raise NotImplementedError


def imported(rows: list[dict[str, Any]]) -> pa.Table:
    """A table of IMPORTED from rows; absent columns are null."""
    return tables.from_rows(rows, IMPORTED)
