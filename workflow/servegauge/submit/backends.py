"""How a job reaches its node: `slurm` and `local` through submitit, `inline` in a child of this process.

Each submitter is given the folder of one submission, `attempt-<k>/job-<token>/` (0700). The token makes it unique, and
its path is in what runs: in the command of a Slurm job as `squeue` shows it, in the command line of a process. So a job
is found again even if we were killed before we could note its number.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from submitit.core.utils import JobPaths
from submitit.local.local import LocalExecutor, LocalJob
from submitit.slurm.slurm import SlurmExecutor

from servegauge.base.errors import UserError
from servegauge.contract.records.base import DamagedRecord, read
from servegauge.contract.records.job import Running
from servegauge.contract.records.order import Order
from servegauge.submit import allocation, entrypoint, slurm_commands, slurm_request
from servegauge.submit.sbatch import sbatch
from servegauge.submit.slurm_commands import JobState, Queue

GONE_S = 30.0  # how long accounting is asked again about a job that the queue has not got any more
FOREVER_MIN = 60 * 24 * 365  # submitit's local executor always has a time limit


class Submitter(Protocol):
    """One way to run a job. `state` is null while nothing is known; then nothing may be concluded."""

    def submit(self) -> str:
        """Start the job; its id. NotSubmitted where that failed, although the job may have been accepted."""

    def find(self) -> str | None:
        """Id of the job that was started from this folder, although nobody noted it; null where there is none."""

    def state(self, job: str, since_s: float) -> JobState | None:
        """How the job is, as far as known; `since_s` is when it was submitted, in seconds since the epoch."""

    def cancel(self, job: str) -> str:
        """Ask the job to end; an error text, or nothing."""

    def log_file(self, job: str) -> Path:
        """What the job's first task printed."""


# -- Slurm ----------------------------------------------------------------


class _Executor(SlurmExecutor):
    """submitit's, with a request that is complete although we may be killed right after `sbatch` took it."""

    cluster = ""

    def _submit_command(self, command: str) -> Any:
        uid = uuid.uuid4().hex
        script = Path(self.folder) / f".submission_file_{uid}.sh"
        script.write_text(self._make_submission_file_text(command, uid), encoding="utf-8")
        number = sbatch(script, self.cluster)
        job = self.job_class(folder=self.folder, job_id=number, tasks=list(range(self._num_tasks())))
        job.paths.move_temporary_file(script, "submission_file", keep_as_symlink=True)
        return job

    def _make_submission_file_text(self, command: str, uid: str) -> str:
        # The job looks for <its number>_submitted.pkl, which submitit renames after sbatch has answered. If nobody is
        # left to do that, the job does it.
        pickle = f'"{self.folder}/${{SLURM_JOB_ID}}_submitted.pkl"'
        link = f'[ -e {pickle} ] || ln "{self.folder}"/[0-9a-f]*.pkl {pickle} 2>/dev/null || true'
        text: str = super()._make_submission_file_text(command, uid)
        head, marker, tail = text.partition("\n# command\n")
        return f"{head}\n{link}\n{marker}{tail}"


class SlurmSubmitter:
    """A job of its own for each launch."""

    def __init__(self, folder: Path, order: Order, queue: Queue, exclude: Sequence[str] = ()) -> None:
        self.folder, self.order, self.queue, self.exclude = folder, order, queue, exclude
        self._ran_on = ""
        self._gone_s = 0.0  # since when it is known to nobody but accounting, which does not answer

    def executor(self) -> _Executor:
        """submitit's executor with this launch's request."""
        executor = _Executor(self.folder, max_num_timeout=0)
        executor.cluster = self.cluster
        executor.update_parameters(**slurm_request.parameters(self.order, self.exclude))
        return executor

    @property
    def cluster(self) -> str:
        """The cluster that the platform names, where the site has several; empty for this machine's own."""
        return str((self.order.launch.platform.get("slurm") or {}).get("cluster") or "")

    def submit(self) -> str:
        kept = dict(os.environ)
        os.environ.clear()
        os.environ.update(slurm_commands.clean_environment(kept))
        try:
            return str(self.executor().submit(entrypoint.run_order, *_call(self.folder, self.order)).job_id)
        except RuntimeError as error:  # submitit found no srun
            raise UserError(
                "there is no Slurm on this machine (srun is not on the PATH). Log in to a node of the cluster that can "
                "submit jobs, or measure here with submit=local."
            ) from error
        finally:
            os.environ.clear()
            os.environ.update(kept)

    def find(self) -> str | None:
        if found := slurm_commands.find_submitted(self.folder, self.cluster):
            return found.job
        logs = sorted(self.folder.glob("*_0_log.out"))  # it ran, ended, and Slurm has forgotten it
        return logs[-1].name.partition("_")[0] if logs else None

    def state(self, job: str, since_s: float) -> JobState | None:
        seen_s, jobs = self.queue.look()
        if job in jobs:
            return self._back_in_the_queue(jobs[job])
        if seen_s <= since_s:
            return None  # the last look is older than the job
        try:
            ended = slurm_commands.ended(job, self.cluster)
        except slurm_commands.AccountingSilent:
            # The queue answers and has not got it, so it has ended; how, its own outcome has to tell.
            self._gone_s = self._gone_s or time.monotonic()
            if time.monotonic() - self._gone_s < GONE_S:
                raise
            ended = None
        return ended or JobState(job, "UNKNOWN", "Slurm has forgotten the job")

    def _back_in_the_queue(self, state: JobState) -> JobState:
        """A job that its node's failure put back into the queue has ended for us: it is another node's attempt."""
        if state.state != "PENDING":
            self._ran_on = state.nodes or self._ran_on
            return state
        ran_on = self._ran_on or self._noted_nodes(state.job)
        if failed := slurm_commands.failed_nodes(ran_on, self.cluster):
            slurm_commands.cancel(state.job, self.cluster)
            return JobState(state.job, "NODE_FAIL", slurm_commands.say_failed(failed), ran_on)
        return state

    def _noted_nodes(self, job: str) -> str:
        """Where the job says that it ran, if nobody has seen it running."""
        try:
            running = read(self.folder.parent / "running.json", Running)
        except (FileNotFoundError, DamagedRecord):
            return ""
        return running.nodes if running.job == job else ""

    def cancel(self, job: str) -> str:
        return slurm_commands.cancel(job, self.cluster)

    def log_file(self, job: str) -> Path:
        return JobPaths(self.folder, job).stdout


# -- this machine ---------------------------------------------------------


class _Controller(LocalExecutor):
    """submitit's, whose processes a Ctrl-C in the terminal does not reach: we end the job, in order, and say so."""

    def _submit_command(self, command: str) -> Any:
        environment = {
            **os.environ,
            "SUBMITIT_LOCAL_NTASKS": "1",
            "SUBMITIT_LOCAL_COMMAND": command,
            "SUBMITIT_LOCAL_TIMEOUT_S": str(60 * FOREVER_MIN),
            "SUBMITIT_LOCAL_SIGNAL_DELAY_S": "60",
            "SUBMITIT_LOCAL_NODEID": "0",
            "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
            "SUBMITIT_STDERR_TO_STDOUT": "1",
            "SUBMITIT_EXECUTOR": "local",
            "SUBMITIT_LOCAL_WITH_SHELL": "",
        }
        argv = [sys.executable, "-m", "submitit.local._local", str(self.folder)]
        process = subprocess.Popen(argv, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
        return self.job_class(folder=self.folder, job_id=str(process.pid), process=process, tasks=[0])


class _ProcessSubmitter:
    """What `local` and `inline` share: a job is the processes that have its folder or order in their command line."""

    def __init__(self, folder: Path, order: Order) -> None:
        self.folder, self.order = folder, order
        self._family: dict[int, str] = {}  # process id -> when it started, so that a reused id is nobody of ours
        self._started: list[subprocess.Popen[bytes]] = []

    def _begin(self, process: subprocess.Popen[bytes]) -> None:
        """Know the process that was just started by its number: its command line is empty until its exec is through."""
        self._started.append(process)
        self._family = {process.pid: _start_of(process.pid)}

    @property
    def _word(self) -> str:
        """What stands in the command line of each process of the job."""
        return str(self.folder)

    def find(self) -> str | None:
        family = self._processes()
        if family:
            return str(min(family))
        logs = sorted(self.folder.glob("*_log.out"))
        return logs[-1].name.partition("_")[0] if logs else None

    def state(self, job: str, since_s: float) -> JobState | None:
        for process in self._started:
            process.poll()
        alive = {pid: start for pid, start in self._family.items() if _start_of(pid) == start}
        # Looked for anew only when the last known one is gone: a controller that was killed leaves its task behind.
        self._family = alive or self._processes()
        nodes = socket.gethostname()
        return JobState(job, "RUNNING" if self._family else "ENDED", "", nodes)

    def cancel(self, job: str) -> str:
        for pid in sorted(self._processes()):
            try:
                os.kill(pid, 15)
            except ProcessLookupError:
                continue
            except OSError as error:
                return f"process {pid}: {error.strerror}"
        return ""

    def log_file(self, job: str) -> Path:
        return self.folder / f"{job}_0_log.out"

    def _processes(self) -> dict[int, str]:
        """Living processes of this job, by their command lines."""
        found, word = {}, self._word.encode()
        for entry in os.scandir("/proc"):
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    argv = Path(entry.path, "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if word in argv and (start := _start_of(int(entry.name))):
                    found[int(entry.name)] = start
        return found


class LocalSubmitter(_ProcessSubmitter):
    """A process on this machine, in a session of its own, that outlives us; one launch at a time: `machine_lock`."""

    def submit(self) -> str:
        executor = _Controller(self.folder, max_num_timeout=0)
        submitted = executor.submit(entrypoint.run_order, *_call(self.folder, self.order))
        self._begin(cast("subprocess.Popen[bytes]", cast(LocalJob[None], submitted)._process))
        return str(submitted.job_id)


class InlineSubmitter(_ProcessSubmitter):
    """A child of this process, on the node that we have already."""

    def submit(self) -> str:
        argv = [
            sys.executable,
            "-u",
            "-m",
            "servegauge.submit.entrypoint",
            *_call(self.folder, self.order),
            str(self.folder),
        ]
        environment = allocation.without_rank(dict(os.environ))
        nodes, _ = slurm_request.shape(self.order.layout, self.order.launch.platform)
        if nodes > 1:
            if not allocation.job():
                raise UserError(
                    f"{self.order.launch.id} needs {nodes} nodes: give it submit=slurm, or submit=inline inside "
                    "an allocation of as many nodes."
                )
            argv = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--cpu-bind=none", *argv]
        handle = os.open(self.folder / "inline_0_log.out", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            process = subprocess.Popen(
                argv, env=environment, stdin=subprocess.DEVNULL, stdout=handle, stderr=handle, start_new_session=True
            )
        finally:
            os.close(handle)
        self._begin(process)
        return "inline"

    def find(self) -> str | None:
        return "inline" if self._processes() or self.log_file("inline").exists() else None


def _call(folder: Path, order: Order) -> tuple[str, str]:
    """Arguments of `entrypoint.run_order`: the order's file and the function that the order names."""
    return str(folder.parent / "order.json"), order.run


def _start_of(pid: int) -> str:
    """When process `pid` started, in clock ticks since boot; empty where it has ended or waits to be collected."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]
