"""Where a server's compile caches are: kept between the launches of one configuration, else private to one launch.

Compiling is most of a start on a GPU, and gives the same code each time. What is kept is executed, so it is in a
folder that only this user can write; and it holds choices that a first launch measured (the tiles of a kernel), so it
is shared by the repeats of one configuration and by nothing else.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from dataclasses import dataclass, field
from pathlib import Path

from servegauge.base.files import write_json
from servegauge.base.progress import utc_now

READY, LOCK = "ready.json", "lock"


class _Refused(Exception):
    """Why nothing can be kept."""


@dataclass
class Cache:
    """`state`: warm where a server of this configuration got ready with what is there; `reason`: why none is kept."""

    folder: Path
    state: str = "cold"
    reason: str | None = None
    _lock: int | None = field(default=None, repr=False)

    def release(self, ready: bool) -> None:
        """Give it up. Only what a server got ready with is used again: it may be what kept one from it."""
        if self._lock is None:
            return
        proof = self.folder.parent / READY
        try:
            if ready:
                write_json(proof, {"ready_utc": utc_now()})
            else:
                proof.unlink(missing_ok=True)
        except OSError:  # the next launch compiles once more
            pass
        finally:
            os.close(self._lock)
            self._lock = None


def take(scratch: str | None, key: str, private: Path) -> Cache:
    """The cache `key` in `scratch` (variables are filled in), or an empty one in `private` with the reason."""
    try:
        return _kept(scratch, key)
    except _Refused as refused:
        reason = str(refused)
    except OSError as error:
        reason = f"{error.filename or scratch}: {error.strerror or error}"
    private.mkdir(mode=0o700, exist_ok=True)
    return Cache(private, reason=reason)


def _kept(scratch: str | None, key: str) -> Cache:
    if not scratch:
        raise _Refused("the platform has no scratch")
    parent = Path(os.path.expandvars(scratch)).absolute()  # in containers it is a mount
    if not parent.is_dir():
        raise _Refused(f"the platform's scratch {parent} is no folder on this node")
    mine = parent / f"servegauge-cache-{os.getuid()}"
    _private(mine)
    folder = mine / key
    _private(folder)
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        warm = (folder / READY).is_file()
        for left in () if warm else [one for one in folder.iterdir() if one.name != LOCK]:
            shutil.rmtree(left)  # of a start that was cut off
        caches = folder / "caches"
        caches.mkdir(mode=0o700, exist_ok=True)
    except BaseException as error:
        os.close(lock)
        if isinstance(error, BlockingIOError):
            raise _Refused("another launch of this configuration uses it now") from None
        raise
    return Cache(caches, "warm" if warm else "cold", _lock=lock)


def _private(folder: Path) -> None:
    """Make `folder` for this user alone; what others could have written to is not used."""
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise _Refused(f"{folder} is not a folder that only this user can write")
