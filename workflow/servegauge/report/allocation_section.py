"""What the study's jobs did with the time that they had their nodes for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from servegauge.base.progress import duration
from servegauge.contract.columns import Row
from servegauge.dataset.study_view import Study

PARTS = {
    "windows": "windows",
    "around": "warm-up, ramp, tail and saving around them",
    "resets": "resets of caches",
    "starts": "servers starting",
    "calibration": "calibration",
    "idle_power": "reading idle power",
    "rest": "checks, records, ending",
}
IDLE = ("calibration", "idle_power", "rest")  # no server is starting and none has load: GPUs are held for nothing
TOLD = ("resets", "starts", "calibration", "idle_power")  # columns of ATTEMPTS; left out where they are null or 0


@dataclass(frozen=True)
class Use:
    """The jobs of a platform together: their seconds, and the share of each of PARTS that there is."""

    platform: str
    jobs: int
    job_s: float
    gpu_h: float | None  # job time x GPUs; None on a platform without
    shares: Mapping[str, float]

    @property
    def idle(self) -> float:
        """The share in which the node did nothing that it was asked for, whatever it was spent on."""
        return sum(self.shares.get(part, 0.0) for part in IDLE)

    @property
    def words(self) -> str:
        """One sentence without a full stop."""
        gpus = f" ({self.gpu_h:.2g} GPU hours)" if self.gpu_h else ""
        shares = ", ".join(f"{self.shares[part]:.0%} {words}" for part, words in PARTS.items() if part in self.shares)
        jobs = f"{self.jobs} job{'s' if self.jobs != 1 else ''}"
        idle = f"in {self.idle:.0%} of it no server was starting or had load"
        return f"{self.platform}: {jobs} of {duration(self.job_s)} together{gpus}: {shares}; {idle}"


def allocation(study: Study) -> list[Use]:
    """A row for each platform with finished attempts of which the times are known."""
    found: dict[str, list[Row]] = {}
    for row in study.attempts:
        if row["job_s"]:
            found.setdefault(row["platform"], []).append(row)
    return [_use(study, platform, rows) for platform, rows in found.items()]


def _use(study: Study, platform: str, rows: list[Row]) -> Use:
    whole = sum(row["job_s"] for row in rows)
    sums = {name: sum(row[f"{name}_s"] or 0.0 for row in rows) for name in ("windows", "cells", *TOLD)}
    told = [name for name in TOLD if any(row[f"{name}_s"] for row in rows)]
    gpus = sum(row["job_s"] * (row["gpus"] or 0) for row in rows) / 3600
    gpu_h = gpus if study.platform_gpus.get(platform) else None
    parts = {"windows": sums["windows"], "around": sums["cells"] - sums["windows"] - sums["resets"]}
    parts |= {name: sums[name] for name in told}
    parts["rest"] = whole - sums["cells"] - sum(sums[name] for name in told if name != "resets")
    return Use(platform, len(rows), whole, gpu_h, {name: max(0.0, value) / whole for name, value in parts.items()})
