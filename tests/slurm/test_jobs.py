"""A launch's job on a real cluster, the launch pretended: asked for, found again, cancelled, cut off, put back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from servegauge.contract.spec import Layout
from tests.pretend.cluster import daemon, jobs_of, platform, slurm
from tests.pretend.pretend_site import kill, wait_for

pytestmark = pytest.mark.slurm

OK, SLOW = {"s": 0.1}, {"s": 8.0}


def test_one_launch_is_one_job_named_after_it(site):
    [launch] = site.plan(OK, {"does": "fail"}, {"s": 2.0})
    process = site.start(launch)
    site.wait("cell", 3)
    [job] = jobs_of(site)
    seen = slurm("squeue", "-h", "-j", job, "-o", "%j|%k|%P|%a|%C")
    assert seen == f"{launch}|demo|bm|hpcbench|2"
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 0, said
    assert f"{launch}: submitted job {job} (3 cells)" in said
    assert site.statuses(launch) == ["ok", "failed", "ok"]
    outcome = site.outcome(launch)
    assert outcome["job"]["job"] == job
    [start] = site.log("start")
    assert start["gpus"] == "0"
    assert start["deadline"] == pytest.approx(start["time"] + 300, abs=30)


def test_a_job_shorter_than_the_time_between_two_questions_is_ok(site):
    """Slurm is asked once, while it is pending; then its outcome is there."""
    site.poll_s = 30.0
    [launch] = site.plan(OK)
    status, said = site.measure(launch)
    assert status == 0, said
    outcome = site.outcome(launch)
    assert (outcome["status"], outcome["job"]["state"]) == ("ok", "COMPLETED")


def test_the_gpus_follow_the_layout(site):
    site.layout = Layout(tp=2, instances=2)
    [launch] = site.plan(OK)
    site.measure(launch)
    assert site.log("start")[0]["gpus"] == "0,1,2,3"


def test_a_launch_on_two_nodes_has_a_rank_on_each_and_one_head(site):
    site.layout = Layout(tp=4, pp=2)
    [launch] = site.plan(OK)
    status, said = site.measure(launch)
    assert status == 0, said
    starts = site.log("start")
    assert sorted(start["node"]["rank"] for start in starts) == [0, 1]
    assert {start["nodename"] for start in starts} == {"bm01", "bm02"}
    assert len({(start["node"]["head"], start["node"]["head_port"]) for start in starts}) == 1
    assert [start["node"]["nodes"] for start in starts] == [2, 2]
    assert {start["gpus"] for start in starts} == {"0,1,2,3"}
    assert site.statuses(launch) == ["ok"]


@pytest.mark.parametrize("how", ["running", "ended", "forgotten"])
def test_after_kill_9_the_same_command_finds_the_job(site, how):
    [launch] = site.plan(OK, {"s": 6.0 if how == "running" else 1.0})
    process = site.start(launch)
    site.wait("cell", 2)
    kill(process)
    if how != "running":
        wait_for(lambda: not jobs_of(site), 30, "the job to end")
    if how == "forgotten":
        # What MinJobAge does after minutes: Slurm knows nothing, the attempt's folder is all there is.
        fake = site.root / "bin"
        fake.mkdir()
        for name in ("squeue", "scontrol", "sacct"):
            (fake / name).write_text("#!/bin/sh\nexit 0\n")
            (fake / name).chmod(0o755)
    path = f"{site.root / 'bin'}:{os.environ['PATH']}"
    again = subprocess.run(
        site.argv(launch), cwd=site.root, env={**site.environment, "PATH": path}, capture_output=True, text=True
    )
    assert again.returncode == 0, again.stderr
    assert "found its job" in again.stderr
    assert site.statuses(launch) == ["ok", "ok"]
    assert len(site.log("start")) == 1


def test_after_kill_9_a_pending_job_is_found(site):
    site.platform = platform(sbatch=["--hold"])
    [launch] = site.plan(OK)
    process = site.start(launch)
    wait_for(lambda: jobs_of(site), 30, "the job")
    time.sleep(2)
    said = kill(process)
    assert "is pending: JobHeldUser (held by you; scontrol release lets it go)" in said
    again = site.start(launch)
    [job] = jobs_of(site)
    time.sleep(2)
    slurm("scontrol", "release", job)
    said = again.communicate(timeout=60)[1]
    assert f"found its job {job}" in said
    assert site.statuses(launch) == ["ok"]
    assert len(site.log("start")) == 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_around_sbatch_it_is_submitted_once(site, when):
    """Killed after sbatch took the job and before anything was noted, its pickle not yet in its place."""
    [launch] = site.plan({"s": 2.0})
    code = (
        "import os, signal, runpy, sys; from servegauge.submit import sbatch\n"
        "def dies(*_): os.kill(os.getpid(), signal.SIGKILL)\n"
        f"setattr(sbatch, 'job_number' if {when!r} == 'after' else 'run_command', dies)\n"
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    argv = site.argv(launch)
    died = subprocess.run([sys.executable, "-c", code, *argv[1:]], cwd=site.root, env=site.environment)
    assert died.returncode == -signal.SIGKILL
    assert len(jobs_of(site)) == (1 if when == "after" else 0)
    status, said = site.measure(launch)
    assert status == 0, said
    assert site.statuses(launch) == ["ok"]
    assert len(site.log("start")) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_the_job_and_says_which(site, number):
    [launch] = site.plan(OK, SLOW, OK)
    process = site.start(launch)
    site.wait("cell", 2)
    [job] = jobs_of(site)
    said = kill(process, number)
    assert process.returncode == 128 + number
    assert f"cancelling job {job}: this run got {number.name}" in said
    assert not jobs_of(site)
    assert site.statuses(launch) == ["ok", "not_run", "not_run"]
    assert number.name in site.outcome(launch)["reason"]
    (site.results / "launches" / launch / "attempt-0.json").unlink()
    assert site.measure(launch)[0] == 0
    assert site.statuses(launch, 1) == ["ok", "ok"]


def test_scancel_by_somebody_else_keeps_what_was_measured(site):
    [launch] = site.plan(OK, {"s": 20.0, "does": "deaf"}, OK)
    process = site.start(launch)
    site.wait("cell", 2)
    slurm("scancel", *jobs_of(site))
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert site.statuses(launch) == ["ok", "not_run", "not_run"]
    assert "ended as CANCELLED; it was cancelled" in site.outcome(launch)["reason"]


def test_preempted_it_comes_back_and_measures_only_what_is_missing(site):
    site.platform = platform(exclude="bm02")
    [launch] = site.plan(OK, {"s": 4.0}, OK)
    process = site.start(launch)
    site.wait("cell", 2)
    [job] = jobs_of(site)
    urgent = slurm(
        "sbatch", "--parsable", "-p", "urgent", "-w", "bm01", "--exclusive", "-t", "1", "-o", "/dev/null",
        "--wrap", "sleep 2",
    )  # fmt: skip
    wait_for(lambda: "PENDING" in slurm("squeue", "-h", "-j", job, "-o", "%T"), 60, "the job to be put back")
    slurm("scontrol", "update", f"jobid={job}", "starttime=now", check=False)
    said = process.communicate(timeout=150)[1]
    slurm("scancel", urgent, check=False)
    assert process.returncode == 0, said
    assert "BeginTime" in said or "pending" in said
    assert site.statuses(launch) == ["ok", "ok", "ok"]
    assert [start["start"] for start in site.log("start")] == [0, 1]
    assert [entry["cell"] for entry in site.log("cell")] == [site.cells()[i] for i in (0, 1, 1, 2)]


def test_requeued_after_a_hard_kill_it_measures_only_what_is_missing(site):
    [launch] = site.plan(OK, {"s": 3.0, "does": "deaf"}, OK)
    process = site.start(launch)
    site.wait("cell", 2)
    [job] = jobs_of(site)
    slurm("scontrol", "requeue", job)
    wait_for(lambda: "PENDING" in slurm("squeue", "-h", "-j", job, "-o", "%T"), 60, "the job to be put back")
    slurm("scontrol", "update", f"jobid={job}", "starttime=now", check=False)
    process.communicate(timeout=150)
    assert process.returncode == 0
    assert site.statuses(launch) == ["ok", "ok", "ok"]
    assert [entry["cell"] for entry in site.log("cell")] == [site.cells()[i] for i in (0, 1, 1, 2)]


def test_a_job_that_lost_its_node_unseen_says_so_when_it_starts_again(site):
    """As before, but nobody waited when it happened: the job itself, put back by Slurm, finds out."""
    [launch] = site.plan(OK, SLOW, OK)
    process = site.start(launch)
    site.wait("cell", 2)
    [job] = jobs_of(site)
    kill(process)
    node = site.log("start")[0]["nodename"]
    slurm("scontrol", "update", f"nodename={node}", "state=down", "reason=pulled the plug")
    try:
        wait_for(lambda: "PENDING" in slurm("squeue", "-h", "-j", job, "-o", "%T"), 60, "the job to be put back")
        time.sleep(2)
        slurm("scontrol", "update", f"jobid={job}", "starttime=now", check=False)
        wait_for(lambda: not jobs_of(site), 60, "the job to start again and end")
    finally:
        slurm("scontrol", "update", f"nodename={node}", "state=resume")
    status, said = site.measure(launch)
    assert status == 0, said
    assert site.statuses(launch, 0) == ["ok", "not_run", "not_run"]
    assert f"node {node} failed (Slurm: NODE_FAIL, DOWN" in site.outcome(launch)["reason"]
    assert site.outcome(launch)["job"]["failed_nodes"] == [node]
    assert site.statuses(launch, 1) == ["ok", "ok"]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_node_that_fails_fails_the_attempt_with_slurms_reason(site, elsewhere):
    site.job = {"exclude_failed_nodes": elsewhere}
    [launch] = site.plan(OK, SLOW, OK)
    process = site.start(launch)
    site.wait("cell", 2)
    node = site.log("start")[0]["nodename"]
    slurm("scontrol", "update", f"nodename={node}", "state=down", "reason=pulled the plug")
    try:
        process.communicate(timeout=60)
    finally:
        slurm("scontrol", "update", f"nodename={node}", "state=resume")
    assert process.returncode == 0
    assert site.statuses(launch) == ["ok", "not_run", "not_run"]
    assert f"node {node} failed (Slurm: NODE_FAIL" in site.outcome(launch)["reason"]
    assert "pulled the plug" in site.outcome(launch)["reason"]
    assert site.measure(launch, 1)[0] == 0
    assert site.statuses(launch, 1) == ["ok", "ok"]
    if elsewhere:
        assert site.log("start")[-1]["nodename"] != node


def test_the_time_limit_is_kept_and_the_rest_goes_on_by_itself(site):
    site.platform = platform(time_min=1)
    [launch] = site.plan({"s": 6.0}, {"s": 1.0, "claims_s": 50.0}, OK)
    status, said = site.measure(launch, timeout_s=200)
    assert status == 0, said
    assert site.statuses(launch, 0) == ["ok", "not_run", "not_run"]
    assert site.statuses(launch, 1) == ["ok", "ok"]
    assert {start["job"] for start in site.log("start")} == {
        site.outcome(launch, attempt)["job"]["job"] for attempt in (0, 1)
    }


def test_a_launch_deaf_to_time_is_ended_by_slurm_and_said_so(site):
    site.platform = platform(time_min=1)
    site.job = {"continue": False}
    [launch] = site.plan(OK, {"s": 300.0, "claims_s": 1.0, "does": "deaf"}, OK)
    status, said = site.measure(launch, timeout_s=200)
    assert status == 0, said
    assert site.statuses(launch) == ["ok", "not_run", "not_run"]
    assert "TIMEOUT; it reached its time limit" in site.outcome(launch)["reason"]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"partition": "nope"}, "invalid partition specified: nope"),
        ({"account": "nope"}, "Invalid account or account/partition combination specified"),
        ({"qos": "nope"}, "Invalid qos specification"),
        ({"constraint": "nope"}, "Invalid feature specification"),
        ({"gres": "gpu:nope:{gpus}"}, "Requested node configuration is not available"),
        ({"mem_gb": 4000}, "Memory specification can not be satisfied"),
    ],
)
def test_a_refused_job_says_slurms_words_and_the_file_to_mend(site, keys, said):
    site.platform = platform(**keys)
    [launch] = site.plan(OK)
    status, heard = site.measure(launch)
    assert status == 2
    assert said.lower() in heard.lower()
    assert "config/platforms/bare-metal.yaml" in heard
    assert "Traceback" not in heard
    # Corrected, the same command goes on as if nothing had been.
    site.platform = platform()
    assert site.plan(OK) == [launch]
    assert site.measure(launch)[0] == 0
    assert site.statuses(launch) == ["ok"]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"time_min": 600}, "PartitionTimeLimit (it asks for more time than the partition gives: time_min)"),
        ({"sbatch": ["--begin=now+1hour"]}, "BeginTime"),
        ({"sbatch": ["--hold"]}, "JobHeldUser (held by you; scontrol release lets it go)"),
    ],
)
def test_a_job_that_stays_pending_says_why_and_can_be_cancelled(site, keys, said):
    site.platform = platform(**keys)
    site.job = {"minutes": keys.get("time_min", 5)}
    [launch] = site.plan(OK)
    process = site.start(launch)
    wait_for(lambda: jobs_of(site), 30, "the job")
    time.sleep(4)
    assert said in kill(process, signal.SIGINT)
    assert not jobs_of(site)
    assert site.statuses(launch) == ["not_run"]


def test_the_controller_may_be_restarted_in_mid_run(site):
    [launch] = site.plan({"s": 15.0}, OK)
    process = site.start(launch)
    site.wait("cell", 1)
    controller = daemon("slurmctld")
    os.kill(controller, signal.SIGTERM)
    wait_for(lambda: not os.path.exists(f"/proc/{controller}"), 30, "the controller to end")
    time.sleep(3)
    subprocess.run(["slurmctld"], check=True)
    said = process.communicate(timeout=100)[1]
    assert process.returncode == 0, said
    assert site.statuses(launch) == ["ok", "ok"]
    assert len(site.log("start")) == 1


def test_nothing_is_concluded_while_slurm_is_silent(site):
    fake = site.root / "bin"
    fake.mkdir()
    real = slurm("which", "squeue")
    (fake / "squeue").write_text(
        f'#!/bin/sh\necho x >> {fake}/asked\n[ "$(wc -l < {fake}/asked)" -gt 4 ] && exec {real} "$@"\n'
        "echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1\n"
    )
    (fake / "squeue").chmod(0o755)
    [launch] = site.plan({"s": 8.0})
    path = f"{fake}:{os.environ['PATH']}"
    done = subprocess.run(
        site.argv(launch), cwd=site.root, env={**site.environment, "PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "Slurm does not answer (slurm_load_jobs error" in done.stderr
    assert "Slurm answers again" in done.stderr
    assert site.statuses(launch) == ["ok"]


def test_all_waiting_launches_share_one_question(site):
    site.poll_s = 3.0
    counter = site.root / "asked"
    fake = site.root / "bin"
    fake.mkdir()
    real = slurm("which", "squeue")
    (fake / "squeue").write_text(f'#!/bin/sh\necho x >> {counter}\nexec {real} "$@"\n')
    (fake / "squeue").chmod(0o755)
    (fake / "sacct").write_text(f"#!/bin/sh\necho sacct >> {counter}\n")
    (fake / "sacct").chmod(0o755)
    launches = site.plan({"s": 8.0}, repeats=4)
    path = f"{fake}:{os.environ['PATH']}"
    started = time.monotonic()
    waiting = [
        subprocess.Popen(site.argv(launch), cwd=site.root, env={**site.environment, "PATH": path})
        for launch in launches
    ]
    assert [process.wait(timeout=100) for process in waiting] == [0] * 4
    took = time.monotonic() - started
    asked = counter.read_text().split()
    assert "sacct" not in asked
    assert len(asked) <= took / site.poll_s + 1


def test_the_submission_is_deaf_to_a_surrounding_job(site):
    [launch] = site.plan(OK)
    around = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "7", "SBATCH_PARTITION": "nope", "SRUN_CPUS_PER_TASK": "9"}
    done = subprocess.run(site.argv(launch), cwd=site.root, env={**site.environment, **around})
    assert done.returncode == 0
    assert site.statuses(launch) == ["ok"]


def test_without_the_users_environment_a_launch_has_what_its_setup_set(site):
    """As with `--export=NONE`: sbatch tells every srun of the job to hand on no more than it was given itself."""
    lines = ["--export=PYTHONPATH", "#SBATCH --exclud=bm02  # an option cut short"]
    site.platform = {**platform(sbatch=lines), "setup": ["export FROM_SETUP=yes"]}
    [launch] = site.plan(OK)
    status, said = site.measure(launch)
    assert status == 0, said
    [start] = site.log("start")
    assert (start["from_setup"], start["nodename"]) == ("yes", "bm01")
