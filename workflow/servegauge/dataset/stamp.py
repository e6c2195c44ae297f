"""The stamp of a study's dataset: what it was made of, and which tables there are, so that a hollow one is found.

Snakemake compares the times of plan, attempts and stamp, and nothing else. What is damaged, copied here, made by hand
or written by a clock that was set back goes unseen by it, and so does a table that is deleted or cut.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from servegauge.base.files import object_in, write_json
from servegauge.contract.records.order import RECORDS, probe_documents
from servegauge.contract.records.plan import Plan
from servegauge.contract.spec import digest

PARQUET = b"PAR1"  # the last bytes of a whole file


def stamp_file(results: Path, study: str) -> Path:
    """The output of rule `merge_dataset`."""
    return results / "dataset" / "merged" / f"{study}.json"


def seen(results: Path, plan: Plan) -> str:
    """One digest of the names, sizes and times of everything that the rows of a study are made of."""
    measured = {"cells": plan.cells, "traces": plan.traces}
    found = [results / kind / one.id / record for kind, record in RECORDS.items() for one in measured[kind]]
    for launch in plan.every_launch:
        found += sorted((results / "launches" / launch.id).glob("attempt-*.json"))
    found += probe_documents(results)
    states = []
    for path in found:
        with contextlib.suppress(OSError):
            state = path.stat()
            states.append([str(path.relative_to(results)), state.st_size, state.st_mtime_ns])
    return digest(states, 32)


def write_stamp(path: Path, results: Path, made_of: str, merged: Mapping[str, Any]) -> None:
    """Write the stamp, last of all. `made_of` is what was `seen` before the merge began."""
    dataset = results / "dataset"
    tables = sorted(
        str(path.relative_to(dataset)) for path in (*dataset.glob("*.parquet"), *dataset.glob("*/*.parquet"))
    )
    write_json(path, {**merged, "seen": made_of, "tables": tables})


def is_whole(results: Path, plan: Plan) -> bool:
    """Whether the dataset has every table that its stamp names, made of what is there now."""
    known = object_in(stamp_file(results, plan.name))
    return bool(known.get("tables")) and known.get("seen") == seen(results, plan) and not list(_broken(results, known))


def forget_broken_parts(results: Path, study: str) -> None:
    """Remove the parts of a launch of which one is not whole: the one of its requests vouches for the others."""
    dataset = results / "dataset"
    for table in _broken(results, object_in(stamp_file(results, study))):
        for part in dataset.glob(f"*/{table.name}") if table.parent != dataset else ():
            if part.is_file():
                part.unlink()


def _broken(results: Path, known: Mapping[str, Any]) -> Iterator[Path]:
    """Tables that a stamp names and that are not there, or not whole."""
    tables = known.get("tables")
    for name in tables if isinstance(tables, list) else ():
        path = results / "dataset" / str(name)
        try:
            with path.open("rb") as file:
                file.seek(-len(PARQUET), os.SEEK_END)
                if file.read() == PARQUET:
                    continue
        except OSError:
            pass
        yield path
