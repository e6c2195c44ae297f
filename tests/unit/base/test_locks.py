"""A lock that another has is waited for; the waiting can be ended; a file system without locks is distinguished."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from servegauge.base.locks import NoLocks, wait_for_lock


def test_a_lock_is_waited_for_and_the_first_wait_is_marked(tmp_path: Path) -> None:
    path, calls = tmp_path / "lock", []
    with path.open("a") as holder, path.open("a") as file:
        fcntl.flock(holder, fcntl.LOCK_EX)

        def wait(first: bool) -> None:
            calls.append(first)
            if len(calls) == 3:
                fcntl.flock(holder, fcntl.LOCK_UN)

        wait_for_lock(file, wait)
        assert calls == [True, False, False]
        with pytest.raises(BlockingIOError):
            fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_what_wait_raises_ends_the_waiting(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with path.open("a") as holder, path.open("a") as file:
        fcntl.flock(holder, fcntl.LOCK_EX)

        def wait(first: bool) -> None:
            raise OSError("the disk is full")

        with pytest.raises(OSError, match="the disk is full") as error:
            wait_for_lock(file, wait)
        assert not isinstance(error.value, NoLocks)


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: object, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", flock)
    with (tmp_path / "lock").open("a") as file, pytest.raises(NoLocks, match="not supported"):
        wait_for_lock(file, lambda first: None)
