"""A user of the test cluster with a clone of the repository: the demo's server, one platform file adapted."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import IO

from tests.pretend.cluster import slurm
from tests.pretend.tree import Copy

ASKED = {"account": "hpcbench", "cpus_per_task": 2, "mem_gb": 4, "time_min": 10}

STUDY = {
    "question": "Does the cluster lose anything?",
    "matrix": {"model": "tiny", "framework": "llamacpp", "platform": ["own-cpu"], "prompts": ["chat-short"],
               "rate": [2, 3, 4], "repeat": 2},
    "server": {"threads": 1, "context_tokens": 512, "max_batch": 4},
    "load": {"requests": 8, "warmup_requests": 1, "seed": 1, "timeout_s": 30},
    "job": {"calibrate": "once"},
}  # fmt: skip


class User(Copy):
    """A user of the cluster with a clone of the repository, at its prompt; `calibrations` has those of nodes."""

    def __init__(self, root: Path, calibrations: Path | None = None) -> None:
        super().__init__(root)
        if calibrations is not None:
            (root / "results").mkdir()
            (root / "results" / "calibrations").symlink_to(calibrations)
        # The one file that a user adapts to the cluster.
        platform = self.read("config/platforms/own-cpu.yaml")
        platform["slurm"] = {"partition": "bm", **ASKED}
        self.write("config/platforms/own-cpu.yaml", platform)
        self.write("config/studies/lost.yaml", STUDY)

    def start(
        self, *more: str, profile: str = "profiles/hlrs", output: IO[str] | int = subprocess.PIPE, **around: str
    ) -> subprocess.Popen[str]:
        """The one command, in a session of its own."""
        return subprocess.Popen(
            self.argv("--config", "study=lost", "poll_s=2", *more, profile=profile), cwd=self.root, text=True,
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True, env={**self.environment, **around},
        )  # fmt: skip

    def run(self, *more: str, profile: str = "profiles/hlrs") -> str:
        """The one command, to its end; what it said. AssertionError unless it succeeded."""
        process = self.start(*more, profile=profile)
        said = process.communicate(timeout=400)[0]
        assert process.returncode == 0, said
        return said

    def jobs(self) -> list[str]:
        lines = slurm("squeue", "--me", "-h", "-o", "%i|%o").splitlines()
        return [line.split("|")[0] for line in lines if str(self.root) in line]

    def submitted(self) -> int:
        """How many jobs were ever submitted."""
        return len(list(self.root.glob("results/launches/*/attempt-*/job-*/*_submission.sh")))
