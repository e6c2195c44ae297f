"""A launch, attempt after attempt: what `scripts/measure_launch.py` and `scripts/measure_cell.py` do.

An attempt that was submitted by an earlier run, which was killed or cancelled, is taken first: waited for if its job
still runs, its outcome written if not. Then what is still missing is measured in the next attempt. An attempt is never
run twice, so a record of what made a number is never written over.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from servegauge.base.errors import UserError
from servegauge.contract.records.base import DamagedRecord, read, write
from servegauge.contract.records.order import Order, attempt_folder, is_measured
from servegauge.contract.records.outcome import Outcome
from servegauge.submit import waiter
from servegauge.submit.monitor import POLL_S, Cancelled, submit_and_wait
from servegauge.submit.orders import write_order
from servegauge.submit.watch import say_to


@dataclass
class Run:
    """What the attempts of one call share. With `probes` those of the launch's platform run in its job, afterwards."""

    plan: Path
    launch: str
    mode: str
    results: Path
    run: str  # module:function that the job is given
    cells: str = "*"
    poll_s: float = POLL_S
    log: Path | None = None
    sleeper: waiter.Sleeper | None = None
    probes: bool = False
    root: Path = field(default_factory=Path.cwd)

    def __post_init__(self) -> None:
        self.say = say_to(self.log)

    def measure_launch(self, attempt: int, out: Path) -> int:
        """Measure the missing cells and write `out`, the attempt's `attempt-<k>.json`. Returns the exit status.

        0 whatever became of the cells: a failed cell is a row, not an error. 128 + signal after a cancel.
        """
        if out.resolve() != (expected := self.attempt_file(attempt)).resolve():
            raise UserError(f"--out {out} does not name attempt {attempt} of {self.launch}; it should be {expected}.")
        try:
            self.measure(attempt)
        except Cancelled as cancelled:
            return 128 + cancelled.number
        return 0

    def measure_cell(self) -> int:
        """Measure the one cell that `cells` names, as the next attempt. UserError with the reason where it failed."""
        try:
            outcome = self.measure(self.next_attempt())
        except Cancelled as cancelled:
            return 128 + cancelled.number
        if is_measured(self.results, self.cells):
            return 0
        found = outcome.cells.get(self.cells)
        raise UserError(f"{self.cells} was not measured: {(found.reason if found else None) or outcome.reason}")

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
                return outcome or self.leave_out(attempt, order.study, "nothing was missing")
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

    def leave_out(self, attempt: int, study: str, reason: str) -> Outcome:
        """Write the outcome of an attempt for which nothing is submitted, with the reason."""
        outcome = Outcome(launch=self.launch, attempt=attempt, study=study, status="ok", reason=reason, cells={})
        self._write(attempt, outcome)
        self.say(f"{self.launch}: {reason}")
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


def results_of(out: Path) -> Path:
    """The results folder that holds `out`, the file of an attempt or of a cell."""
    return Path(*out.parts[:-3]) if len(out.parts) > 3 else Path("results")
