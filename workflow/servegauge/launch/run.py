"""One launch, inside its job: check the node, start the server, measure its cells one after the other, stop it.

This is the only place that orders cells. Everything that happens is written down as it happens, so that whatever dies,
what was measured stays: a finished cell is in `results/cells/`, a failed one with its reason in the attempt's folder.
`run_launch` may be called again for the same attempt (a requeued job): it measures what is still missing.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import msgspec

from servegauge.base import forkserver
from servegauge.base.errors import UserError
from servegauge.base.files import read_json, write_json
from servegauge.base.progress import Progress, duration, utc_now
from servegauge.contract.records.base import plain, write
from servegauge.contract.records.launch import LaunchRecord
from servegauge.contract.records.order import JobContext, Order, is_measured
from servegauge.contract.records.outcome import CellOutcome, Outcome, Status
from servegauge.contract.records.specs import LaunchSpec
from servegauge.contract.spec import Cell
from servegauge.frameworks import framework
from servegauge.instrument import coordinator
from servegauge.launch import cell as cell_run
from servegauge.launch import provenance, quality, server, trace
from servegauge.launch.capacity import CapacitySearch
from servegauge.launch.idle import idle_power
from servegauge.launch.instances import Instances
from servegauge.launch.live import LiveLaunch
from servegauge.launch.node_calibration import NodeCalibration
from servegauge.launch.recorders import around, recorders
from servegauge.launch.stop import Stop
from servegauge.node import expectations

# What the children of the fork server import before their first cell.
PRELOADED = (
    *coordinator.PRELOADED,
    *(kind.__module__ for kind in recorders().values()),
)
# What a node that is not the head leaves for the head when its part of a server failed. The port is this start's own:
# what an earlier start of the job left has another.
FAILED_NODE = "failed-node-{node.head_port}-{rank}.json"


class LaunchFailed(Exception):
    """Why no further cell of this launch can be measured now; the text is the cells' reason."""


def run_launch(order: Order, job: JobContext) -> Outcome | None:
    """Carry out `order` on this node; the outcome, which becomes `attempt-<k>.json`, or None on a further node."""
    return LaunchRun(order, job).run()


class LaunchRun:
    """The state of one launch in its job."""

    def __init__(self, order: Order, job: JobContext) -> None:
        self.order, self.job, self.node = order, order.job, job.node
        self.root = Path(order.root).absolute()
        self.results = order.results_folder
        self.launch = order.launch.launch
        self.platform = self.launch.platform
        self.framework = framework(self.launch.framework)
        self.folder = order.folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.progress = Progress(self.folder / "progress.log")
        self.stop = Stop(job.deadline_s)
        self.api_key = ""  # one for all instances of this launch, never written to results
        self.facts: dict[str, Any] | None = None
        self.calibration = NodeCalibration(
            self.launch, order.cells, self.results, self.folder, self.job.calibrate == "once", self.progress.say
        )
        self.outcomes: dict[str, CellOutcome] = {}
        self.started_utc = utc_now()
        self.expected_s = 30.0  # of a closed-loop cell, until one was measured
        self.record = LaunchRecord(
            launch=self.launch.id,
            attempt=order.attempt,
            study=order.study,
            spec=LaunchSpec.of(self.launch),
            started_utc=self.started_utc,
        )

    def run(self) -> Outcome | None:
        """The whole life; never raises for anything that the launch itself did wrong."""
        reason = None
        with self.stop.on_signals():
            try:
                self.api_key = self.framework.given_api_key() or server.new_api_key()
                with self._work_folder() as self.work:
                    self.instances = Instances(
                        self.launch, self.framework, self.node, self.root, self.folder, self.work, self.api_key,
                        profile=self.order.profile or self.launch.trace is not None,
                        around=functools.partial(around, self.launch),
                    )  # fmt: skip
                    self._live()
            except (LaunchFailed, server.ServerError, UserError) as error:
                self.stop()  # where the time ran out meanwhile, that is the reason, and the cells are left for later
                reason = self.stop.reason or self.without_secrets(str(error))
            except OSError as error:  # a full disk, a results folder that is read-only: a reason, not a traceback
                reason = f"{type(error).__name__} on the node: {error}"
        if reason:
            with contextlib.suppress(OSError):
                self.progress.say(f"launch failed: {reason}")
        if self._is_head:
            return self._finish(reason)
        if reason:
            with contextlib.suppress(OSError):
                name = FAILED_NODE.format(node=self.node, rank=self.node.rank)
                write_json(self.folder / name, {"reason": reason})
        return None

    def _live(self) -> None:
        """From the node's check to the last cell; the servers end with it."""
        try:
            self._check_node()
            if not self._is_head:
                self._start_servers()
                self._serve_until_finished()
                return
            forkserver.prepare(PRELOADED)
            if not self.calibration.aside:
                self._calibrate()
            self._start_servers(self._meanwhile)
            # What was not carried while a server was loading is measured once more, now that it is idle.
            if self.calibration.aside and not self.calibration.all_carried:
                self._calibrate(again=True)
            self._measure_cells()
            self._ask_questions()
        finally:
            self.instances.stop()

    @property
    def servers(self) -> list[server.Server]:
        """The running instances, in their order."""
        return self.instances.running

    # -- the node -----------------------------------------------------------

    @property
    def _is_head(self) -> bool:
        return self.node.rank == 0

    def _check_node(self) -> None:
        """Facts of the node; refuse to measure where the platform's `expect` and the node disagree."""
        self.facts = expectations.facts()
        wrong = expectations.mismatches(self.platform.get("expect") or {}, self.facts)
        if missing := sorted(self.launch.placement.cpus - os.sched_getaffinity(0)):
            wrong.append(f"placement names CPU {', '.join(map(str, missing))}, which this job may not use")
        if wrong:
            what = "; ".join(wrong)
            raise LaunchFailed(
                f"this node is not the platform {self.platform['name']!r}: {what}. "
                f"Correct config/platforms/{self.platform['name']}.yaml or choose another partition."
            )

    def _calibrate(self, again: bool = False) -> None:
        with self._spending("calibration"):
            self.calibration.measure(again)

    def _meanwhile(self, given_up: threading.Event) -> None:
        """While the servers start: calibrate beside them, and hash the model, which provenance waits for."""
        if cpus := self.launch.placement.load_cpus:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(threading.get_native_id(), cpus)
        if self.calibration.aside:
            self.calibration.measure()
        provenance.hash_model(self.root, self.launch, given_up.is_set)

    @contextlib.contextmanager
    def _beside(self, work: Callable[[threading.Event], None] | None) -> Iterator[None]:
        """Do `work` in a thread beside the block, and wait for it afterwards; it gets whether the block has failed."""
        given_up = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(work, given_up) if work else None
            try:
                yield
            except BaseException:
                given_up.set()
                raise
            if done:
                with self._spending("calibration"):
                    done.result()

    @contextlib.contextmanager
    def _spending(self, what: str) -> Iterator[None]:
        """Note how long the block takes: time of the job in which no server starts and no cell is measured."""
        began = time.monotonic()
        try:
            yield
        finally:
            spent = self.record.spent_s
            total = spent.get(what, 0.0) + time.monotonic() - began
            self._note(spent_s={**spent, what: total})

    # -- the servers --------------------------------------------------------

    @contextlib.contextmanager
    def _work_folder(self) -> Iterator[Path]:
        """A private folder on the node's own disk for what the servers write."""
        scratch = self.platform.get("scratch")
        parent = os.path.expandvars(scratch) if scratch else None
        work = Path(tempfile.mkdtemp(prefix="servegauge-", dir=parent if parent and Path(parent).is_dir() else None))
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _start_servers(self, meanwhile: Callable[[threading.Event], None] | None = None) -> None:
        """Start every instance, doing `meanwhile` beside it, and keep what they say of themselves."""
        count = self.launch.layout.instances
        self.progress.say(f"starting {self.framework.title}" + (f", {count} instances" if count > 1 else ""))
        ready_s = min(self.job.ready_timeout_s, self.stop.left_s())
        with self._beside(meanwhile):
            self.instances.start(ready_s, self._give_up, self.progress.say)
        if self._is_head:
            start, flags = self.instances.evidence(self.progress.say)
            # A server that was started again may differ from the one before it; both served cells of this attempt.
            self._note(
                server_starts=(*self.record.server_starts, start),
                flags=(*self.record.flags, *(flag for flag in flags if flag not in self.record.flags)),
            )
            self._write_record()

    def _give_up(self) -> bool:
        """True when waiting for the server is pointless; raises the reason that another node of the launch left."""
        for rank in range(1, self.node.nodes):
            with contextlib.suppress(FileNotFoundError):
                failed = read_json(self.folder / FAILED_NODE.format(node=self.node, rank=rank))
                raise LaunchFailed(f"on node {rank} of the launch: {failed['reason']}")
        return self.stop()

    def without_secrets(self, text: str) -> str:
        """A reason as it may be read by everybody: a server's last words can hold its key."""
        return str(provenance.without_secrets(text, [self.api_key]))

    def _serve_until_finished(self) -> None:
        """A node that is not the head keeps its part of the server running until the head has written its outcome."""
        while not (self.folder / "outcome.json").exists() and not self.stop():
            if not self.instances.alive():
                raise LaunchFailed(f"the server's part on node {self.node.rank} ended{self.servers[0].why()}")
            time.sleep(1)

    # -- the cells ----------------------------------------------------------

    def _measure_cells(self) -> None:
        wanted = [(spec.cell, spec.thresholds) for spec in self.order.cells]
        todo = []
        for cell, thresholds in wanted:
            if is_measured(self.results, cell.id):
                self.outcomes[cell.id] = CellOutcome(status="ok")
            else:
                todo.append((cell, thresholds))
        if todo:
            with self._spending("idle_power"):
                idle = idle_power(self._live_launch())
            if idle:
                self._note(idle=idle)
                self._write_record()
        for index, (cell, thresholds) in enumerate(todo):
            expected = [cell_run.expected_s(other.load, self.expected_s) for other, _ in todo[index:]]
            if self.stop() or self.stop.left_s() < expected[0]:
                self.stop.ask(
                    f"{duration(max(0, self.stop.left_s()))} left of the job, a cell takes {duration(expected[0])}"
                )
                self.progress.say(
                    f"stopping: {self.stop.reason}; {len(todo) - index} cells are left for the next attempt"
                )
                return
            title = f"cell {index + 1}/{len(todo)} {cell.id}"
            self.progress.say(f"{title} ({duration(sum(expected))} left in this launch)")
            self._measure(cell, thresholds, title)

    def _ask_questions(self) -> None:
        """The graded questions, where the study has them; evidence, so that whatever is wrong with it fails no cell."""
        count, cells = self.job.quality_items, self.order.cells
        if not count or not cells or self.launch.trace or self.stop() or not self.instances.alive():
            return
        self.progress.say(f"asking {count} graded questions")
        rows = quality.ask(self._live_launch(), count, cells[0].cell.load.endpoint)
        correct = sum(bool(row["correct"]) for row in rows)
        self.progress.say(f"{correct} of {len(rows)} answers are correct")
        with contextlib.suppress(OSError):
            write_json(self.folder / quality.FILE, {"version": 1, "items": rows})

    def _live_launch(self) -> LiveLaunch:
        return LiveLaunch(
            launch=self.launch,
            study=self.order.study,
            attempt=self.order.attempt,
            job=self.job,
            framework=self.framework,
            instances=self.instances,
            calibration=self.calibration.found,
            api_key=self.api_key,
            root=self.root,
            results=self.results,
            folder=self.folder,
            work=self.work,
            progress=self.progress,
            stop=self.stop,
            without_secrets=self.without_secrets,
        )

    def _measure(self, cell: Cell, thresholds: Mapping[str, Any], title: str) -> None:
        """One cell; a server that died in it is started once more for the next ones."""
        started = time.monotonic()
        if self.launch.trace:
            outcome = trace.measure(self._live_launch(), cell, thresholds, title)
        else:
            kind = CapacitySearch if cell.load.capacity is not None else cell_run.Measurement
            outcome = cell_run.measure(self._live_launch(), cell, thresholds, title, kind)
        self.outcomes[cell.id] = outcome
        if cell.load.concurrency is not None and outcome.status == "ok":
            self.expected_s = time.monotonic() - started
        if outcome.status == "failed":
            self.progress.say(f"failed: {outcome.reason}")
        if not self.stop() and not self.instances.alive():
            self.instances.stop()
            self.progress.say("the server is gone; starting it once more")
            try:
                self._start_servers()
            except server.ServerError as error:
                raise LaunchFailed(f"the server died and could not be started again: {error}") from error

    # -- the end ------------------------------------------------------------

    def _finish(self, reason: str | None) -> Outcome:
        """The outcome: every cell that was asked for, ok, failed or not run, each with its reason."""
        left = CellOutcome(
            status="failed" if reason and not self.stop.reason else "not_run", reason=reason or self.stop.reason
        )
        for spec in self.order.cells:
            self.outcomes.setdefault(spec.id, left)
        outcome = Outcome(
            launch=self.launch.id,
            attempt=self.order.attempt,
            study=self.order.study,
            status="failed" if reason else "ok",
            reason=reason or self.stop.reason,
            cells=self.outcomes,
            started_utc=self.started_utc,
            finished_utc=utc_now(),
        )
        counts = {status: sum(cell.status == status for cell in self.outcomes.values()) for status in get_args(Status)}
        self._note(**{name: getattr(outcome, name) for name in ("status", "reason", "cells", "finished_utc")})
        with contextlib.suppress(OSError):  # the disk is full: the job's end says so
            self._write_record()
            self.progress.say("done: " + ", ".join(f"{count} {status}" for status, count in counts.items()))
        return outcome

    def _note(self, **fields: Any) -> None:
        """Add to the record what is known now."""
        self.record = msgspec.structs.replace(self.record, **fields)

    def _write_record(self) -> None:
        """`launch.json`: what happened here, alone enough to answer what made a number."""
        instances = self.record.server_starts[-1].instances if self.record.server_starts else ()
        known = self.record.provenance
        if not known or len(known["servers"]["value"] or ()) != len(instances):
            found = provenance.gather(
                self.root, self.order, self.launch, self.facts, servers=plain(instances), secrets=[self.api_key]
            )
            self._note(provenance=found)
        write(self.folder / "launch.json", self.record)
