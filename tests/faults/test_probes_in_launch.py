"""Probes in the job of a launch: nothing is lost or measured twice, whichever of the two fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from servegauge.base.files import read_json, write_json
from tests.pretend.clone import Clone
from tests.pretend.pretend_site import Site, of_probes, wait_for

ASKED = {"probes": ["dispatch", "memcpy"], "probe_size": "quick", "probe_processes": 1}
PROBE = """
import sys
from pathlib import Path
from servegauge.plan.probes import AskedProbes
from servegauge.submit import probe_order
order = probe_order.by_names("own-cpu", AskedProbes("dispatch,memcpy", "quick", 1, ("tiny",), (1,)), Path())
print(probe_order.submit(order, "local", 0.2))
"""
TINY = {"description": "tiny", "source": "models/tiny"}


def own_jobs(root: Path) -> int:
    """Jobs that probes had to themselves."""
    return len(list(root.glob("results/probes/launches/*/attempt-*/job-*")))


# -- the whole workflow -----------------------------------------------------


@pytest.fixture
def clone(clone):
    """A clone whose study asks for probes."""
    study(clone)
    return clone


def study(clone: Clone, **job: str) -> None:
    clone.study(job=job)
    path = clone.root / "config/studies/faults.yaml"
    path.write_text(path.read_text() + "".join(f"{key}: {json.dumps(value)}\n" for key, value in ASKED.items()))


def probe_rows(clone: Clone) -> list[dict]:
    return pq.read_table(clone.results / "dataset/probes.parquet").to_pylist()


@pytest.mark.heavy
@pytest.mark.timeout(400)
def test_probes_run_in_the_first_launchs_job_after_its_cells(clone):
    said = clone.run("-n")[1]
    assert "Probes:\n  here: dispatch,memcpy, in the job of paced-tiny" in said
    status, said = clone.run()
    assert status == 0, said
    [launch] = clone.results.glob("launches/*/attempt-0/running.json")
    probes = clone.results / "probes/launches/probes-here/attempt-0"
    ran, after = read_json(launch), read_json(probes / "running.json")
    assert ran["pid"] == after["pid"], "one job"
    assert own_jobs(clone.root) == 0
    written = (clone.results / "launches").glob("*/attempt-0/outcome.json")
    assert after["started_s"] >= max(path.stat().st_mtime for path in written) - 0.1
    assert {row["probe"] for row in probe_rows(clone)} == {"dispatch", "memcpy"}
    assert {row["status"] for row in probe_rows(clone)} <= {"ok", "skipped"}
    before = {path: path.stat().st_mtime_ns for path in clone.results.glob("probes/*/*.json")}
    for job in ({}, {"probes": "own"}):  # where they ran is no reason to run them again
        study(clone, **job)
        said = clone.run("-n")[1]
        assert "Probes:" not in said
        status, said = clone.run()
        assert status == 0, said
        assert {path: path.stat().st_mtime_ns for path in clone.results.glob("probes/*/*.json")} == before
        assert own_jobs(clone.root) == 0
    assert "Nothing to be done" in clone.run()[1]


@pytest.mark.heavy
@pytest.mark.timeout(400)
def test_kill_9_of_a_probes_process_is_a_failed_row_and_loses_no_cell(clone):
    process = clone.start()
    wait_for(lambda: of_probes(clone.root), 200, "a probe")
    os.kill(of_probes(clone.root)[0], signal.SIGKILL)
    said = process.communicate(timeout=200)[0]
    assert process.returncode == 1, said
    assert "probes that failed: dispatch on here\n" in said
    assert clone.measured() == {"4", "5", "6"}
    failed = [row for row in probe_rows(clone) if row["status"] == "failed"]
    assert [row["probe"] for row in failed] == ["dispatch"]
    assert "ended with status -9" in failed[0]["reason"]
    assert {row["probe"] for row in probe_rows(clone)} == {"dispatch", "memcpy"}
    assert own_jobs(clone.root) == 0
    assert "Probes:\n  here: dispatch,memcpy, in a job of their own" in clone.run("-n")[1]
    status, said = clone.run()  # the same command tries them again
    assert status == 0, said
    assert {row["status"] for row in probe_rows(clone)} <= {"ok", "skipped"}
    assert "Nothing to be done" in clone.run()[1]


# -- a launch that is pretended, the probes real ------------------------------


@pytest.fixture
def platform_site(site: Site) -> Site:
    for kind, name, data in (("platforms", "own-cpu", {"description": "here"}), ("models", "tiny", TINY)):
        write_json(site.root / f"config/{kind}/{name}.yaml", data)
    return site


def plan(site: Site, *cells: dict) -> str:
    [launch] = site.plan(*cells)
    path = site.results / "plan/demo.json"
    known = read_json(path)
    known["study"].update(ASKED)
    write_json(path, known)
    return launch


def carried(site: Site, launch: str) -> int:
    """Measure the launch, whose job goes on with the probes; the status. Its job has its terminal still."""
    return site.start(launch, 0, "--probes").wait(100)


def probes(site: Site) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE], cwd=site.root, env=site.environment, text=True, capture_output=True, timeout=200
    )
    return done.returncode, done.stdout + done.stderr


def job(site: Site, launch: str) -> int:
    return int(read_json(site.results / f"launches/{launch}/attempt-0/running.json")["pid"])


def written(site: Site) -> set[str]:
    return {path.name for path in site.results.glob("probes/own-cpu/*.json")}


def test_a_job_that_dies_in_its_probes_keeps_its_cells_and_the_probes_get_a_job(platform_site):
    site = platform_site
    launch = plan(site, {}, {})
    assert carried(site, launch) == 0
    assert site.statuses(launch) == ["ok", "ok"]
    wait_for(lambda: of_probes(site.root), 60, "a probe")
    os.kill(job(site, launch), signal.SIGKILL)
    status, said = probes(site)
    assert status == 0, said
    assert f"in the job {site.job_of(launch)['job']} of {launch}" in said
    assert "ended before its turn" in said
    assert written(site) == {"dispatch.json", "memcpy.json"}
    assert own_jobs(site.root) == 1
    assert site.measured() == set(site.cells())


def test_a_job_that_dies_in_its_cells_leaves_the_probes_to_a_job_of_their_own(platform_site):
    site = platform_site
    launch = plan(site, {}, {"does": "crash"})
    assert carried(site, launch) == 0
    assert site.statuses(launch) == ["ok", "not_run"]
    status, said = probes(site)
    assert status == 0, said
    assert written(site) == {"dispatch.json", "memcpy.json"}
    assert own_jobs(site.root) == 1


def test_a_launch_whose_cells_fail_has_its_probes_all_the_same(platform_site):
    site = platform_site
    launch = plan(site, {"does": "fail"})
    assert carried(site, launch) == 0
    assert site.statuses(launch) == ["failed"]
    status, said = probes(site)
    assert status == 0, said
    assert own_jobs(site.root) == 0


def test_a_launch_that_is_cancelled_begins_no_probe(platform_site):
    site = platform_site
    launch = plan(site, {}, {"s": 20})
    process = site.start(launch, 0, "--probes")
    site.wait("cell", 2)
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)
    wait_for(lambda: not site.processes(), 20, "its job to end")
    assert not written(site)
    assert not (site.results / "probes/launches/probes-own-cpu/attempt-0/running.json").exists()


def test_probes_of_a_job_that_is_cancelled_end_at_once(platform_site):
    site = platform_site
    launch = plan(site, {})
    carried(site, launch)
    waiting = subprocess.Popen(
        [sys.executable, "-c", PROBE], cwd=site.root, env=site.environment, text=True, stderr=subprocess.PIPE
    )
    wait_for(lambda: of_probes(site.root), 60, "a probe")
    wait_for(lambda: (site.results / "probes/launches/probes-own-cpu/attempt-0/job.json").exists(), 60, "its wait")
    asked_s = time.monotonic()
    waiting.terminate()
    said = waiting.communicate(timeout=60)[1]
    assert "cancelling its process" in said
    wait_for(lambda: not of_probes(site.root), 10, "the probe to end")
    assert time.monotonic() - asked_s < 20
    assert own_jobs(site.root) == 0


def test_probes_that_were_asked_for_otherwise_meanwhile_are_measured_anew(platform_site):
    site = platform_site
    launch = plan(site, {})
    path = site.results / "plan/demo.json"
    before = read_json(path)
    write_json(path, before | {"study": before["study"] | {"probes": ["dispatch"]}})
    assert carried(site, launch) == 0
    status, said = probes(site)
    assert status == 0, said
    assert "was asked for other probes" in said
    assert written(site) == {"dispatch.json", "memcpy.json"}
