"""A real Slurm cluster, or a skip with the reason; with SERVEGAUGE_REQUIRE_SLURM=1 the skip is a failure."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NoReturn

import pytest

from tests.pretend.cluster import AT_ONCE, LATE, jobs_of, on_node, platform, slurm


def why_no_cluster() -> str:
    """Why the tests of this folder cannot run here, or nothing."""
    if shutil.which("sinfo") is None:
        return "there is no Slurm on this machine; `make slurm-up` brings one (Debian or Ubuntu, as root)"
    answer = subprocess.run(["sinfo", "-h", "-o", "%R"], capture_output=True, text=True, timeout=60)
    if answer.returncode or not {"bm", "vgpu", "urgent"} <= set(answer.stdout.split()):
        return "Slurm does not answer here, or is not the test cluster; `make slurm-up` starts it"
    return ""


def cannot(reason: str) -> NoReturn:
    """A skip; a failure where these tests are what somebody came for."""
    if os.environ.get("SERVEGAUGE_REQUIRE_SLURM") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def cluster() -> None:
    """The cluster of `make slurm-up`, all its nodes in service."""
    if reason := why_no_cluster():
        cannot(reason)
    slurm("scontrol", "update", "nodename=bm[01-02],vgpu[01-02]", "state=resume", check=False)


@pytest.fixture(scope="session")
def networks(cluster) -> dict[str, str]:
    """The address of each node, where each has one of its own; what it writes to `LATE`, others see late."""
    found = dict(line.split() for line in slurm("sinfo", "-h", "-N", "-o", "%N %o").splitlines())
    if len(set(found.values())) < len(found):
        cannot("the nodes share one network; `make slurm-up` says why they have none of their own")
    return found


@pytest.fixture(scope="session")
def calibrations(tmp_path_factory):
    """The nodes' calibrations, measured once for all tests."""
    return tmp_path_factory.mktemp("calibrations")


@pytest.fixture
def late(networks):
    """A folder that this machine and every node see late; that it is so is seen before it is used."""
    folder = Path(tempfile.mkdtemp(dir=LATE))
    file = folder / "looked-for"
    assert not file.exists()
    assert on_node("bm01", "touch", str(file)).returncode == 0
    assert (AT_ONCE / folder.name / file.name).exists()
    assert not file.exists()
    yield folder
    shutil.rmtree(AT_ONCE / folder.name)


@pytest.fixture
def site(cluster, tmp_path):
    """A working directory on the cluster; a job or a process that a test leaves behind fails it."""
    yield from site_in(tmp_path)


@pytest.fixture
def late_site(late):
    """The same, in a folder that everybody sees late."""
    yield from site_in(late)


def site_in(folder):
    from tests.pretend.pretend_site import Site, wait_for

    site = Site(folder, submit="slurm", platform=platform())
    yield site
    end = time.monotonic() + 30  # Slurm shows a job that has ended as completing for a while
    while (left := jobs_of(site)) and time.monotonic() < end:
        time.sleep(1)
    for job in left:
        slurm("scancel", job, check=False)
    wait_for(lambda: not site.processes(), 40, f"processes to end: {site.processes()}")
    assert not left, f"jobs left behind: {left}"
