"""Results that a group shares: a setgid folder, umask 007, two users of one group after each other."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests import synthetic
from tests.pretend.pretend_site import Site, wait_for

GROUP, FIRST, SECOND = 60123, 60001, 60002


PACKAGES = os.pathsep.join(path for path in sys.path if path.endswith("site-packages"))


@cache
def python_of_others() -> str | None:
    """A Python that another user can run with our packages; ours may lie in root's home."""
    for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        with contextlib.suppress(OSError):
            tried = subprocess.run(
                [python, "-c", "import msgspec, pyarrow"], capture_output=True, user=FIRST, group=FIRST,
                env={"PYTHONPATH": PACKAGES},
            )  # fmt: skip
            if tried.returncode == 0:
                return python
    return None


def why_not() -> str:
    """Why this machine cannot play two users, or nothing."""
    if os.getuid() != 0:
        return "only root can act as two users of one group; CI is root"
    return (
        ""
        if python_of_others()
        else f"another user can run neither {sys.executable} nor the system's with its packages"
    )


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of the group, where the other users get to (pytest's own folders are root's alone)."""
    if reason := why_not():
        pytest.skip(reason)
    path = Path(tempfile.mkdtemp(prefix="servegauge-group-")).resolve()
    yield path
    shutil.rmtree(path)


def share(folder: Path) -> None:
    """What an administrator does to a project's folder, with what lies in it."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, FIRST, GROUP)
        path.chmod(0o2770 if path.is_dir() else 0o660)


def as_user(user: int, argv: list[str], site: Site) -> subprocess.Popen[str]:
    environment = {**site.environment, "PYTHONPATH": f"{site.environment['PYTHONPATH']}:{PACKAGES}", "HOME": "/none"}
    return subprocess.Popen(
        [python_of_others() or "", *argv[1:]], cwd=site.root, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, user=user, group=user, extra_groups=[GROUP], umask=0o007,
    )  # fmt: skip


def wrong(results: Path) -> list[str]:
    """What is not the group's, or is everybody's."""
    found = []
    for path in results.rglob("*"):
        status = path.lstat()
        mode, private = stat.S_IMODE(status.st_mode), any(part.startswith("job-") for part in path.parts)
        if status.st_gid != GROUP and not private:
            found.append(f"{path}: group {status.st_gid}")
        if mode & 0o007 and not path.is_symlink():
            found.append(f"{path}: {mode:o}")
        if path.is_dir() and not private and mode & 0o2770 != 0o2770:
            found.append(f"{path}: {mode:o}, and the group cannot write there")
    return found


def test_the_second_user_goes_on_with_the_first_ones_run(folder: Path) -> None:
    site = Site(folder)
    [launch] = site.plan({"s": 0.1}, {"s": 60}, {"s": 0.1})
    share(folder)
    first = as_user(FIRST, site.argv(launch), site)
    site.wait("cell", 2)
    [started] = site.log("start")
    os.kill(started["pid"], signal.SIGKILL)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    wait_for(lambda: not (Path("/proc") / str(started["pid"])).exists(), 20, "the job to end")
    plan = site.results / "plan" / "demo.json"
    plan.write_text(plan.read_text().replace('"s": 60', '"s": 0.1'))
    second = as_user(SECOND, site.argv(launch), site)
    said, _ = second.communicate(timeout=100)
    assert second.returncode == 0, said
    assert site.statuses(launch)[0] == "ok", "what the first user measured counts"
    assert set(site.statuses(launch, 1)) == {"ok"}, said
    assert wrong(site.results) == []
    assert (site.results / "launches" / launch / "attempt-0").stat().st_uid == FIRST
    for private in site.results.rglob("job-*/"):
        assert stat.S_IMODE(private.stat().st_mode) == 0o2700, private
    again = as_user(FIRST, site.argv(launch, 2), site)
    said, _ = again.communicate(timeout=100)
    assert again.returncode == 0, said


def test_both_merge_into_one_dataset(folder: Path) -> None:
    synthetic.make_results(folder, requests=20)
    share(folder)
    site = Site(folder)
    code = "import sys, pathlib; from servegauge.dataset import merge; merge.merge(pathlib.Path('results'))"
    for user in (FIRST, SECOND, FIRST):
        done = as_user(user, [sys.executable, "-c", code], site)
        said, _ = done.communicate(timeout=100)
        assert done.returncode == 0, said
        cell = next(iter(sorted((site.results / "cells").iterdir())))
        shutil.rmtree(cell) if user == FIRST else None
    assert wrong(site.results) == []
