"""The node that this process is on already."""

from __future__ import annotations

import os
import subprocess
import sys

from servegauge.base import allocation
from servegauge.base.errors import UserError
from servegauge.submit import slurm_request
from servegauge.submit.processes import ProcessBackend


class InlineBackend(ProcessBackend):
    """A child of this process, on the node that we have already."""

    name = "inline"

    def submit(self) -> str:
        argv = [
            sys.executable,
            "-u",
            "-m",
            "servegauge.submit.entrypoint",
            *self.call(),
            str(self.folder),
        ]
        environment = allocation.without_rank(os.environ)
        nodes, _ = slurm_request.shape_of(self.order)
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
        self.begin(process)
        return "inline"

    def living(self) -> str | None:
        return "inline" if self._processes() else None
