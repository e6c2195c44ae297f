"""NVIDIA's nsys on this node: where it is, its reports as sqlite, and what of a report may be kept.

A report holds the environment of every process of the node that its owner may read, keys included, what the server
printed, and the names of all processes. So no report is kept: of its export, `clean` leaves what was recorded.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from glob import glob
from pathlib import Path

from servegauge.base import supervisor

VARIABLE = "SERVEGAUGE_NSYS"  # names another nsys than the one on the PATH
PLACES = (
    "/opt/nvidia/nsight-systems*/*/bin/nsys",
    "/opt/nvidia/nsight-*/*/host/target-linux-*/nsys",
    "/usr/local/cuda*/bin/nsys",
)
IMPORTER = "QdstrmImporter"
IMPORTER_FOLDERS = ("host-linux-*", "linux-desktop-*", "nsight-systems/host-linux-*")  # beside nsys or above it

_KEPT = re.compile(
    r"CUPTI_.*|CUDA_.*|NVTX_.*|OSRT_API|ENUM_.*|StringIds|PROCESSES|ThreadNames|PROFILER_OVERHEAD|ANALYSIS_DETAILS|"
    r"TARGET_INFO_GPU|TARGET_INFO_SESSION_START_TIME|TARGET_INFO_CUDA_.*|EXPORT_META_DATA|META_DATA_EXPORT"
)
_OF_PROCESSES = {"PROCESSES": "globalPid", "ThreadNames": "globalTid"}  # of the whole node
_ABOUT = {"EXPORT_META_DATA", "META_DATA_EXPORT"}  # versions, but also the host's name, the user's and paths
_NAMES = ("nameId", "textId", "demangledName", "shortName", "mangledName")  # numbers of StringIds


class NsysError(Exception):
    """What nsys or its importer could not do; the text says why."""


def find(environment: Mapping[str, str] = os.environ) -> str | None:
    """The nsys that VARIABLE names, else the one on the PATH, else the last of NVIDIA's usual places."""
    path = environment.get("PATH")
    if named := environment.get(VARIABLE):
        return shutil.which(named, path=path)
    usual = sorted(one for place in PLACES for one in glob(place) if os.access(one, os.X_OK))
    return shutil.which("nsys", path=path) or (usual[-1] if usual else None)


def absent(environment: Mapping[str, str] = os.environ) -> str:
    """Why `find` found none, for a message."""
    if named := environment.get(VARIABLE):
        return f"{VARIABLE} is {named!r}, which is no program on this node"
    return f"there is no nsys on this node, neither on the PATH nor in NVIDIA's usual places; {VARIABLE} may name one"


class Call:
    """A call of nsys that does not outlive us: it runs under a guard, which ends it where we end or `cancel`."""

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str] = os.environ) -> None:
        watch = [sys.executable, "-I", "-S", supervisor.__file__, "--grace", "1", "--", *argv]
        self._what = " ".join([Path(argv[0]).name, *[word for word in argv[1:2] if not word.startswith("-")]])
        self._out = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as the call
        self._process = subprocess.Popen(
            watch, stdin=subprocess.PIPE, stdout=self._out, stderr=subprocess.STDOUT, env=dict(environment),
            start_new_session=True,
        )  # fmt: skip

    def finish(self, limit_s: float) -> str:
        """Wait for its end; what it printed. NsysError where it failed or did not end within `limit_s`."""
        try:
            code = self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise NsysError(f"`{self._what}` did not end within {limit_s:g} s") from None
        finally:
            self.cancel()
        self._out.seek(0)
        text = self._out.read().decode("utf-8", "replace").replace("\r", "\n").strip()
        if code:
            last = " ".join(text.splitlines()[-3:])[-400:]
            raise NsysError(f"`{self._what}` failed ({code}): {last or 'it printed nothing'}")
        return text

    def cancel(self) -> None:
        """End it with all that it started; may be called at any time, more than once."""
        if self._process.stdin:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)


def importer(nsys: str) -> Path | None:
    """The program of this nsys that makes a report of what was captured, for an nsys that does not find it itself."""
    for program in dict.fromkeys((Path(nsys), Path(nsys).resolve())):
        for folder in program.parents[:-1]:
            for place in IMPORTER_FOLDERS:
                if found := sorted(folder.glob(f"{place}/{IMPORTER}")):
                    return found[-1]
    return None


def export_argv(nsys: str, report: Path, target: Path) -> list[str]:
    """The command that writes `report` as the sqlite file `target`."""
    return [nsys, "export", "--type", "sqlite", "--force-overwrite", "true", "--output", str(target), str(report)]


def clean(export: Path, without_secrets: Callable[[str], str]) -> None:
    """Leave in an sqlite export what was recorded and what it is called, and take `without_secrets` to each text."""
    with contextlib.closing(sqlite3.connect(export)) as database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for name in names:
            if not _KEPT.fullmatch(name):
                database.execute(f'DROP TABLE "{name}"')
        columns: dict[str, dict[str, str]] = {  # table -> column -> its declared type
            name: {row[1]: row[2].upper() for row in database.execute(f'PRAGMA table_info("{name}")')}
            for name in names
            if _KEPT.fullmatch(name)
        }
        seen: set[int] = set()  # processes with an event
        for name, have in columns.items():
            for place in {"globalTid", "globalPid"} & set(have) if name not in _OF_PROCESSES else ():
                rows = database.execute(f'SELECT DISTINCT {place} >> 24 FROM "{name}" WHERE {place} IS NOT NULL')
                seen |= {process for (process,) in rows}
        for name, place in _OF_PROCESSES.items():
            if name in columns:
                known = ", ".join(map(str, seen))
                database.execute(f'DELETE FROM "{name}" WHERE {place} >> 24 NOT IN ({known})')
        for name in _ABOUT & set(columns):
            likes = " AND ".join(f"name NOT LIKE '%{word}%'" for word in ("PRODUCT", "SCHEMA", "PLATFORM", "ARCH"))
            database.execute(f'DELETE FROM "{name}" WHERE {likes}')
        database.create_function("without_secrets", 1, lambda text: without_secrets(text) if text else text)
        if "StringIds" in columns:
            used = [
                f'SELECT {column} FROM "{name}" WHERE {column} IS NOT NULL'
                for name, have in columns.items()
                for column in have
                if column in _NAMES
            ]
            database.execute(f"DELETE FROM StringIds WHERE id NOT IN ({' UNION '.join(used) or 'SELECT -1'})")
        for name, have in columns.items():
            for column in (one for one, kind in have.items() if kind in ("TEXT", "BLOB")):
                update = f'UPDATE "{name}" SET "{column}" = {{}} WHERE typeof("{column}") = \'{{}}\''
                database.execute(update.format(f'without_secrets("{column}")', "text"))
                database.execute(update.format("x''", "blob"))  # payloads of ranges, which nothing reads
        database.commit()
        database.execute("VACUUM")
