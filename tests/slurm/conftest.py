"""A real Slurm cluster, or a skip with the reason; with SERVEGAUGE_REQUIRE_SLURM=1 the skip is a failure."""

from __future__ import annotations

import os
import shutil
import subprocess
import time

import pytest

from tests.pretend.cluster import jobs_of, platform, slurm


def why_no_cluster() -> str:
    """Why the tests of this folder cannot run here, or nothing."""
    if shutil.which("sinfo") is None:
        return "there is no Slurm on this machine; `make slurm-up` brings one (Debian or Ubuntu, as root)"
    answer = subprocess.run(["sinfo", "-h", "-o", "%R"], capture_output=True, text=True, timeout=60)
    if answer.returncode or not {"bm", "vgpu", "urgent"} <= set(answer.stdout.split()):
        return "Slurm does not answer here, or is not the test cluster; `make slurm-up` starts it"
    return ""


@pytest.fixture(scope="session")
def cluster() -> None:
    """The cluster of `make slurm-up`, all its nodes in service."""
    if reason := why_no_cluster():
        if os.environ.get("SERVEGAUGE_REQUIRE_SLURM") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    slurm("scontrol", "update", "nodename=bm[01-02],vgpu[01-02]", "state=resume", check=False)


@pytest.fixture
def site(cluster, tmp_path):
    """A working directory on the cluster; a job or a process that a test leaves behind fails it."""
    from tests.pretend.pretend_site import Site, wait_for

    site = Site(tmp_path, submit="slurm", platform=platform())
    yield site
    end = time.monotonic() + 30  # Slurm shows a job that has ended as completing for a while
    while (left := jobs_of(site)) and time.monotonic() < end:
        time.sleep(1)
    for job in left:
        slurm("scancel", job, check=False)
    wait_for(lambda: not site.processes(), 40, f"processes to end: {site.processes()}")
    assert not left, f"jobs left behind: {left}"
