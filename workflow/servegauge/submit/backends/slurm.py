"""Slurm, through submitit."""

from __future__ import annotations

import os
import shlex
import shutil
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from submitit.slurm.slurm import SlurmExecutor

from servegauge.base import allocation
from servegauge.base.errors import UserError
from servegauge.contract.records.base import DamagedRecord, read
from servegauge.contract.records.job import Running
from servegauge.contract.records.order import Order
from servegauge.submit import entrypoint, slurm_commands, slurm_request
from servegauge.submit.backend import Backend
from servegauge.submit.sbatch import sbatch
from servegauge.submit.slurm_commands import JobState, Queue

GONE_S = 30.0  # how long accounting is asked again about a job that the queue has not got any more


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
        folder = shlex.quote(str(self.folder))
        pickle = f'{folder}/"${{{allocation.JOB}}}_submitted.pkl"'
        link = f"[ -e {pickle} ] || ln {folder}/[0-9a-f]*.pkl {pickle} 2>/dev/null || true"
        text: str = super()._make_submission_file_text(command, uid)
        # In a pattern for output, %% is a percent sign of the folder's name.
        text = text.replace(f"{self.folder}/%j_", f"{str(self.folder).replace('%', '%%')}/%j_")
        for name in self.parameters.get("additional_parameters") or {}:
            # submitit writes every name with hyphens; options of a site's plug-ins may have underscores.
            text = text.replace(f"\n#SBATCH --{name.replace('_', '-')}", f"\n#SBATCH --{name}", 1)
        head, marker, tail = text.partition("\n# command\n")
        # Otherwise `--export=NONE` keeps from every srun what modules and `setup:` have set.
        return f"{head}\nunset {allocation.EXPORT}\n{link}\n{marker}{tail}"


class SlurmBackend(Backend):
    """A job of its own for each launch."""

    name = "slurm"
    queued = True

    def __init__(self, folder: Path, order: Order, queue: Queue, exclude: Sequence[str] = ()) -> None:
        super().__init__(folder, order, queue, exclude)
        self.cluster = slurm_request.cluster(order.launch.platform)
        self._ran_on = ""
        self._gone_s = 0.0  # since when only accounting knows it, which does not answer

    @classmethod
    def absent(cls) -> str | None:
        return None if shutil.which("sbatch") else "Slurm: there is no sbatch here; give the command on a login node"

    def executor(self) -> _Executor:
        """submitit's executor with this launch's request."""
        executor = _Executor(self.folder, max_num_timeout=0)
        executor.cluster = self.cluster
        executor.update_parameters(**slurm_request.parameters(self.order, self.exclude))
        return executor

    def submit(self) -> str:
        kept = dict(os.environ)
        os.environ.clear()
        os.environ.update(allocation.without_job(kept))
        try:
            return str(self.executor().submit(entrypoint.run_order, *self.call()).job_id)
        except RuntimeError as error:  # submitit found no srun
            raise UserError(
                "there is no Slurm on this machine (srun is not on the PATH). Log in to a node of the cluster that can "
                "submit jobs, or measure here with submit=local."
            ) from error
        finally:
            os.environ.clear()
            os.environ.update(kept)

    def living(self) -> str | None:
        return found.job if (found := slurm_commands.find_submitted(self.folder, self.cluster)) else None

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
        """Where the job reports that it ran, if it was not seen running."""
        try:
            running = read(self.folder.parent / "running.json", Running)
        except (FileNotFoundError, DamagedRecord):
            return ""
        return running.nodes if running.job == job else ""

    def cancel(self, job: str) -> str:
        return slurm_commands.cancel(job, self.cluster)
