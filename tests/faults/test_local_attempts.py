"""Attempts on the local submitter, the launch pretended: nothing is measured twice, nothing is lost, nothing stays."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from servegauge.contract.records.order import Order
from servegauge.contract.records.specs import LaunchSpec
from servegauge.contract.spec import Launch
from servegauge.submit.backends.inline import InlineBackend
from servegauge.submit.slurm_commands import Queue
from tests.pretend.pretend_site import kill, wait_for

OK, FAIL, SLOW = {"s": 0.05}, {"does": "fail"}, {"s": 3.0}


def test_cells_are_measured_and_the_attempt_says_so(site):
    [launch] = site.plan(OK, FAIL, OK)
    status, said = site.measure(launch)
    assert status == 0, said
    assert site.statuses(launch) == ["ok", "failed", "ok"]
    outcome = site.outcome(launch)
    assert outcome["status"] == "ok"
    assert outcome["cells"][site.cells()[1]] == {"status": "failed", "reason": "pretended", "flags": []}
    assert outcome["job"]["state"] == "COMPLETED"
    assert "2 ok, 1 failed" in said
    assert json.loads((site.results / "launches" / launch / "spec.json").read_text())["id"] == launch


@pytest.mark.parametrize("submit", ["local", "inline"])
def test_in_a_step_of_several_tasks_a_launch_is_of_one_node(site, monkeypatch, submit):
    """As where snakemake is started by `srun --pty` with more than one task."""
    site.submit = submit
    for name, value in (("JOB_ID", "77"), ("PROCID", "0"), ("STEP_ID", "0"), ("STEP_NUM_TASKS", "4")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    [launch] = site.plan(OK)
    site.measure(launch)
    assert site.statuses(launch) == ["ok"]
    assert site.log("start")[0]["node"]["nodes"] == 1


def test_the_next_attempt_measures_just_what_is_missing(site):
    [launch] = site.plan(OK, FAIL)
    site.measure(launch)
    site.plan(OK, OK)
    site.measure(launch, 1)
    assert site.statuses(launch, 1) == ["ok"]
    assert [entry["cell"] for entry in site.log("cell")] == [*site.cells(), site.cells()[1]]
    assert site.measure(launch, 2)[0] == 0
    assert site.outcome(launch, 2)["reason"] == "nothing was missing"


def test_a_glob_restricts_the_cells(site):
    [launch] = site.plan(OK, OK, OK)
    site.measure(launch, 0, "--cells", "*-rate2-*")
    assert site.measured() == {site.cells()[1]}


def test_a_crash_of_the_job_keeps_what_was_measured_and_says_the_last_line(site):
    [launch] = site.plan(OK, {"does": "crash"}, OK)
    assert site.measure(launch)[0] == 0
    outcome = site.outcome(launch)
    assert outcome["status"] == "failed"
    assert site.statuses(launch) == ["ok", "not_run", "not_run"]
    assert "pretended crash" in outcome["reason"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_cancels_the_job_and_says_which_and_the_same_command_completes(site, number):
    [launch] = site.plan(OK, SLOW, OK)
    process = site.start(launch)
    site.wait("cell", 2)
    said = kill(process, number)
    assert process.returncode == 128 + number
    assert f"{launch}: cancelling its process: this run got {number.name}" in said
    assert site.measured() == {site.cells()[0]}
    assert site.statuses(launch) == ["ok", "not_run", "not_run"]
    wait_for(lambda: not site.processes(), 10)

    # Snakemake removes the output of a job that ended with an error; the folder of the attempt still knows.
    (site.results / "launches" / launch / "attempt-0.json").unlink()
    status, said = site.measure(launch, 0)
    assert status == 0, said
    assert site.statuses(launch, 0) == ["ok", "not_run", "not_run"]
    assert site.statuses(launch, 1) == ["ok", "ok"]
    assert len(site.log("cell")) == 4


def test_kill_9_of_everything_that_waits_loses_nothing(site):
    [launch] = site.plan(OK, SLOW, OK)
    process = site.start(launch)
    site.wait("cell", 2)
    kill(process)
    status, said = site.measure(launch)
    assert status == 0
    assert "found its job" in said
    assert site.statuses(launch) == ["ok", "ok", "ok"]
    assert len(site.log("start")) == 1


def test_kill_9_of_the_job_too_fails_the_attempt_and_the_next_one_completes(site):
    [launch] = site.plan(OK, SLOW, OK)
    process = site.start(launch)
    site.wait("cell", 2)
    for pid in [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if _mentions(path, site.root)]:
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    status, said = site.measure(launch)
    assert status == 0, said
    assert site.statuses(launch, 0) == ["ok", "not_run", "not_run"]
    assert site.outcome(launch, 0)["status"] == "failed"
    assert site.statuses(launch, 1) == ["ok", "ok"]


def _mentions(path: Path, root: Path) -> bool:
    try:
        return str(root).encode() in path.read_bytes()
    except OSError:
        return False


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_around_the_submission_it_is_submitted_once(site, when):
    [launch] = site.plan({"s": 1.0})
    code = (
        "import os, signal, runpy, sys; from servegauge.submit.backends import local as s\n"
        "submit = s.LocalBackend.submit\n"
        "def dies(self):\n"
        f"    {'submit(self)' if when == 'after' else 'pass'}; os.kill(os.getpid(), signal.SIGKILL)\n"
        "s.LocalBackend.submit = dies; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    argv = site.argv(launch)
    died = subprocess.run([sys.executable, "-c", code, *argv[1:]], cwd=site.root, env=site.environment)
    assert died.returncode == -signal.SIGKILL
    assert site.job_of(launch)["state"] == "submitting"
    assert site.measure(launch)[0] == 0
    assert site.statuses(launch) == ["ok"]
    assert len(site.log("start")) == 1


def test_two_that_want_the_same_attempt_submit_it_once(site):
    [launch] = site.plan(OK, {"s": 1.0})
    both = [site.start(launch), site.start(launch)]
    said = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert any("another process waits for this attempt" in text for text in said)
    assert len(site.log("start")) == 1


def test_two_launches_never_share_the_machine(site):
    launches = site.plan({"s": 0.5}, {"s": 0.5}, repeats=2)
    both = [site.start(launch) for launch in launches]
    for process in both:
        process.communicate(timeout=60)
    times = [(entry["time"], entry["what"]) for what in ("start", "end") for entry in site.log(what)]
    assert [what for _, what in sorted(times)] == ["start", "end", "start", "end"]


def test_a_launch_that_waits_for_the_machine_can_be_cancelled(site):
    launches = site.plan({"s": 60.0, "until": "cancelled"}, repeats=2)
    first = site.start(launches[0])
    site.wait("cell", 1)
    second = site.start(launches[1])
    wait_for(lambda: "waiting for this machine" in _job_log(site, launches[1]), what="the second launch to wait")
    kill(second, signal.SIGINT)
    assert second.returncode == 130
    assert site.statuses(launches[1]) == ["not_run"]
    (site.results / "cancelled").touch()
    first.communicate(timeout=60)
    assert site.statuses(launches[0]) == ["ok"]


def _job_log(site, launch) -> str:
    return "".join(path.read_text() for path in (site.results / "launches" / launch).glob("attempt-0/job-*/*_log.out"))


def test_the_deadline_is_kept_and_the_rest_goes_on_by_itself(site):
    site.job = {"minutes": 0.2, "continue": True}
    [launch] = site.plan({"s": 4.0}, {"s": 4.0}, {"s": 4.0})
    status, said = site.measure(launch)
    assert status == 0
    assert site.statuses(launch, 0) == ["ok", "not_run", "not_run"]
    assert site.statuses(launch, 2) == ["ok"]
    assert "going on with attempt 1" in said


def test_the_rest_waits_for_the_next_command_where_the_study_says_so(site):
    site.job = {"minutes": 0.2, "continue": False}
    [launch] = site.plan({"s": 4.0}, {"s": 4.0})
    site.measure(launch)
    assert site.statuses(launch) == ["ok", "not_run"]
    assert not (site.results / "launches" / launch / "attempt-1.json").exists()


def test_a_launch_that_gets_nowhere_does_not_go_on_for_ever(site):
    site.job = {"minutes": 0.1, "continue": True}
    [launch] = site.plan({"s": 20.0})
    site.measure(launch)
    assert site.statuses(launch) == ["not_run"]
    assert not (site.results / "launches" / launch / "attempt-1").exists()


def test_inline_runs_in_a_child_and_hears_signals(site):
    site.submit = "inline"
    [launch] = site.plan(OK, SLOW)
    process = site.start(launch)
    site.wait("cell", 2)
    kill(process, signal.SIGTERM)
    assert process.returncode == 143
    assert site.statuses(launch) == ["ok", "not_run"]
    status, said = site.measure(launch, 1)
    assert status == 0, said
    assert site.statuses(launch, 1) == ["ok"]


def test_a_single_cell(site):
    [launch] = site.plan(OK, FAIL, OK)
    cells = site.cells()

    def measure_cell(cell):
        argv = site.argv(launch)
        argv[2:] = ["cell", "--plan", argv[4], "--cell", cell, "--out", f"results/cells/{cell}/cell.json"]
        (site.results / "cells" / cell).mkdir(parents=True)  # as Snakemake does before a job
        return subprocess.run(argv, cwd=site.root, env=site.environment, capture_output=True, text=True)

    assert measure_cell(cells[2]).returncode == 0
    assert site.measured() == {cells[2]}
    assert site.statuses(launch, 0) == ["ok"]
    failed = measure_cell(cells[1])
    assert failed.returncode == 2
    assert f"{cells[1]} was not measured: pretended" in failed.stderr
    assert site.statuses(launch, 1) == ["failed"]


def test_a_waiting_process_is_small(site):
    [launch] = site.plan(SLOW)
    process = site.start(launch)
    site.wait("cell", 1)
    status = Path(f"/proc/{process.pid}/status").read_text()
    peak_mb = int(status.split("VmHWM:")[1].split()[0]) / 1024
    maps = Path(f"/proc/{process.pid}/maps").read_text()
    process.communicate(timeout=60)
    assert peak_mb < 40
    assert not any(name in maps for name in ("pyarrow", "pandas", "numpy"))


def test_where_nothing_can_be_written_nothing_is_submitted(site):
    [launch] = site.plan(OK)
    (site.results / "launches").write_text("not a folder")
    status, said = site.measure(launch)
    assert status == 2
    assert "Nothing was submitted" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("name", ["job.json", "order.json"])
def test_a_damaged_document_of_an_attempt_is_one_message_and_the_way_out_works(site, name):
    [launch] = site.plan(OK, {"does": "fail"})
    site.measure(launch)
    folder = site.results / "launches" / launch / "attempt-0"
    folder.with_suffix(".json").unlink()
    for text in ("", "[]", '{"version": 1}', '{"version": 1, "mode": "loc'):
        (folder / name).write_text(text)
        status, said = site.measure(launch)
        assert status == 2, text
        assert f"attempt-0/{name} is not " in said, text
        assert "attempt-0 and give the same command again" in said, text
    shutil.rmtree(folder)
    site.plan(OK, OK)
    assert site.measure(launch)[0] == 0
    assert len(site.measured()) == 2


class _Loud:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.file),)


@pytest.mark.parametrize("where", ["../evil", "job-1a2b3c4d", "job-5e6f7a8b"])
def test_nothing_that_lies_in_results_is_unpickled(site, tmp_path, where):
    """Whatever the record of a job names, and whatever lies there under the names that submitit gives."""
    [launch] = site.plan(OK, {"does": "fail"})
    site.measure(launch)
    folder = site.results / "launches" / launch / "attempt-0"
    folder.with_suffix(".json").unlink()
    job = json.loads((folder / "job.json").read_text())
    (folder / "job.json").write_text(json.dumps({**job, "folder": where, "state": "submitted", "ended": None}))
    if linked := where == "job-5e6f7a8b":
        (tmp_path / "elsewhere").mkdir()
        (folder / where).symlink_to(tmp_path / "elsewhere")
    (folder / where).mkdir(exist_ok=True)
    pickled = pickle.dumps(("success", _Loud(tmp_path / "loaded")))
    for name in (f"{job['job']}_0_result.pkl", f"{job['job']}_submitted.pkl", "inline_0_result.pkl"):
        (folder / where / name).write_bytes(pickled)
    status, said = site.measure(launch)
    assert not (tmp_path / "loaded").exists()
    if where == "../evil":
        assert status == 2
        assert "its folder is '../evil'" in said
    if linked:
        assert status == 2
        assert "its folder job-5e6f7a8b is a link" in said


def test_what_could_hold_secrets_is_private(site):
    [launch] = site.plan(OK)
    site.measure(launch)
    [folder] = (site.results / "launches" / launch / "attempt-0").glob("job-*")
    assert folder.stat().st_mode & 0o077 == 0


def test_an_unknown_launch_names_the_nearest(site):
    [launch] = site.plan(OK)
    status, said = site.measure(launch[:-1] + "x")
    assert status == 2
    assert f"Did you mean '{launch}'?" in said


def test_a_job_that_was_just_started_runs_though_its_command_line_is_not_there_yet(tmp_path):
    """Between fork and exec a process has no command line of its own; a fast disk lets us look in between."""
    order = Order(study="s", launch=LaunchSpec.of(Launch("x", {"name": "m"}, {"name": "p"})), attempt=0, root="/")
    submitter = InlineBackend(tmp_path / "a folder that no command line names", order, Queue(tmp_path, 30))
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    submitter.begin(process)
    assert submitter.state("inline", 0.0).state == "RUNNING"
    process.communicate(b"\n")
    assert submitter.state("inline", 0.0).state == "ENDED"
