"""Bring in what the same study measured elsewhere: on another cluster, by another login node.

Everything is verified before anything is copied: files against the hashes that their record keeps, and against what
is here under the same name. A name that is here with other contents is a conflict; then nothing is copied. Given
again, after more was measured or an interruption, `join` brings what is new.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from servegauge.base.errors import UserError
from servegauge.base.files import sha256, whole_file, whole_folder, write_json
from servegauge.base.progress import utc_now
from servegauge.contract.records.cell import FileHash
from servegauge.contract.records.order import RECORDS
from servegauge.dataset.joined import FOLDER

WHOLE = (*RECORDS, "workloads", "plan", "calibrations", "probes")
"""Folders of results whose entries are taken whole, beside `launches`, which grow by attempts."""

MADE_AGAIN = ("plan", "calibrations")
"""Entries that each side makes for itself: ours stay where both have one."""

NO_FILE = "is a link or no ordinary file; only files are copied"


NO_NAME = "has a name with control characters, or one that is no text"


class _Files(msgspec.Struct):
    """What `cell.json` and `trace.json` say of the files beside them, and of the attempt that made them."""

    launch: str
    attempt: int
    files: dict[str, FileHash] = {}


@dataclass
class Joined:
    """What `join` found: paths below results/."""

    new: list[Path] = field(default_factory=list)
    same: int = 0
    unfinished: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)

    def names(self, kind: str) -> list[str]:
        """Names in results/<kind>/ that are new."""
        return sorted({path.parts[1] for path in self.new if path.parts[0] == kind})


def join(other: Path, results: Path, label: str) -> Joined:
    """Copy what `other`, a results folder, has and `results` lacks; `label` names it in the report.

    UserError, with nothing copied: `other` is no results folder or is `results`; a file is damaged, a link, or here
    with other contents. Attempts that have not ended, and their cells, are left for the next call.
    """
    _check(other, results)
    found = Joined()
    launches = sorted((other / "launches").glob("[!.]*/"))
    found.conflicts += [f"launches/{path.name} {NO_FILE}" for path in launches if path.is_symlink()]
    for kind in WHOLE:
        for entry in sorted((other / kind).glob("[!.]*")):
            if kind in RECORDS and not _has_ended(other, entry / RECORDS[kind], found):
                continue
            _entry(other, results, entry, found)
    for launch in launches:
        for file in _finished(launch):
            _file(other, results, file, found)
    if found.conflicts:
        shown = "\n  ".join(found.conflicts[:20])
        more = f"\n  and {len(found.conflicts) - 20} more" if len(found.conflicts) > 20 else ""
        raise UserError(
            f"{other} was not joined, and nothing was copied:\n  {shown}{more}\nKeep one of two that differ, and take "
            "the other out of its results folder; a damaged cell is measured again where it was measured."
        )
    _refuse_too_much(other, results, found)
    if found.new:  # before the copies: an interrupted call's launches have their label, too
        record = {
            "version": 1,
            "label": label,
            "joined_utc": utc_now(),
            **{kind: found.names(kind) for kind in ("launches", "cells", "traces", "probes")},
        }
        number = len(list((results / FOLDER).glob("*.json")))
        write_json(results / FOLDER / f"{number}.json", record)
    _copy(other, results, found)
    return found


def _check(other: Path, results: Path) -> None:
    if not (other / "launches").is_dir():
        inside = " It has a folder results/: name that." if (other / "results" / "launches").is_dir() else ""
        raise UserError(
            f"{other} is not a results folder: it has no folder launches/.{inside} Give the results/ of a clone of "
            "servegauge in which the study was measured, on a disk that this machine sees, or a copy of it."
        )
    if other.resolve() == results.resolve():
        raise UserError(f"{other} is this results folder; name the other one.")
    for folder in (results, *(results / kind for kind in ("launches", FOLDER, *WHOLE))):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is not a folder; results are kept in one. Move it away, then join again.")


def _has_ended(other: Path, record: Path, found: Joined) -> bool:
    """True where the attempt that made a cell or trace has ended. What cannot be read is found to be damaged later."""
    try:
        listed = _listed(record)
    except (OSError, ValueError):
        return True
    if Path(listed.launch).name != listed.launch or not (other / "launches" / listed.launch).is_dir():
        where = f"{record.parent.parent.name}/{record.parent.name}"
        found.conflicts.append(f"{where} is of the launch {listed.launch!r}, which is not there: copy all of results/")
        return False
    if (other / "launches" / listed.launch / f"attempt-{listed.attempt}.json").is_file():
        return True
    found.unfinished.append(record.parent.name)
    return False


def _listed(record: Path) -> _Files:
    """What a record says of the files beside it. OSError, ValueError."""
    if record.exists() and not record.is_file():  # a pipe would never be read to its end
        raise ValueError("it is no ordinary file")
    try:
        return msgspec.json.decode(record.read_bytes(), type=_Files)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _finished(launch: Path) -> Iterator[Path]:
    """Files of a launch, but for attempts that have not ended; the files that say "ended" come last."""
    ends = sorted(launch.glob("attempt-*.json"))
    attempts = {end.with_suffix("") for end in ends}
    for entry in sorted(launch.iterdir()):
        if entry in attempts:
            yield from _files(entry)
        elif entry.is_file() and entry not in ends:
            yield entry
    yield from ends


def _files(folder: Path) -> Iterator[Path]:
    """Files below `folder`, itself if it is one; hidden ones are work in progress."""
    if not folder.is_dir() or folder.is_symlink():
        yield folder
        return
    for entry in sorted(folder.iterdir()):
        if not entry.name.startswith("."):
            yield from _files(entry)


def _entry(other: Path, results: Path, entry: Path, found: Joined) -> None:
    """Compare one entry of results/<kind>/; a folder that is not here is new as a whole."""
    kind = entry.parent.name
    here = results / entry.relative_to(other)
    if kind in MADE_AGAIN and here.exists():
        found.same += 1
        return
    before = len(found.conflicts)
    if kind in RECORDS:
        _verify(entry, RECORDS[kind], found)
    if len(found.conflicts) > before:
        return
    if kind != "probes" and entry.is_dir() and not entry.is_symlink() and not _has_content(here):
        for file in _files(entry):
            if file.is_symlink() or not file.is_file():
                found.conflicts.append(f"{file.relative_to(other)} {NO_FILE}")
            elif not str(file.relative_to(other)).isprintable():
                found.conflicts.append(f"{file.relative_to(other)} {NO_NAME}")
        found.new.append(entry.relative_to(other))
        return
    for file in _files(entry):
        _file(other, results, file, found)


def _has_content(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _verify(folder: Path, name: str, found: Joined) -> None:
    """Hold the files of a cell or trace against the hashes in its record."""
    where = f"{folder.parent.name}/{folder.name}"
    try:
        listed = _listed(folder / name)
    except FileNotFoundError:
        found.conflicts.append(f"{where} has no {name}")
        return
    except (OSError, ValueError) as error:
        found.conflicts.append(f"{where}/{name} cannot be read: {error}")
        return
    for file, expected in listed.files.items():
        path = folder / file
        if Path(file).name != file:
            found.conflicts.append(f"{where}/{name} names a file outside its folder: {file!r}")
        elif not path.is_file() or path.is_symlink():
            found.conflicts.append(f"{where}/{file} is gone, or is a link")
        elif damage := expected.damage(f"{where}/{file}", FileHash(sha256=sha256(path), bytes=path.stat().st_size)):
            found.conflicts.append(f"{damage}: it is damaged")


def _file(other: Path, results: Path, file: Path, found: Joined) -> None:
    name = file.relative_to(other)
    here = results / name
    if file.is_symlink() or not file.is_file():
        found.conflicts.append(f"{name} {NO_FILE}")
    elif not str(name).isprintable():
        found.conflicts.append(f"{name} {NO_NAME}")
    elif not here.exists():
        found.new.append(name)
    elif here.is_file() and here.stat().st_size == file.stat().st_size and sha256(here) == sha256(file):
        found.same += 1
    else:
        found.conflicts.append(f"{name} is here too, with other contents")


def _refuse_too_much(other: Path, results: Path, found: Joined) -> None:
    """UserError where the disk has no room for what is new, before any of it is copied."""
    size = sum(file.stat().st_size for name in found.new for file in _files(other / name))
    place = next(folder for folder in (results, *results.absolute().parents) if folder.exists())
    if size > (free := shutil.disk_usage(place).free):
        raise UserError(
            f"{other} has {size / 1e9:.1f} GB that are new, and the disk of {results} has {free / 1e9:.1f} GB free; "
            "nothing was copied. Make room, or take out what is not needed there."
        )


def _copy(other: Path, results: Path, found: Joined) -> None:
    """Each entry whole or not at all, in the order found: what says that an attempt has ended comes after its files."""
    for name in found.new:
        source, target = other / name, results / name
        if source.is_dir():
            with whole_folder(target) as temporary:
                for file in _files(source):
                    copy = temporary / file.relative_to(source)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, copy)
                    status = file.stat()
                    # What only its user reads stays so; no set-user-ID, nor more rights than our umask gives.
                    copy.chmod(copy.stat().st_mode & status.st_mode & 0o777)
                    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
        else:
            with whole_file(target, source.stat().st_mode & 0o777) as temporary:
                shutil.copyfile(source, temporary)
