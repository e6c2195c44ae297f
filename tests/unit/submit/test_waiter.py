"""One process waits for all launches: the others are shells until their jobs have ended, whatever is killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from servegauge.base import supervisor
from servegauge.base.files import read_json, write_json
from servegauge.submit import interrupts, waiter
from tests.pretend.pretend_site import Site, kill, wait_for

SITE_PLATFORM = {"name": "p", "slurm": {"partition": "bm"}}


@pytest.fixture
def site(cluster, tmp_path: Path) -> Iterator[Site]:
    """A working directory whose Slurm accepts everything and runs nothing: a test says how a job ends."""
    cluster("ACCEPT echo $n", job="PENDING")
    yield Site(tmp_path, submit="slurm", platform=SITE_PLATFORM, poll_s=0.2)
    for process in waiters(tmp_path):
        os.kill(process, signal.SIGKILL)


def waiters(root: Path) -> list[int]:
    """The waiting processes of a working directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if b"servegauge.submit.waiter" in (entry / "cmdline").read_bytes() and (entry / "cwd").readlink() == root:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def is_shell(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().startswith(b"sh\0")
    except FileNotFoundError:
        return False


def asleep(site: Site, launches: list[str]) -> list[subprocess.Popen[str]]:
    """Start the launches; returns when each is a shell."""
    processes = [site.start(launch) for launch in launches]
    wait_for(lambda: all(is_shell(process.pid) for process in processes), 60, "shells")
    return processes


def end(site: Site, launch: str, status: str = "ok") -> None:
    """Let the job of a launch end with an outcome."""
    cells = {}
    for cell in read_json(site.results / "launches" / launch / "attempt-0" / "order.json")["cells"]:
        write_json(site.results / "cells" / cell["id"] / "cell.json", {"cell": cell["id"]})
        cells[cell["id"]] = {"status": status}
    outcome = {"launch": launch, "attempt": 0, "study": "demo", "status": "ok", "reason": None, "cells": cells}
    write_json(site.results / "launches" / launch / "attempt-0" / "outcome.json", {"version": 1, **outcome})


def submitted(site: Site) -> int:
    return len((site.root / "state" / "queue").read_text().splitlines())


def test_launches_share_one_process_and_each_takes_its_own_outcome(site: Site) -> None:
    launches = site.plan({}, repeats=3)
    processes = asleep(site, launches)
    assert len(waiters(site.root)) == 1
    assert {process.pid for process in processes} <= set(interrupts.waiting_processes()), "SIGTERM reaches shells, too"
    folder = site.results / "launches" / launches[1] / "attempt-0"
    (folder / "progress.log").write_text("cell 1 of 1\n")
    end(site, launches[1])
    said = processes[1].communicate(timeout=60)[1]
    assert processes[1].returncode == 0
    assert f"{launches[1]}: cell 1 of 1" in said
    assert f"{launches[1]}: attempt 0: 1 ok" in said
    assert "found its job" not in said, "it is the same run"
    assert site.statuses(launches[1]) == ["ok"]
    assert is_shell(processes[0].pid)
    assert is_shell(processes[2].pid)
    for launch in (launches[0], launches[2]):
        end(site, launch)
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert submitted(site) == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_shell_that_is_asked_to_end_has_its_job_cancelled(site: Site, number: signal.Signals) -> None:
    [launch] = site.plan({}, repeats=1)
    [process] = asleep(site, [launch])
    said = kill(process, number)
    assert process.returncode == 128 + number
    assert f"cancelling job 501: this run got {number.name}" in said
    assert "CANCELLED" in (site.root / "state" / "queue").read_text()
    assert number.name in site.outcome(launch)["reason"]
    assert read_json(site.results / "launches" / launch / "attempt-0" / "job.json")["state"] == "ended"


RUN = """
import subprocess, sys
from servegauge.submit.interrupts import cancel_on_signals
cancel_on_signals('demo')
children = [subprocess.Popen(argv.split("|")) for argv in sys.argv[1:]]
try:
    statuses = [child.wait() for child in children]
except KeyboardInterrupt:
    statuses = [child.wait() for child in children]
print(statuses)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_twice_a_run_leaves_jobs_that_do_not_end_and_the_same_command_takes_them(
    cluster, site: Site, number: signal.Signals
) -> None:
    cluster('echo "$@" >> "$STATE/cancelled"', "scancel")  # as a job that saves what it has, or a node that hangs
    launches = site.plan({}, repeats=2)
    argv = [sys.executable, "-c", RUN, *("|".join(site.argv(launch)) for launch in launches)]
    run = subprocess.Popen(
        argv, cwd=site.root, env=site.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    wait_for(lambda: sum(map(is_shell, supervisor.descendants(run.pid))) == 2, 60, "shells")
    # Ctrl-C reaches all processes of the terminal's group, a SIGTERM of a batch system the one that it started.
    ask = os.killpg if number == signal.SIGINT else os.kill
    ask(run.pid, number)
    cancelled = site.root / "state" / "cancelled"
    wait_for(lambda: cancelled.exists() and len(cancelled.read_text().splitlines()) == 2, 20, "both cancelled")
    assert run.poll() is None, "asked once it waits for what the jobs save"
    ask(run.pid, number)
    said = run.communicate(timeout=10)
    assert said[0] == "[130, 130]\n", said
    assert said[1].count("asked twice to end: not waiting for job") == 2
    assert "Traceback" not in said[1]
    for launch in launches:
        assert site.job_of(launch)["state"] == "submitted"
        end(site, launch)
        assert site.measure(launch)[0] == 0
        assert site.statuses(launch) == ["ok"]
    assert submitted(site) == 2


def test_a_process_that_is_asked_twice_at_once_has_cancelled_its_job(cluster, site: Site) -> None:
    cluster('echo "$@" >> "$STATE/cancelled"', "scancel")
    [launch] = site.plan({}, repeats=1)
    [process] = asleep(site, [launch])
    for number in (signal.SIGINT, signal.SIGTERM):
        process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert len((site.root / "state" / "cancelled").read_text().splitlines()) == 1


PROBE = """
import sys
from pathlib import Path
from servegauge.submit import probe_order
platform = {"name": "p", "slurm": {"partition": "bm"}}
order = probe_order.make_order(platform, "memcpy", Path("out"), Path(), size="quick")
print(probe_order.submit(order, "slurm", 0.2, Path("logs/probe.log")))
"""


def test_probes_wait_as_a_shell_beside_launches(site: Site) -> None:
    [launch] = site.plan({}, repeats=1)
    probes = subprocess.Popen(
        [sys.executable, "-c", PROBE], cwd=site.root, env=site.environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    [process] = asleep(site, [launch])
    wait_for(lambda: is_shell(probes.pid), 60, "a shell")
    assert len(waiters(site.root)) == 1
    outcome = {"launch": "probes-p", "attempt": 0, "study": "probes-p", "status": "ok", "cells": {}}
    outcome["answer"] = {"written": {"memcpy": "out/memcpy.json"}}
    write_json(site.results / "probes/launches/probes-p/attempt-0/outcome.json", {"version": 1, **outcome})
    said = probes.communicate(timeout=60)
    assert said[0] == "[PosixPath('out/memcpy.json')]\n", said[1]
    assert "submitted job" in (site.root / "logs/probe.log").read_text()
    end(site, launch)
    assert process.wait(60) == 0
    assert submitted(site) == 2


def test_what_the_caller_ignores_stays_ignored(site: Site) -> None:
    [launch] = site.plan({}, repeats=1)
    process = subprocess.Popen(
        ["nohup", *site.argv(launch)], cwd=site.root, env=site.environment, text=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    wait_for(lambda: is_shell(process.pid), 60, "a shell")
    process.send_signal(signal.SIGHUP)
    end(site, launch)
    assert "cancelling" not in process.communicate(timeout=60)[1]
    assert site.statuses(launch) == ["ok"]


def test_a_waiter_that_is_killed_is_replaced_and_nothing_is_submitted_twice(site: Site) -> None:
    launches = site.plan({}, repeats=2)
    processes = asleep(site, launches)
    [first] = waiters(site.root)
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: waiters(site.root) not in ([], [first]), 60, "another waiter")
    wait_for(lambda: all(is_shell(process.pid) for process in processes), 60, "shells again")
    for launch in launches:
        end(site, launch)
    assert [process.wait(60) for process in processes] == [0, 0]
    assert submitted(site) == 2
    assert [site.statuses(launch) for launch in launches] == [["ok"], ["ok"]]


def test_kill_9_of_everything_leaves_the_job_and_the_same_command_takes_it(site: Site) -> None:
    [launch] = site.plan({}, repeats=1)
    [process] = asleep(site, [launch])
    os.kill(waiters(site.root)[0], signal.SIGKILL)
    kill(process)
    assert "CANCELLED" not in (site.root / "state" / "queue").read_text()
    end(site, launch)
    assert site.measure(launch)[0] == 0
    assert submitted(site) == 1
    assert site.statuses(launch) == ["ok"]


def test_a_second_process_waits_for_the_shell_that_has_the_attempt(site: Site) -> None:
    [launch] = site.plan({}, repeats=1)
    [first] = asleep(site, [launch])
    second = site.start(launch)
    assert "another process waits for this attempt" in second.stderr.readline()
    end(site, launch)
    assert [process.wait(60) for process in (first, second)] == [0, 0]
    assert submitted(site) == 1


def test_a_job_that_the_waiter_cannot_look_at_is_waited_for_by_its_process(site: Site) -> None:
    [launch] = site.plan({}, repeats=1)
    [process] = asleep(site, [launch])
    outcome = site.results / "launches" / launch / "attempt-0" / "outcome.json"
    outcome.write_text("[]")
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 2
    assert f"{outcome} is not" in said


def test_without_shells_the_waiter_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiter, "IDLE_S", 0.1)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0servegauge-test-" + str(os.getpid()))
        listener.listen()
        waiter.Waiter(listener).run()


def test_what_another_user_listens_on_is_not_talked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiter, "_peer", lambda connection: (1, os.getuid() + 1))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(waiter._address())
        listener.listen()
        with pytest.raises(ConnectionRefusedError):
            waiter._connect()
