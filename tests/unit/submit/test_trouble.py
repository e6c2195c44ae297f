"""Slurm in trouble: what was accepted is found, what passes is waited out, a refusal names the file."""

from __future__ import annotations

import os
import signal
import sys
import threading
from datetime import datetime
from pathlib import Path

import pytest

from servegauge.base.errors import UserError
from servegauge.base.files import read_json, write_json
from servegauge.contract.records.base import write
from servegauge.contract.records.order import Order
from servegauge.contract.records.outcome import CellOutcome, Outcome
from servegauge.contract.records.specs import CellSpec, LaunchSpec
from servegauge.contract.spec import Cell, Launch, Layout, Load
from servegauge.submit import monitor, sbatch, slurm_commands
from servegauge.submit.monitor import Cancelled, submit_and_wait
from servegauge.submit.slurm_commands import JobState


def an_order(root: Path) -> Order:
    """One cell on a node of Slurm."""
    platform = {"name": "p", "gpus_per_node": 4, "slurm": {"gres": "gpu:{gpus}"}}
    launch = Launch("vllm", {"name": "m"}, platform, Layout())
    cells = (CellSpec.of(Cell.of(launch, {"name": "chat"}, Load(rate_rps=1, requests=4))),)
    spec = LaunchSpec.of(launch)
    return Order(study="demo", attempt=0, root=str(root), run="m:f", cells=cells, launch=spec, time_min=60)


def attempt(root: Path, seconds: float = 1.0, poll_s: float = 0.1) -> tuple[str | None, list[str]]:
    """Wait for one attempt for `seconds`, then ask it to end: (the job that it found, what it said)."""
    order = an_order(root)
    said: list[str] = []
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    try:
        submit_and_wait(order, "slurm", poll_s, say=said.append)
    except Cancelled:
        pass
    finally:
        timer.cancel()
    (file,) = root.glob("results/launches/*/attempt-0/job.json")
    return read_json(file).get("job"), said


def queue(state: Path) -> list[str]:
    return [line.partition("|")[0] for line in (state / "queue").read_text().splitlines()]


def test_a_job_that_was_accepted_although_sbatch_failed_is_found(cluster, tmp_path: Path) -> None:
    state = cluster("ACCEPT echo 'sbatch: error: Socket timed out on send/recv operation' >&2; exit 1")
    job, said = attempt(tmp_path)
    assert (job, queue(state)) == ("501", ["501"])
    assert any("but Slurm has the job 501" in line for line in said)


def test_a_job_that_appears_only_after_it_was_looked_for_is_not_submitted_again(cluster, tmp_path: Path) -> None:
    script = "script=${*: -1}; (sleep 0.6; set -- $script; ACCEPT) >/dev/null 2>&1 &"
    state = cluster(f"{script} echo 'sbatch: error: Socket timed out on send/recv operation' >&2; exit 1")
    job, said = attempt(tmp_path, 3, poll_s=1.5)
    assert (job, queue(state)) == ("501", ["501"])
    assert any("after all" in line for line in said)


def test_a_refusal_after_it_was_accepted_is_no_refusal(cluster, tmp_path: Path) -> None:
    state = cluster("ACCEPT echo 'sbatch: error: a plugin of this site failed' >&2; exit 1")
    assert attempt(tmp_path)[0] == "501"
    assert queue(state) == ["501"]


def test_sbatch_that_hangs_is_ended_and_its_job_found(cluster, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sbatch, "SUBMIT_S", 0.5)
    state = cluster("ACCEPT exec sleep 60")
    assert attempt(tmp_path, 3)[0] == "501"
    assert queue(state) == ["501"]


def test_a_look_at_the_queue_while_sbatch_was_at_work_says_nothing_about_the_job(cluster, tmp_path: Path) -> None:
    look = "import pathlib, servegauge.submit.slurm_commands as s; s.Queue(pathlib.Path('{}'), 60).look()"
    cluster(f'{sys.executable} -c "{look.format(tmp_path / "results")}" >&2; ACCEPT echo $n')
    job, said = attempt(tmp_path, 2, poll_s=1.0)
    assert job == "501"
    assert any("cancelling job 501" in line for line in said), said


@pytest.mark.parametrize(
    "words",
    [
        "Batch job submission failed: Unable to contact slurm controller (connect failure)",
        "slurm_load_partitions: Connection refused",
        "Batch job submission failed: Zero Bytes were transmitted or received",
        "Batch job submission failed: Slurm backup controller in standby mode",
        "Batch job submission failed: Unable to resolve ctld1: Unknown host",
        "_establish_config_source: failed to fetch config",
        "Munge encode failed: Failed to connect to munge.socket.2: No such file or directory",
    ],
)
def test_a_controller_that_is_down_is_tried_again(cluster, tmp_path: Path, words: str) -> None:
    cluster(f"if [ $n -lt 503 ]; then echo 'sbatch: error: {words}' >&2; exit 1; fi; ACCEPT echo $n")
    job, said = attempt(tmp_path, 2)
    assert job == "503"
    assert [line for line in said if "Slurm cannot be reached" in line and words in line]


@pytest.mark.parametrize(
    "words",
    ["QOSMaxSubmitJobPerUserLimit", "AssocMaxSubmitJobLimit", "AssocGrpSubmitJobsLimit", "QOSMaxJobsPerUserLimit"],
)
def test_a_limit_of_jobs_is_waited_for(cluster, tmp_path: Path, words: str) -> None:
    policy = "Batch job submission failed: Job violates accounting/QOS policy (job submit limit, ...)"
    cluster(
        f"if [ $n -lt 503 ]; then echo 'sbatch: error: {words}' >&2; echo 'sbatch: error: {policy}' >&2; exit 1; fi\n"
        "ACCEPT echo $n"
    )
    job, said = attempt(tmp_path, 2)
    assert job == "503"
    assert len([line for line in said if "no more jobs are allowed now" in line]) == 1


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("Batch job submission failed: Rate limit exceeded, please retry momentarily", "down"),
        ("Batch job submission failed: Required partition not available (inactive or drain)", "down"),
        ("Batch job submission failed: System submissions disabled", "down"),
        ("Batch job submission failed: Incompatible versions of client and server code", "down"),
        ("Batch job submission failed: I/O error writing script/environment to file", "down"),
        ("Batch job submission failed: Connection forced closed by quiesce timeout", "down"),
        ("Batch job submission failed: Authentication credential expired", "down"),
        ("Batch job submission failed: Slurm internal error, contact system administrator", "down"),
        ("Invalid user for SlurmUser slurm, ignored\nsbatch: fatal: Unable to process configuration file", "down"),
        ("getaddrinfo() failed: Name or service not known", "down"),
        ("QOSGrpGRES\nsbatch: error: Batch job submission failed: Job violates accounting/QOS policy", "down"),
        ("Slurm job queue full, sleeping and retrying", "full"),
        ("Batch job submission failed: MaxJobCount limit reached", "full"),
        ("Please specify a partition with -p and try again.", "refused"),
        (
            "QOSMaxWallDurationPerJobLimit\nsbatch: error: Job violates accounting/QOS policy (job submit limit)",
            "refused",
        ),
        ("QOSMaxGRESPerUser", "refused"),
        ("Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)", "refused"),
        ("Batch job submission failed: Unspecified error", "refused"),
    ],
)
def test_what_passes_is_told_from_what_does_not(words: str, kind: str) -> None:
    """Texts of Slurm from 22.05 to 26.05, and of the plug-ins of sites."""
    assert sbatch.failure(f"sbatch: error: {words}").kind == kind


def test_a_full_queue_that_sbatch_itself_waits_for_is_no_controller_that_is_away(cluster, monkeypatch) -> None:
    monkeypatch.setattr(sbatch, "SUBMIT_S", 0.5)
    cluster("echo 'sbatch: error: Slurm job queue full, sleeping and retrying' >&2; exec sleep 60")
    with pytest.raises(sbatch.NotSubmitted, match="did not answer within 0 s: Slurm job queue full") as caught:
        sbatch.sbatch(Path("job.sh"))
    assert caught.value.kind == "full"


def test_a_machine_without_room_for_another_process_is_no_machine_without_slurm(monkeypatch) -> None:
    def no_room(*_: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(sbatch, "run_command", no_room)
    with pytest.raises(sbatch.NotSubmitted, match="could not be started: Resource temporarily unavailable") as caught:
        sbatch.sbatch(Path("job.sh"))
    assert caught.value.kind == "down"


def test_a_controller_that_stays_away_ends_with_one_message(cluster, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(monitor, "DOWN_S", 0.2)
    cluster("echo 'sbatch: error: Unable to contact slurm controller (connect failure)' >&2; exit 1")
    with pytest.raises(UserError, match="Nothing was submitted; give the same command again"):
        attempt(tmp_path, 5)
    assert not list(tmp_path.glob("results/launches/*/attempt-0/job.json"))


def test_a_refusal_names_the_file_and_leaves_nothing(cluster, tmp_path: Path) -> None:
    cluster("echo 'sbatch: error: invalid partition specified: gpux' >&2; exit 1")
    with pytest.raises(UserError, match=r"invalid partition specified: gpux.*config/platforms/p\.yaml.*sinfo -s"):
        attempt(tmp_path, 5)
    assert not list(tmp_path.glob("results/launches/*/attempt-0/job.json"))


def test_the_record_of_a_refused_request_is_no_job(cluster, tmp_path: Path) -> None:
    """As Slurm leaves one for "Requested node configuration is not available"."""
    cluster(
        'echo "$n|FAILED|BadConstraints||${*: -1}" >> "$STATE/queue"\n'
        "echo 'sbatch: error: Batch job submission failed: Requested node configuration is not available' >&2; exit 1"
    )
    with pytest.raises(UserError, match=r"Requested node configuration is not available.*config/platforms/p\.yaml"):
        attempt(tmp_path, 5)


@pytest.mark.parametrize(
    ("text", "job"),
    [
        ("501\n", "501"),
        ("501;bigcluster\n", "501"),
        ("Note: your job 12 GB default memory limit applies\nSubmitted batch job 501\n", "501"),
        ("Note: 12\nhello\n501\ncharged to project 77 today\n", "501"),
        ("Submitted batch job 501 on cluster big\n", "501"),
        ("submitted, thank you\n", None),
    ],
)
def test_the_number_is_found_in_what_wrappers_print(text: str, job: str | None) -> None:
    assert sbatch.job_number(text) == job


def test_an_answer_without_a_number_is_looked_up(cluster, tmp_path: Path) -> None:
    cluster("ACCEPT echo thank you")
    assert attempt(tmp_path)[0] == "501"


@pytest.mark.parametrize("state", ["RESV_DEL_HOLD", "POWER_UP_NODE", "EXPEDITING", "UPDATE_DB", "NEVER_HEARD_OF"])
def test_a_state_unknown_to_us_is_no_end(cluster, tmp_path: Path, state: str) -> None:
    assert JobState("1", state).live
    cluster("ACCEPT echo $n", job=state)
    _, said = attempt(tmp_path)
    assert not any("ended as" in line for line in said)


@pytest.mark.parametrize("state", ["REVOKED", "LAUNCH_FAILED", "RECONFIG_FAIL", "BOOT_FAIL", "DEADLINE"])
def test_an_end_is_an_end(state: str) -> None:
    assert not JobState("1", state).live


def test_variables_of_the_user_do_not_hide_the_job(cluster, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("SQUEUE_PARTITION", "other")
    monkeypatch.setenv("SLURM_CLUSTERS", "other")
    cluster("ACCEPT echo $n")
    cluster('env | grep -qE "^(SQUEUE|SLURM_CLUSTERS)" && exit 0; cat "$STATE/queue"', name="squeue")
    job, said = attempt(tmp_path)
    assert job == "501"
    assert any("job 501 is running on n1" in line for line in said)


def test_accounting_that_refuses_is_not_waited_for_for_ever(cluster, tmp_path: Path, monkeypatch) -> None:
    from servegauge.submit.backends import slurm

    monkeypatch.setattr(slurm, "GONE_S", 0.5)
    monkeypatch.setattr(monitor, "LATE_S", 0.1)
    cluster("echo $n")
    cluster(
        'if [ "$2" = config ]; then echo "AccountingStorageType = accounting_storage/slurmdbd"; else exit 1; fi',
        name="scontrol",
    )
    cluster("echo 'sacct: error: Connection refused' >&2; exit 1", name="sacct")
    _, said = attempt(tmp_path, 20)
    (file,) = tmp_path.glob("results/launches/*/attempt-0/job.json")
    assert read_json(file)["ended"]["state"] == "UNKNOWN", said


@pytest.mark.parametrize("command", ["exit 1", None], ids=["refused", "absent"])
def test_where_users_may_not_use_scontrol_accounting_tells_the_end(cluster, monkeypatch, tmp_path, command) -> None:
    cluster('echo "OUT_OF_MEMORY|None|n1"', name="sacct")
    if command:
        cluster(command, name="scontrol")
    else:
        (tmp_path / "bin" / "scontrol").unlink()
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/nonexistent")
        (tmp_path / "bin" / "sacct").write_text("#!/bin/sh\necho 'OUT_OF_MEMORY|None|n1'\n")
    assert slurm_commands.ended("7") == JobState("7", "OUT_OF_MEMORY", "", "n1")
    assert slurm_commands.failed_nodes("n1") == {}


def test_a_job_that_never_had_a_node_names_none(cluster) -> None:
    cluster("echo 'JobId=7 JobState=CANCELLED Reason=None NodeList=(null)'", name="scontrol")
    assert slurm_commands.ended("7") == JobState("7", "CANCELLED", "None", "")
    cluster("exit 1", name="scontrol")
    cluster("echo 'CANCELLED by 1000|None|None assigned'", name="sacct")
    assert slurm_commands.ended("7") == JobState("7", "CANCELLED", "", "")


def test_a_job_that_accounting_calls_running_for_ever_has_ended(cluster, tmp_path: Path, monkeypatch) -> None:
    """Accounting may miss an end; the queue has not got the job."""
    from servegauge.submit.backends import slurm

    monkeypatch.setattr(slurm, "GONE_S", 0.5)
    monkeypatch.setattr(monitor, "LATE_S", 0.1)
    cluster("echo $n")
    cluster('if [ "$2" = config ]; then echo "AccountingStorageType = slurmdbd"; else exit 1; fi', name="scontrol")
    cluster("echo 'RUNNING|None|n1'", name="sacct")
    attempt(tmp_path, 20)
    (file,) = tmp_path.glob("results/launches/*/attempt-0/job.json")
    assert read_json(file)["ended"]["state"] == "UNKNOWN"


@pytest.mark.parametrize("answer", ["$n;big", "Submitted batch job $n on cluster big"])
def test_a_job_that_a_wrapper_sent_to_another_cluster_is_cancelled_and_said(cluster, tmp_path: Path, answer) -> None:
    state = cluster(f'echo "{answer}"')
    cluster('echo "$*" >> "$STATE/cancelled"', name="scancel")
    with pytest.raises(UserError, match=r"501 went to the cluster big and was cancelled; write `cluster: big`"):
        attempt(tmp_path, 5)
    assert (state / "cancelled").read_text() == "-M big 501\n"


def test_a_job_whose_answer_names_the_cluster_that_it_is_on_is_waited_for(cluster, tmp_path: Path) -> None:
    state = cluster('ACCEPT echo "$n;here"')
    assert attempt(tmp_path)[0] == "501"
    assert queue(state) == ["501"]


@pytest.mark.parametrize("comes", [True, False])
def test_what_a_shared_file_system_shows_late_is_waited_for(
    cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, comes: bool
) -> None:
    """The outcome of a job is seen a second after its end, the cell that it measured another second later."""
    monkeypatch.setattr(monitor, "LATE_S", 30.0 if comes else 1.5)
    cluster("echo $n")  # the job has ended, as far as the queue can tell
    cluster("exit 0", name="scontrol")
    order = an_order(tmp_path)
    cell, said = order.cells[0].id, []

    def node() -> None:
        outcome = Outcome(
            launch=order.launch.id, attempt=0, study="demo", status="ok", cells={cell: CellOutcome(status="ok")}
        )
        write(order.folder / "outcome.json", outcome)
        if comes:
            threading.Timer(1.0, write_json, (tmp_path / "results/cells" / cell / "cell.json", {})).start()

    timer = threading.Timer(1.0, node)
    timer.start()
    found = submit_and_wait(order, "slurm", 0.1, say=said.append).cells[cell]
    assert found.status == ("ok" if comes else "failed")
    assert comes or "is not there" in (found.reason or "")
    assert any("until this machine sees cells that it measured" in line for line in said)


def test_a_cluster_of_several_is_named_in_every_question(cluster, monkeypatch) -> None:
    state = cluster("exit 0")
    for name in ("sbatch", "squeue", "sacct", "scontrol", "scancel"):
        cluster(f'echo "{name} $*" >> "$STATE/asked"; echo "AccountingStorageType = slurmdbd"', name=name)
    slurm_commands.squeue("big")
    slurm_commands.ended("7", "big")
    slurm_commands.cancel("7", "big")
    with pytest.raises(sbatch.NotSubmitted):
        sbatch.sbatch(Path("job.sh"), "big")
    asked = (state / "asked").read_text().splitlines()
    assert len(asked) >= 6
    assert [line for line in asked if line.split()[1:3] != ["-M", "big"]] == []


def test_a_cluster_that_slurm_does_not_know_is_said_and_not_asked_for_ever(cluster) -> None:
    words = "'typo' can't be reached now, or it is an invalid entry for --cluster.  Use 'sacctmgr list clusters'"
    cluster(f'echo "sbatch: error: {words}" >&2; exit 1')
    with pytest.raises(UserError, match=r"does not know the cluster typo, or cannot reach it: .*Nothing was submitted"):
        sbatch.sbatch(Path("job.sh"), "typo")


def test_names_of_any_bytes_in_the_queue_hide_nobody(cluster, tmp_path: Path) -> None:
    state = cluster("ACCEPT echo $n")
    (state / "queue").write_bytes(
        b"400|RUNNING||n1|/home/\xff\xfe|x/job.sh\n401_[1-3]|PENDING|Priority||x\n9+1|RUNNING||n|y\n"
    )
    assert attempt(tmp_path)[0] == "501"


@pytest.mark.parametrize("before", ["501|PENDING|a reason|with bars|n1|", "501|PENDING|Priority||a name|"])
def test_a_bar_in_a_reason_or_a_further_column_hides_no_batch_script(cluster, before: str) -> None:
    cluster(f"echo '{before}/results/of one|user/job-1/x.sh'", name="squeue")
    found = slurm_commands.find_submitted(Path("/results/of one|user/job-1"))
    assert found
    assert (found.job, found.state) == ("501", "PENDING")


@pytest.mark.parametrize(("end", "found"), [("2030-01-02T03:04:05", "2030-01-02T03:04:05"), ("Unknown", None)])
def test_a_job_without_its_end_in_the_environment_asks_for_it(cluster, end: str, found: str | None) -> None:
    cluster(f'echo "JobId=7 RunTime=00:00:01 EndTime={end} Command=/x/job.sh"', name="scontrol")
    limit_s = slurm_commands.time_limit_s("7")
    assert limit_s == (found and datetime.fromisoformat(found).timestamp())
    cluster("exit 1", name="scontrol")
    assert slurm_commands.time_limit_s("7") is None, "the measuring goes on without it"
