"""The lock of a machine is everybody's: what another user may have put in its place is never written to."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import pytest

from servegauge.base.errors import UserError
from servegauge.submit import entrypoint


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(entrypoint, "MACHINE_LOCK", tmp_path / "lock")
    return tmp_path / "lock"


def test_it_is_made_for_everybody_and_says_who_has_it(lock: Path) -> None:
    with entrypoint.machine_lock("a launch"):
        assert lock.read_text().startswith("a launch (process ")
    assert lock.stat().st_mode & 0o777 == 0o666


@pytest.mark.parametrize("kind", ["link", "dangling link", "hard link", "folder"])
def test_what_is_no_ordinary_file_is_refused_and_left_alone(lock: Path, tmp_path: Path, kind: str) -> None:
    victim = tmp_path / "victim"
    if kind != "dangling link":
        victim.write_text("precious")
    if kind == "hard link":
        os.link(victim, lock)
    elif kind == "folder":
        lock.mkdir()
    else:
        lock.symlink_to(victim)
    with pytest.raises(UserError, match="SERVEGAUGE_MACHINE_LOCK"), entrypoint.machine_lock("a launch"):
        pass
    assert not victim.exists() if kind == "dangling link" else victim.read_text() == "precious"


def test_what_another_user_wrote_into_it_is_not_obeyed(
    lock: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lock.write_bytes(b"\x1b[2J\xff" + b"x" * 10_000)

    def busy(file: TextIO, wait: Callable[[bool], None]) -> None:
        wait(True)

    monkeypatch.setattr(entrypoint, "wait_for_lock", busy)
    with entrypoint.machine_lock("a launch"):
        said = capsys.readouterr().out
    assert said.startswith("waiting for this machine: \\x1b[2J")
    assert len(said) < 300
