"""This machine, through submitit's local executor."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any, cast

from submitit.local.local import LocalExecutor, LocalJob

from servegauge.base import allocation
from servegauge.submit import entrypoint
from servegauge.submit.processes import ProcessBackend

FOREVER_MIN = 60 * 24 * 365  # submitit's local executor always has a time limit


class _Controller(LocalExecutor):
    """submitit's, whose processes a Ctrl-C in the terminal does not reach: we end the job, in order, and say so."""

    def _submit_command(self, command: str) -> Any:
        environment = {
            **allocation.without_rank(os.environ),
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


class LocalBackend(ProcessBackend):
    """A process on this machine, in a session of its own, that outlives us; one launch at a time: `machine_lock`."""

    name = "local"

    def submit(self) -> str:
        executor = _Controller(self.folder, max_num_timeout=0)
        submitted = executor.submit(entrypoint.run_order, *self.call())
        self.begin(cast("subprocess.Popen[bytes]", cast(LocalJob[None], submitted)._process))
        return str(submitted.job_id)
