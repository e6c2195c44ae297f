"""Every table of the dataset: those of `contract.tables`, and those that recorders leave beside a cell."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from servegauge.base.errors import UserError
from servegauge.contract import tables
from servegauge.contract.columns import KEYS, table_schema
from servegauge.launch.recorders import recorders


@cache
def parted() -> dict[str, pa.Schema]:
    """Tables that are folders of one Parquet file per launch."""
    found = {name: tables.TABLES[name] for name in tables.PARTED}
    for kind in recorders().values():
        for name, schema in kind.tables().items():
            if name not in tables.TABLES:
                own = [field for field in schema if field.name not in ("cell", "launch")]
                about = f"{kind.records[:1].upper()}{kind.records[1:]}. Stored in one part per launch."
                found.setdefault(name, table_schema(name, about, [*KEYS, *own]))
    return found


def catalogue() -> dict[str, pa.Schema]:
    """Every table of results/dataset/, in the order of the data dictionary."""
    return {**tables.TABLES, **parted()}


def read_parquet(path: Path, **asked: Any) -> pa.Table:
    """A table of the dataset, or a part of one, as `pyarrow.parquet.read_table`; UserError where it is damaged."""
    try:
        return pq.read_table(path, **asked)
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"{path} cannot be read: {str(error).rstrip('.')}. `python scripts/merge_dataset.py` makes it anew where "
            "what was measured is; else copy it again"
        ) from error
