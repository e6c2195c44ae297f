"""A study under random faults, over and over: the same command brings it to the dataset of a run that had none.

A fault is `kill -9` of one process of the run, or of all on the login node, a restart of slurmctld, or a full disk. The
seed, which is the test's name, decides kinds and times: `pytest -m slurm --seeds 10 tests/slurm/test_random_faults.py`.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import random
import re
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.pretend.cluster import AT_ONCE, daemon, slurm
from tests.pretend.cluster_user import ASKED, STUDY, User
from tests.pretend.pretend_site import wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

FAULTS = 4  # of one test; a run of the command after the last one may still find what they left, two must not
QUIET_RUNS = 3
PACE = ["--first-s", "0.01", "--gap-s", "0.001"]
MATRIX = {**STUDY["matrix"], "framework": "paced"}

# What a dataset is, but for what was measured and where: its rows by these columns.
SAME = {
    "studies": ("study", "sha256", "matrix", "launches", "cells"),
    "study_cells": ("study", "cell", "launch", "position"),
    "launches": ("launch", "configuration", "platform", "repeat", "options", "extra_args", "status", "reason"),
    "cells": (
        *("cell", "launch", "prompts", "rate_rps", "load", "workload", "workload_sha256", "status", "reason"),
        *("texts_sha256", "requests", "requests_ok", "prompt_tokens_mean", "output_tokens_mean", "protocol"),
    ),
    "requests": (
        *("cell", "launch", "request", "phase", "status", "finish_reason", "prompt_tokens", "output_tokens"),
        *("prompt_tokens_asked", "output_tokens_asked", "text_sha256"),
    ),
}  # fmt: skip


def rows(user: User) -> dict[str, list[tuple]]:
    """The dataset by `SAME`, sorted; of the requests those of the window, which the study fixes."""
    found = {}
    for name, columns in SAME.items():
        [path] = [path for end in (".parquet", "") if (path := user.root / f"results/dataset/{name}{end}").exists()]
        table = pq.read_table(path, columns=list(columns)).to_pylist()
        kept = [row for row in table if row.get("phase", "window") == "window"]
        found[name] = sorted(tuple(str(row[column]) for column in columns) for row in kept)
    return found


def a_user(root: Path, calibrations: Path) -> User:
    user = User(root, calibrations)
    cpu = {"description": "A CPU.", "gpus_per_node": 0, "slurm": {"partition": "bm", **ASKED}}
    user.write("config/platforms/own-cpu.yaml", cpu)
    user.write("config/studies/lost.yaml", {**STUDY, "matrix": MATRIX, "server": {"extra_args": PACE}})
    return user


@pytest.fixture(scope="module")
def undisturbed(cluster, calibrations, tmp_path_factory):
    """The rows of a run on this machine, which begins with the first disturbed one: it costs no time of its own."""
    user = a_user(tmp_path_factory.mktemp("undisturbed"), calibrations)
    process = user.start(profile="profiles/local", SERVEGAUGE_MACHINE_LOCK=str(user.root / "machine.lock"))

    @functools.cache
    def rows_of_it() -> dict[str, list[tuple]]:
        said = process.communicate(timeout=300)[0]
        assert process.returncode == 0, said
        return rows(user)

    return rows_of_it


@dataclass
class Disturber:
    """Draws faults and commits them against the processes of one user; `done` says which."""

    user: User
    random: random.Random
    done: list[str] = field(default_factory=list)

    def waits(self, command: subprocess.Popen[str]) -> bool:
        """Until it is time for the next fault; two in three come while a job runs. False if the run has ended."""
        in_a_job = self.random.random() < 2 / 3
        while in_a_job and command.poll() is None and not any(map(in_job, processes(self.user.root).values())):
            time.sleep(0.5)
        with contextlib.suppress(subprocess.TimeoutExpired):
            command.wait(self.random.uniform(1, 15))
            return False
        return True

    def strike(self, command: subprocess.Popen[str]) -> None:
        kinds = {self.kill_one: 5, self.kill_login: 1, self.restart_controller: 2, self.fill_disk: 2}
        [fault] = self.random.choices(list(kinds), list(kinds.values()))
        self.done.append(fault(command))
        print(f"{time.strftime('%H:%M:%S')} {self.done[-1]}", flush=True)

    def kill_one(self, _command: subprocess.Popen[str]) -> str:
        """Of any kind, each as likely, however many processes of it there are."""
        kinds: dict[str, list[int]] = {}
        for number, argv in processes(self.user.root).items():
            kinds.setdefault(kind(argv), []).append(number)
        if not kinds:
            return "nobody to kill"
        chosen = self.random.choice(sorted(kinds))
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.random.choice(sorted(kinds[chosen])), signal.SIGKILL)
        return f"kill -9 of {chosen}"

    def kill_login(self, command: subprocess.Popen[str]) -> str:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(command.pid, signal.SIGKILL)
        return "kill -9 of everything on the login node"

    def restart_controller(self, _command: subprocess.Popen[str]) -> str:
        number = self.random.choice([signal.SIGTERM, signal.SIGKILL])
        controller = daemon("slurmctld")
        os.kill(controller, number)
        wait_for(lambda: not os.path.exists(f"/proc/{controller}"), 30, "the controller to end")
        time.sleep(self.random.uniform(0, 5))
        subprocess.run(["slurmctld"], check=True)
        wait_for(lambda: "UP" in slurm("scontrol", "ping", check=False), 30, "the controller")
        return f"slurmctld ended by {number.name} and started again"

    def fill_disk(self, _command: subprocess.Popen[str]) -> str:
        ballast = AT_ONCE / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 20))
        with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
            while True:
                file.write(b"x")
        time.sleep(self.random.uniform(1, 6))
        ballast.unlink()
        return "the disk was full for a while"


def processes(root: Path) -> dict[int, list[str]]:
    """Argv by process id of all that belong to the folder: by command line, working folder or environment."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            argv = (entry / "cmdline").read_bytes()
            words = argv + os.fsencode(os.readlink(entry / "cwd")) + (entry / "environ").read_bytes()
        except OSError:
            continue
        if os.fsencode(str(root)) in words and argv and int(entry.name) != os.getpid():
            found[int(entry.name)] = argv.decode(errors="replace").split("\0")
    return found


def in_job(argv: list[str]) -> bool:
    return "submitit.core._submit" in argv


def kind(argv: list[str]) -> str:
    """What a process is, without what differs from run to run: its module, else its script, else its program."""
    if "-m" in argv:
        return argv[argv.index("-m") + 1]
    named = [Path(word).name for word in argv if re.search(r"\.(py|sh)$|slurm_script$", word)]
    return (named or [Path(argv[0]).name])[0]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    seeds = range(1, 1 + metafunc.config.getoption("--seeds"))
    metafunc.parametrize("seed", seeds, ids=[f"seed-{seed}" for seed in seeds])


def test_whatever_happens_it_ends_in_the_same_dataset(seed, late, undisturbed, calibrations, tmp_path):
    user = a_user(late / "user", calibrations)
    disturber = Disturber(user, random.Random(seed))
    measured: dict[str, int] = {}
    quiet = 0
    for number in itertools.count(1):
        quiet += len(disturber.done) == FAULTS
        status, said = disturbed(user, disturber, tmp_path / f"said-{number}.txt")
        stamps = user.stamps()
        assert measured.items() <= stamps.items(), "what was measured has changed"
        measured = stamps
        if status == 0:
            break
        if "--unlock" in said:
            user.run("--unlock")
        else:
            assert quiet < QUIET_RUNS, f"seed {seed}: {disturber.done}\n{said}"
    assert rows(user) == undisturbed(), f"seed {seed}: {disturber.done}"
    wait_for(lambda: not user.jobs(), 60, "jobs to end")
    wait_for(lambda: not processes(user.root), 60, f"processes to end: {processes(user.root)}")


def disturbed(user: User, disturber: Disturber, said: Path) -> tuple[int, str]:
    """The one command, with faults as long as some are left: exit status and what it said."""
    with said.open("w") as output:
        command = user.start(output=output)
    while len(disturber.done) < FAULTS and disturber.waits(command):
        disturber.strike(command)
    end = time.monotonic() + 400
    while command.poll() is None and time.monotonic() < end:
        release()
        time.sleep(2)
    return command.wait(1), said.read_text()


def release() -> None:
    """What the pending reason tells a user to do with a job that a node could not start, on a full disk for example."""
    held = slurm("squeue", "-h", "-o", "%i %r", check=False).splitlines()
    for job in [line.split()[0] for line in held if "requeued held" in line]:
        slurm("scontrol", "release", job, check=False)
