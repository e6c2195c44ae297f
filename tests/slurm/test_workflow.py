"""The whole workflow on a real cluster, as `snakemake --profile profiles/hlrs`: the plug pulled in several ways."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.pretend.cluster import slurm
from tests.pretend.cluster_user import STUDY, User
from tests.pretend.pretend_site import wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]


@pytest.fixture
def user(cluster, tmp_path, calibrations):
    """A user; jobs and processes that stay behind fail the test."""
    user = User(tmp_path, calibrations)
    yield user
    left = user.jobs()
    for job in left:
        slurm("scancel", job, check=False)
    assert not left
    wait_for(lambda: not servers(tmp_path), 20, "servers to end")


def servers(root: Path) -> list[str]:
    """Processes that belong to the user's folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            argv = entry.read_bytes().replace(b"\0", b" ").decode()
        except (OSError, UnicodeDecodeError):
            continue
        if str(root) in argv:
            found.append(argv)
    return found


def completes(user: User, before: dict[str, int]) -> None:
    """The same command completes the study; what was measured before is untouched and nothing is measured twice."""
    user.run("--rerun-incomplete")
    assert len(user.measured()) == 6
    assert all(user.stamps()[path] == stamp for path, stamp in before.items())
    assert set(user.dataset().values()) == {"ok"}
    assert len(user.dataset()) == 6


def test_kill_9_of_snakemake_then_unlock_and_the_same_command(user):
    process = user.start()
    wait_for(lambda: user.measured(), 200, "the first cell")
    process.kill()
    killed(user, process)


def test_kill_9_of_everything_on_the_login_node_while_a_launchs_job_runs_the_probes(user):
    user.write("config/studies/lost.yaml", {**STUDY, "probes": ["dispatch", "memcpy"], "probe_size": "quick"})
    platform = user.read("config/platforms/own-cpu.yaml")
    user.write("config/platforms/own-cpu.yaml", platform | {"slurm": {**platform["slurm"], "time_min": 60}})
    process = user.start()
    probed = user.root / "results/probes/launches/probes-own-cpu/attempt-0"
    wait_for(lambda: (probed / "running.json").exists(), 200, "the probes")
    os.killpg(process.pid, signal.SIGKILL)
    killed(user, process)
    assert not list(probed.parent.glob("attempt-*/job-*"))  # the probes had no job of their own
    rows = pq.read_table(user.root / "results/dataset/probes.parquet", columns=["probe", "status"]).to_pylist()
    found = {(row["probe"], row["status"]) for row in rows}
    assert {("dispatch", "ok"), ("memcpy", "ok")} <= found
    assert {status for _, status in found} <= {"ok", "skipped"}  # what needs a GPU


def killed(user: User, process: subprocess.Popen[str]) -> None:
    """The next command says what to do, and the one after it completes the study with the same jobs."""
    process.communicate()
    before, jobs = user.stamps(), user.submitted()
    locked = user.start()
    said = locked.communicate(timeout=100)[0]
    assert locked.returncode != 0
    assert "give the same command with --unlock, once" in said
    user.run("--unlock")
    completes(user, before)
    assert user.submitted() == jobs == 2


@pytest.mark.parametrize("how", ["Ctrl-C", "TERM to snakemake", "TERM to its group"])
def test_asked_to_end_it_cancels_its_jobs_and_the_same_command_completes(user, how):
    process = user.start()
    wait_for(lambda: user.measured(), 200, "the first cell")
    jobs = user.jobs()
    if how == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)
    elif how == "TERM to snakemake":
        process.terminate()
    else:
        os.killpg(process.pid, signal.SIGTERM)
    said = process.communicate(timeout=120)[0]
    assert process.returncode != 0
    for job in jobs:
        assert f"cancelling job {job}" in said
    wait_for(lambda: not user.jobs(), 60, "the jobs to end")
    wait_for(lambda: not servers(user.root), 30, "the processes to end")
    completes(user, user.stamps())


def test_two_snakemakes_on_one_study(user):
    first = user.start()
    wait_for(lambda: user.jobs(), 100, "the jobs")
    second = user.start("--nolock")
    said = [process.communicate(timeout=400)[0] for process in (first, second)]
    assert first.returncode == 0, said[0]
    assert user.submitted() == 2
    completes(user, user.stamps())


def test_a_study_edited_while_its_jobs_run(user):
    process = user.start()
    wait_for(lambda: user.measured(), 200, "the first cell")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    user.run("--unlock")
    edited = {**STUDY, "matrix": {**STUDY["matrix"], "rate": [2, 3, 5]}}
    user.write("config/studies/lost.yaml", edited)
    before = user.stamps()
    user.run()
    assert len([cell for cell in user.measured() if "-rate5-" in cell]) == 2
    assert all(user.stamps()[path] == stamp for path, stamp in before.items())


def test_a_wrong_partition_is_mended_in_one_file(user):
    platform = user.read("config/platforms/own-cpu.yaml")
    user.write("config/platforms/own-cpu.yaml", platform | {"slurm": {**platform["slurm"], "partition": "gpu"}})
    process = user.start()
    said = process.communicate(timeout=200)[0]
    assert process.returncode != 0
    assert "invalid partition specified: gpu" in said
    assert "config/platforms/own-cpu.yaml" in said
    user.write("config/platforms/own-cpu.yaml", platform)
    completes(user, {})


def test_under_snakemakes_own_executor_launches_run_inline(user):
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        absent = "the Slurm executor plugin is not installed: pip install -r envs/slurm-executor.txt"
        pytest.fail(absent) if os.environ.get("SERVEGAUGE_REQUIRE_SLURM") == "1" else pytest.skip(absent)
    started = time.time()
    user.run("cells=*-rate2-*", profile="profiles/slurm-executor")
    assert len(user.measured()) == 2
    [record, _] = user.root.glob("results/launches/*/attempt-0/job.json")
    assert '"mode": "inline"' in record.read_text()
    assert time.time() - started < 400
