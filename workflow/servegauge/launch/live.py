"""What a cell is given of the launch that it is measured in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from servegauge.base.progress import Progress
from servegauge.contract.config_types import Platform
from servegauge.contract.records.calibration import Calibration
from servegauge.contract.records.order import JobSettings
from servegauge.contract.spec import Launch
from servegauge.frameworks.base import Framework
from servegauge.launch.instances import Instances
from servegauge.launch.server import Server
from servegauge.launch.stop import Stop


@dataclass(frozen=True)
class LiveLaunch:
    """A launch whose servers run. Paths are absolute; `folder` is the attempt's, `work` a temporary one."""

    launch: Launch
    study: str
    attempt: int
    job: JobSettings
    framework: Framework
    instances: Instances
    calibration: Calibration
    api_key: str
    root: Path
    results: Path
    folder: Path
    work: Path
    progress: Progress
    stop: Stop
    without_secrets: Callable[[str], str]

    @property
    def platform(self) -> Platform:
        return self.launch.platform

    @property
    def servers(self) -> list[Server]:
        """The running instances, in their order."""
        return self.instances.running
