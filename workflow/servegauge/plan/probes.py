"""What a study asks of its platforms' probes, and in which launch's job they run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from servegauge.contract.config_types import StudyData
from servegauge.contract.records.specs import LaunchSpec
from servegauge.contract.spec import AGAIN
from servegauge.plan.estimate import nodes


@dataclass(frozen=True)
class AskedProbes:
    """The probes of a study, the same on each of its platforms."""

    names: str  # with commas; light (those that need no torch) where the study names none
    size: str  # quick or full
    processes: int
    models: tuple[str, ...]  # whose products are measured
    tp: tuple[int, ...]


def asked(study: StudyData, launches: Iterable[LaunchSpec]) -> AskedProbes:
    """What `study` asks for; `launches` are those of its plan."""
    launches = list(launches)
    return AskedProbes(
        names=",".join(study.get("probes") or ["light"]),
        size=study["probe_size"],
        processes=int(study["probe_processes"]),
        models=tuple(sorted({launch.model["name"] for launch in launches})),
        tp=tuple(sorted({launch.layout.tp for launch in launches})),
    )


def platforms(launches: Iterable[LaunchSpec]) -> list[str]:
    """The platforms to probe: a baseline that an A/A study measures once more is probed once."""
    return sorted({launch.platform["name"].removesuffix(AGAIN) for launch in launches})


def can_carry(launch: LaunchSpec) -> bool:
    """Whether the job of `launch` has what a job of its platform's probes would ask for: one node and all its GPUs."""
    gpus = launch.platform.get("gpus_per_node") or 0
    return nodes(launch) == 1 and (not gpus or launch.layout.gpus == gpus)
