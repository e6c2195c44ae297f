"""Probes in the job of a launch on a real cluster: one job, found again, and one of their own where that one ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from servegauge.base.files import read_json, write_json
from tests.pretend.cluster import jobs_of, platform, slurm
from tests.pretend.pretend_site import Site, of_probes, wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]

ASKED = {"probes": ["dispatch", "memcpy"], "probe_size": "quick", "probe_processes": 2}
PROBE = """
from pathlib import Path
from servegauge.plan.probes import AskedProbes
from servegauge.submit import probe_order
order = probe_order.by_names("own-cpu", AskedProbes("dispatch,memcpy", "quick", 2, ("tiny",), (1,)), Path())
print(probe_order.submit(order, "slurm", 1.0))
"""


@pytest.fixture
def launch(site: Site) -> Iterator[str]:
    """A launch whose cells are measured and whose job runs probes now."""
    there = {"slurm": {**platform()["slurm"], "time_min": 60}, "gpus_per_node": 0}
    del there["slurm"]["gres"]
    site.platform = {"name": "own-cpu", **there}
    write_json(site.root / "config/platforms/own-cpu.yaml", {"description": "here", **there})
    write_json(site.root / "config/models/tiny.yaml", {"description": "tiny", "source": "models/tiny"})
    [launch] = site.plan({})
    file = site.results / "plan/demo.json"
    plan = read_json(file)
    write_json(file, plan | {"study": plan["study"] | ASKED})
    process = site.start(launch, 0, "--probes")
    wait_for(lambda: (site.results / "probes/launches/probes-own-cpu/attempt-0/running.json").exists(), 100, "probes")
    yield launch
    assert process.wait(60) == 0
    assert site.statuses(launch) == ["ok"]
    assert site.outcome(launch)["status"] == "ok"


def probes(site: Site) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROBE], cwd=site.root, env=site.environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def record(site: Site, attempt: int = 0) -> dict[str, Any]:
    return read_json(site.results / f"probes/launches/probes-own-cpu/attempt-{attempt}/job.json")


def written(site: Site) -> set[str]:
    return {path.name for path in site.results.glob("probes/own-cpu/*.json")}


def test_they_are_found_again_after_a_kill_and_nothing_is_submitted_for_them(site: Site, launch: str) -> None:
    first = probes(site)
    wait_for(lambda: (site.results / "probes/launches/probes-own-cpu/attempt-0/job.json").exists(), 60, "its wait")
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    said = probes(site).communicate(timeout=120)[0]
    assert written(site) == {"dispatch.json", "memcpy.json"}, said
    assert record(site)["job"] == site.job_of(launch)["job"]
    assert not list(site.results.glob("probes/launches/*/attempt-*/job-*"))


def test_a_job_that_is_cancelled_in_its_probes_leaves_them_to_one_of_their_own(site: Site, launch: str) -> None:
    job = site.job_of(launch)["job"]
    # Stopped, because they last for seconds and scancel may take as long.
    wait_for(lambda: any(not os.kill(pid, signal.SIGSTOP) for pid in of_probes(site.root)), 60, "a probe")
    slurm("scancel", job)
    wait_for(lambda: job not in jobs_of(site), 60, "its end")
    said = probes(site).communicate(timeout=200)[0]
    assert "ended before its turn" in said
    assert written(site) == {"dispatch.json", "memcpy.json"}
    assert record(site, 1)["job"] not in (None, job)
