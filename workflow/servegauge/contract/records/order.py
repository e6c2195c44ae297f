"""What one job is asked to do (`order.json`), and what it learns of itself when it runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from servegauge.contract.records.base import Migration, Record
from servegauge.contract.records.specs import CellSpec, LaunchSpec
from servegauge.contract.spec import Layout

RECORDS = {"cells": "cell.json", "traces": "trace.json"}  # folder of results -> file that says what is measured there

LAUNCH = re.compile(r"[a-z0-9][a-z0-9.-]*")  # as the workflow constrains the names of launches

ATTEMPT = re.compile(r"attempt-(\d{1,6})\.json")  # an attempt that has finished; longer numbers are nobody's


def probe_documents(results: Path) -> list[Path]:
    """What probes have written, sorted; the queue's folder beside those of platforms (`.slurm`) holds none."""
    return sorted((results / "probes").glob("[!.]*/*.json"))


ATTEMPT_REMEDY = (
    "When its job has ended (squeue --me shows it; without Slurm, ps), remove the folder {folder} and give the same "
    "command again: what is measured stays, and what is missing is measured."
)


class JobSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a launch's job lives: `job:` of the study; contract/schemas/study.schema.yaml says what each means."""

    minutes: float | None = None
    continues: bool = msgspec.field(default=True, name="continue")
    ready_timeout_s: float = 1800.0
    metrics_hz: float = 2.0
    calibrate: str = "always"
    exclude_failed_nodes: bool = False
    nodes: int | None = None  # of probes; a launch's follow from its GPUs
    quality_items: int = 0


def _without_deadline(order: dict[str, Any]) -> dict[str, Any]:
    """Version 1 kept `deadline_utc`, always None, the probes beside the launch, and their launch without a model."""
    kept = {key: value for key, value in order.items() if key not in ("deadline_utc", "probes", "launches")}
    asked = {key: order[key] for key in ("probes", "launches") if key in order}
    bare = {"framework": "probes", "model": {"name": "probes"}}
    return {**kept, "asked": asked, "launch": {**bare, **order["launch"]}, "job": order.get("job") or {}}


class Carrier(msgspec.Struct, frozen=True, kw_only=True):
    """The attempt of a launch in whose job another order is carried out, too."""

    launch: str
    attempt: int

    def __post_init__(self) -> None:
        """Nothing outside the results is read, whatever a file says."""
        if not LAUNCH.fullmatch(self.launch):
            raise ValueError(f"its launch is {self.launch!r}, and it must be the name of a folder")


class Order(Record, frozen=True, kw_only=True):
    """One attempt of a launch. `root` is absolute, `results` relative to it; `time_min` what the job asks for.

    A job may carry out two orders: `then` is the file, relative to `root`, of the one that follows when this one's
    servers have ended, and `carrier`, of that one, the attempt of `results/launches/` whose job it is.
    """

    WHAT: ClassVar[str] = "an order"
    REMEDY: ClassVar[str] = ATTEMPT_REMEDY
    VERSION: ClassVar[int] = 2  # 2: nothing of the running job, `asked`
    MIGRATIONS: ClassVar[Mapping[int, Migration]] = {1: _without_deadline}

    version: int = 2
    study: str
    study_sha256: str | None = None
    launch: LaunchSpec
    attempt: int
    cells: tuple[CellSpec, ...] = ()
    job: JobSettings = JobSettings()
    root: str
    results: str = "results"
    run: str = ""  # module:function that the job is given
    time_min: float | None = None
    profile: bool = False
    asked: dict[str, Any] = msgspec.field(default_factory=dict)  # what `run` is asked beside the cells
    then: str = ""
    carrier: Carrier | None = None

    @property
    def layout(self) -> Layout:
        return self.launch.layout

    @property
    def results_folder(self) -> Path:
        """Absolute."""
        return Path(self.root).absolute() / self.results

    @property
    def folder(self) -> Path:
        """The folder of everything that belongs to this attempt."""
        return attempt_folder(self.results_folder, self.launch.id, self.attempt)


def is_measured(results: Path, cell: str) -> bool:
    """True when `cell`, or the trace of this name, is measured: its folder appears whole or not at all."""
    return any((results / kind / cell / record).is_file() for kind, record in RECORDS.items())


def attempt_folder(results: Path, launch: str, attempt: int) -> Path:
    """The folder of everything that belongs to one attempt."""
    return results / "launches" / launch / f"attempt-{attempt}"


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A task among the nodes of its launch; `head` and `head_port` are where the first one is met."""

    rank: int = 0
    nodes: int = 1
    head: str = "127.0.0.1"
    head_port: int = 0


class JobContext(msgspec.Struct, frozen=True, kw_only=True):
    """What a running job knows of itself: how often it was started before, when it ends, which node this is."""

    start: int = 0
    deadline_s: float | None = None  # seconds since the epoch; None: no limit
    node: Node = Node()
