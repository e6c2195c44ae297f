"""A made-up way to a node: this very process."""

from pathlib import Path

from servegauge.submit.backend import Backend
from servegauge.submit.entrypoint import run_order
from servegauge.submit.slurm_commands import JobState


class HereBackend(Backend):
    name = "made-up-here"

    def submit(self) -> str:
        run_order(*self.call())
        return "here-1"

    def living(self) -> str | None:
        return None

    def state(self, job: str, since_s: float) -> JobState | None:
        return JobState(job, "ENDED")

    def cancel(self, job: str) -> str:
        return ""

    def log_file(self, job: str) -> Path:
        return self.folder / "log"
