"""Columns of an nsys export in SQL and in numpy: what is there, what stands for it, and how it is kept small."""

from __future__ import annotations

import numpy as np
import pandas as pd

from servegauge.base.errors import UserError
from servegauge.traces.sqlite_source import Export


class Codes:
    """Values seen so far as indices, by hashing: far faster than sorting each batch."""

    def __init__(self) -> None:
        self.index: dict[int, int] = {}

    def of(self, values: np.ndarray) -> np.ndarray:
        """An int32 index for each value; new values get the next ones."""
        codes, found = pd.factorize(values)
        known = [self.index.setdefault(value, len(self.index)) for value in found.tolist()]
        return np.array(known, dtype=np.int32)[codes] if known else np.empty(0, dtype=np.int32)


def need(export: Export, name: str, *columns: str) -> None:
    if missing := [column for column in columns if not export.has(name, column)]:
        raise UserError(
            f"{export.path}: table {name} of schema {export.schema or 'without version'} has no column "
            f"{', '.join(missing)}; it has {', '.join(sorted(export.columns[name]))}; export the report again with the "
            "nsys that recorded it"
        )


def process_of(export: Export, name: str) -> str:
    """SQL for the process of a row: globalPid and globalTid without their lowest 24 bits; 0 where neither is there."""
    for column in ("globalPid", "globalTid"):
        if export.has(name, column):
            return f"COALESCE({column}, 0) >> 24"
    return "0"


def or_default(export: Export, name: str, column: str, default: int) -> str:
    return f'COALESCE("{column}", {default})' if export.has(name, column) else str(default)


def narrow(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The batch with correlations in half the space, where they fit; they nearly always do."""
    out = {}
    for name, values in batch.items():
        fits = name == "correlation" and len(values) and values.max() < 1 << 31
        out[name] = values.astype(np.int32) if fits else values
    return out
