"""API calls of an nsys export, more rows than of anything else: of a large one read by a process beside this one.

    python -m servegauge.traces.nsys_calls EXPORT FOLDER TABLE [TABLE]

writes each column as an .npy to FOLDER, and texts.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from servegauge.base.errors import UserError
from servegauge.traces.names import plain_call
from servegauge.traces.sqlite_columns import Codes, narrow, need, or_default
from servegauge.traces.sqlite_source import Export, opened

BESIDE_BYTES = 100_000_000
"""Below this size of the export a second process costs more than it saves."""

Found = tuple[list[dict[str, np.ndarray]], Codes, list[str]]
"""Parts of Calls, the codes of threads (globalTid) in them, and the texts that their `name` is an index of."""

_COLUMNS = ("start", "end", "thread", "correlation", "name")


@contextmanager
def beside(export: Export, tables: Sequence[str]) -> Iterator[Callable[[], Found]]:
    """Begin to read the calls; what is given waits for them and returns them. Raises what reading them raises."""
    present = [name for name in tables if name in export.columns]
    if export.path.stat().st_size < BESIDE_BYTES or len(os.sched_getaffinity(0)) < 2 or not present:
        yield lambda: read(export, present)
        return
    with tempfile.TemporaryDirectory(prefix="servegauge-trace-") as folder:
        command = [sys.executable, "-m", __name__, str(export.path.absolute()), folder, *present]
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            yield lambda: _collect(child, Path(folder), export.path)
        finally:
            child.kill()
            child.wait()
            child.stderr.close()


def _collect(child: subprocess.Popen, folder: Path, path: Path) -> Found:
    said = child.stderr.read().decode("utf-8", "replace").strip()
    child.wait()
    if child.returncode == 2 and said:
        raise UserError(said)
    if child.returncode:
        last = said.splitlines()[-1] if said else "it said nothing"
        raise UserError(f"{path}: the process that reads its API calls ended with {child.returncode}: {last}")
    texts = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
    part = {name: np.load(folder / f"{name}.npy") for name in _COLUMNS}
    threads = Codes()
    for value in texts["threads"]:
        threads.index[value] = len(threads.index)
    return _placed([part], threads), threads, texts["names"]


def read(export: Export, tables: Sequence[str]) -> Found:
    """The calls of the tables, in this process."""
    parts, threads, texts = _parts(export, tables)
    return _placed(parts, threads), threads, texts


def _placed(parts: list[dict[str, np.ndarray]], threads: Codes) -> list[dict[str, np.ndarray]]:
    """The parts with the process of each call: the thread's number without its lowest 24 bits."""
    process = np.array(list(threads.index), dtype=np.int64) >> 24
    for part in parts:
        part["process"] = process[part["thread"]]
    return parts


def _parts(export: Export, tables: Sequence[str]) -> Found:
    threads, ids = Codes(), Codes()
    parts = []
    for name in tables:
        need(export, name, "start", "end", "correlationId", "nameId")
        columns = {
            "start": "start",
            "end": 'COALESCE("end", start)',
            "thread": or_default(export, name, "globalTid", 0),
            "correlation": "COALESCE(correlationId, -1)",
            "name": "COALESCE(nameId, 0)",
        }
        for batch in export.batches(name, columns):
            batch["thread"], batch["name"] = threads.of(batch["thread"]), ids.of(batch["name"])
            parts.append(narrow(batch))
    return parts, threads, [plain_call(text) for text in export.names(ids.index)]


def main(path: Path, folder: Path, tables: Sequence[str]) -> int:
    """The process beside: read the calls of `tables` and leave them in `folder`."""
    with opened(path) as export:
        parts, threads, texts = _parts(export, tables)
    for name in _COLUMNS:
        columns = [part.pop(name) for part in parts]
        np.save(folder / f"{name}.npy", np.concatenate(columns) if columns else np.empty(0, dtype=np.int64))
    found = {"threads": list(threads.index), "names": texts}
    (folder / "texts.json").write_text(json.dumps(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
