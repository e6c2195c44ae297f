"""A launch, attempt after attempt: what `scripts/measure_launch.py` and `scripts/measure_cell.py` do.

An attempt that was submitted by an earlier run, which was killed or cancelled, is taken first: waited for if its job
still runs, its outcome written if not. Then what is still missing is measured in the next attempt. An attempt is never
run twice, so a record of what made a number is never written over.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from servegauge.base.errors import UserError
from servegauge.contract.records.base import DamagedRecord, read, write
from servegauge.contract.records.order import Order, attempt_folder, is_measured
from servegauge.contract.records.outcome import Outcome
from servegauge.submit import waiter
from servegauge.submit.monitor import POLL_S, Cancelled, submit_and_wait
from servegauge.submit.orders import find_launch, write_order
from servegauge.submit.watch import say_to


@dataclass
class Run:
    """What the attempts of one call share."""

    plan: Path
    launch: str
    mode: str
    results: Path
    run: str  # module:function that the job is given
    cells: str = "*"
    poll_s: float = POLL_S
    log: Path | None = None
    sleeper: waiter.Sleeper | None = None
    probes: bool = False  # the job of a new attempt is to run those of its platform, too
    root: Path = field(default_factory=Path.cwd)

    def __post_init__(self) -> None:
        self.say = say_to(self.log)

    def attempt_file(self, attempt: int) -> Path:
        """`attempt-<k>.json`: its presence says that the attempt has finished."""
        return attempt_folder(self.results, self.launch, attempt).with_suffix(".json")

    def next_attempt(self) -> int:
        """The first attempt that has not finished."""
        attempt = 0
        while self.attempt_file(attempt).exists():
            attempt += 1
        return attempt

    def measure(self, attempt: int) -> Outcome:
        """Measure what is missing, from `attempt` on; the outcome of the last attempt. Raises what submit.py raises."""
        outcome = None
        woken = self.sleeper.woken if self.sleeper else None
        if woken:
            attempt = woken.asleep.attempt
        while True:
            known = (attempt_folder(self.results, self.launch, attempt) / "job.json").exists()
            order = self._order(attempt, known)
            if self.sleeper:
                known = woken.asleep.known if woken else known
                self.sleeper = waiter.Sleeper(woken, known, self.log)
                woken = None
            if not order.cells:
                return outcome or self._nothing_missing(order)
            try:
                outcome = submit_and_wait(
                    order, self.mode, self.poll_s, self._failed_nodes(order), self.say, self.sleeper
                )
            except Cancelled as cancelled:
                if cancelled.outcome:
                    self._write(attempt, cancelled.outcome)
                raise
            self._write(attempt, outcome)
            self.say(f"{self.launch}: attempt {attempt}: {_counts(outcome)}")
            if known:
                attempt += 1  # it was submitted by an earlier run: this one has not measured anything yet
            elif _goes_on(order, outcome):
                self._order_rest(order, outcome)
                attempt += 1
                self.say(f"{self.launch}: going on with attempt {attempt}, as the study says (job: continue)")
            else:
                return outcome

    def _order(self, attempt: int, known: bool) -> Order:
        """The order of `attempt`: the one it was given if it was, else made from the plan."""
        file = attempt_folder(self.results, self.launch, attempt) / "order.json"
        if known and file.exists():
            order = read(file, Order)
            return replace(order, run=order.run or self.run)  # orders of version 1 named no function
        return write_order(self.plan, self.launch, attempt, self.results, self.root, self.cells, self.run, self.probes)

    def _order_rest(self, order: Order, outcome: Outcome) -> None:
        """The next attempt's order: the cells that were not run. Failed ones are for a person to look at first."""
        rest = tuple(cell for cell in order.cells if outcome.cells[cell.id].status == "not_run")
        attempt = order.attempt + 1
        folder = attempt_folder(self.results, self.launch, attempt)
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / "order.json", replace(order, attempt=attempt, cells=rest, then=""))

    def _failed_nodes(self, order: Order) -> list[str]:
        """Nodes that failed under earlier attempts of this launch, where the study wants to avoid them."""
        if not order.job.exclude_failed_nodes:
            return []
        nodes: list[str] = []
        for attempt in range(order.attempt):
            with contextlib.suppress(FileNotFoundError, DamagedRecord):
                job = read(self.attempt_file(attempt), Outcome).job
                nodes += job.failed_nodes if job else ()
        return sorted(set(nodes))

    def _nothing_missing(self, order: Order) -> Outcome:
        outcome = Outcome(
            launch=self.launch,
            attempt=order.attempt,
            study=order.study,
            status="ok",
            reason="nothing was missing",
            cells={},
        )
        self._write(order.attempt, outcome)
        self.say(f"{self.launch}: nothing is missing")
        return outcome

    def _write(self, attempt: int, outcome: Outcome) -> None:
        try:
            write(self.attempt_file(attempt), outcome)
        except OSError as error:
            raise UserError(
                f"{self.attempt_file(attempt)} cannot be written: {error.strerror}. What was measured is in "
                f"{self.results / 'cells'}; make room and give the same command again."
            ) from error


def _goes_on(order: Order, outcome: Outcome) -> bool:
    """Whether the next attempt follows by itself: time ran out, the study says so, and this attempt got somewhere."""
    states = [cell.status for cell in outcome.cells.values()]
    out_of_time = outcome.status == "ok" or (outcome.job is not None and outcome.job.state == "TIMEOUT")
    return order.job.continues and out_of_time and "not_run" in states and "ok" in states


def _counts(outcome: Outcome) -> str:
    states = [cell.status for cell in outcome.cells.values()]
    text = ", ".join(f"{states.count(state)} {state}" for state in ("ok", "failed", "not_run") if state in states)
    return text + (f" ({outcome.reason})" if outcome.reason else "")


def measure_launch(
    plan: Path, launch: str, attempt: int, submit: str, out: Path, run: str, cells: str = "*", poll_s: float = POLL_S,
    log: Path | None = None, sleeper: waiter.Sleeper | None = None, probes: bool = False,
) -> int:  # fmt: skip
    """Measure the missing cells of `launch` and write `out`, its `attempt-<k>.json`. Returns the exit status.

    `run` names the function that measures on the node, as module:function. With `probes` those of its platform run in
    the same job when the server has ended; whether they went well is not said here.

    0 whatever became of the cells: a failed cell is a row, not an error. 128 + signal after a cancel.
    """
    results = results_of(out)
    attempts = Run(plan, launch, submit, results, run, cells or "*", poll_s, log, sleeper, probes)
    if out.resolve() != attempts.attempt_file(attempt).resolve():
        raise UserError(
            f"--out {out} does not name attempt {attempt} of {launch}; it should be {attempts.attempt_file(attempt)}."
        )
    try:
        attempts.measure(attempt)
    except Cancelled as cancelled:
        return 128 + cancelled.number
    return 0


def leave_out(plan: Path, launch: str, attempt: int, out: Path, reason: str, log: Path | None = None) -> int:
    """Write `out`, the attempt of a launch that is not needed, with the reason; 0. Nothing is submitted."""
    results = results_of(out)
    run = Run(plan, launch, "", results, "", log=log)
    study = plan.stem
    run._write(attempt, Outcome(launch=launch, attempt=attempt, study=study, status="ok", reason=reason, cells={}))
    run.say(f"{launch}: {reason}")
    return 0


def measure_cell(
    plan: Path, cell: str, submit: str, out: Path, run: str, poll_s: float = POLL_S, log: Path | None = None,
    sleeper: waiter.Sleeper | None = None,
) -> int:  # fmt: skip
    """Measure one cell in a launch of its own, as the launch's next attempt. 1 with the reason where it failed."""
    results = results_of(out)
    with contextlib.suppress(OSError):
        os.rmdir(out.parent)  # Snakemake makes the folder of an output; here the folder itself says "measured"
    if is_measured(results, cell):
        return 0
    attempts = Run(plan, find_launch(plan, cell), submit, results, run, cell, poll_s, log, sleeper)
    try:
        outcome = attempts.measure(attempts.next_attempt())
    except Cancelled as cancelled:
        return 128 + cancelled.number
    if is_measured(results, cell):
        return 0
    found = outcome.cells.get(cell)
    raise UserError(f"{cell} was not measured: {(found.reason if found else None) or outcome.reason}")


def results_of(out: Path) -> Path:
    """The results folder that holds `out`, the file of an attempt or of a cell."""
    return Path(*out.parts[:-3]) if len(out.parts) > 3 else Path("results")
