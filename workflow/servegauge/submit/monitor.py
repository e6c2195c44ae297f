"""Submit a launch's order, wait for its job, and take its outcome: the only way to a node.

An attempt's folder knows its job (`job.json`), from before the moment it is submitted. Whatever becomes of this process
and of its machine, `submit_and_wait` with the same order finds the job pending, running or ended, and never submits
twice. It is small (neither pandas nor pyarrow is imported), asks Slurm no more often than set, and leaves the waiting
for a queue to `waiter`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from servegauge.base.errors import UserError
from servegauge.base.locks import NoLocks, wait_for_lock
from servegauge.base.progress import duration
from servegauge.contract.records.base import DamagedRecord, read_if_there, write
from servegauge.contract.records.job import JobEnd, JobRecord, Left
from servegauge.contract.records.order import Order, attempt_folder, is_measured
from servegauge.contract.records.outcome import Outcome
from servegauge.submit import slurm_request, turn, waiter
from servegauge.submit.backend import Backend
from servegauge.submit.backends import backend
from servegauge.submit.job_outcome import left, outcome_of, seal_logs
from servegauge.submit.sbatch import NotSubmitted, refused, short
from servegauge.submit.slurm_commands import JobState, Queue, SlurmSilent, failed_nodes
from servegauge.submit.watch import LEFT, Say, Watch, say_to

POLL_S = 30.0
DOWN_S = 3600.0  # a controller that cannot be reached for longer ends the run, with nothing submitted
LATE_S = 60.0  # a shared file system may take that long to show what a node wrote


class Cancelled(Exception):
    """This process was asked to end; its job is cancelled. `number` is the signal, `outcome` what was measured."""

    def __init__(self, number: int, outcome: Outcome | None = None) -> None:
        super().__init__(signal.Signals(number).name)
        self.number, self.outcome = number, outcome


def submit_and_wait(
    order: Order,
    mode: str,
    poll_s: float = POLL_S,
    exclude: Sequence[str] = (),
    say: Say | None = None,
    sleeper: waiter.Sleeper | None = None,
) -> Outcome:
    """Run `order` by `mode` (slurm, local or inline) and return its outcome, which becomes `attempt-<k>.json`.

    The order's cells are all in the outcome: ok, failed or not_run, each with its reason. An order that was submitted
    before is waited for, or its outcome taken. `exclude`: nodes to avoid. With `sleeper` this process becomes a shell
    while a queue has its job, and is this process again when it has ended. UserError where nothing could be submitted;
    Cancelled after SIGINT, SIGTERM or SIGHUP.
    """
    backend(mode)  # a name that does not exist is refused before anything is written
    return Attempt(order, mode, poll_s, exclude, say or say_to(None), sleeper).run()


class Attempt:
    """One attempt of a launch, seen from the process that waits for it."""

    def __init__(
        self, order: Order, mode: str, poll_s: float, exclude: Sequence[str], say: Say,
        sleeper: waiter.Sleeper | None = None,
    ) -> None:  # fmt: skip
        self.order, self.exclude = order, exclude
        self.results, self.launch, self.folder = order.results_folder, order.launch.id, order.folder
        self.file = self.folder / "job.json"
        self.queue = Queue(self.results, poll_s, slurm_request.cluster(order.launch.platform))
        self.say: Say = lambda text: say(f"{self.launch}: {text}")
        self.record = JobRecord(mode=mode, state="new")
        self.signal = 0
        self._submitter: Backend | None = None
        self.sleeper = sleeper
        self.woken = sleeper.woken if sleeper else None

    def run(self) -> Outcome:
        """Submit where this was not done, wait, and return the outcome."""
        with self._ending() as heard, self._alone() as lock:
            self._sleep_on = (lock, heard)
            if known := read_if_there(self.file, JobRecord):
                self.record = known
            elif carried := self._carried():
                self.record = carried
                self._note()
            if end := self.record.ended:
                return self._outcome(JobState(end.job, end.state, end.reason, end.nodes))
            job = self._find() if self.record.state != "new" else None
            if job is None:
                job = self._submit()
            elif not self.woken:
                carrier = self.order.carrier
                self.say(f"in the job {job} of {carrier.launch}" if carrier else f"found its job {job}; waiting for it")
            state = self._wait(job)
            while other := self._left_to(job):
                self.say(f"job {job} found job {other} of this attempt at work and left it to it; waiting for that")
                self._note(job=other)
                job = other
                state = self._wait(job)
            if self.signal:
                name = signal.Signals(self.signal).name
                state = JobState(job, "CANCELLED", f"this run got {name} and cancelled the job", state.nodes)
            end = JobEnd(job=job, state=state.state, reason=state.reason, nodes=state.nodes)
            self._note(state="ended", ended=end, failed_nodes=tuple(self._failed_nodes(state)))
            outcome = self._outcome(state)
        if self.signal:
            raise Cancelled(self.signal, outcome)
        return outcome

    def _left_to(self, job: str) -> str | None:
        """The job that had this attempt before `job` did, if it found one."""
        word = read_if_there(self.folder / f"left-{job}.json", Left)
        return word.to if word and word.to != job and word.to.isdigit() else None

    def _failed_nodes(self, state: JobState) -> list[str]:
        """Nodes to blame, where Slurm blames one."""
        if state.state == "NODE_FAIL":
            with contextlib.suppress(SlurmSilent):
                return list(failed_nodes(state.nodes)) or [state.nodes]
        result = left(self.order)
        return list(result.failed_nodes) if result else []

    # -- submitting ---------------------------------------------------------

    @property
    def _carrier(self) -> Path | None:
        """The folder of the attempt whose job carries this order out; None where it has a job of its own."""
        carrier = self.order.carrier
        results = Path(self.order.root).absolute() / "results"
        return attempt_folder(results, carrier.launch, carrier.attempt) if carrier else None

    def _carried(self) -> JobRecord | None:
        """The job of another attempt that carries this order out, if it was submitted."""
        job = read_if_there(self._carrier / "job.json", JobRecord) if self._carrier else None
        return replace(job, state="submitted", ended=None, failed_nodes=()) if job and job.state != "new" else None

    @property
    def submitter(self) -> Backend:
        """How this attempt is, or was, submitted: what job.json says wins over what is asked for now."""
        if self._submitter is None:
            folder = (self._carrier or self.folder).resolve() / self.record.folder
            if folder.is_symlink():  # nothing outside the attempt's folder is read
                raise DamagedRecord(self.file, JobRecord, f"its folder {self.record.folder} is a link")
            self._submitter = backend(self.record.mode)(folder, self.order, self.queue, self.exclude)
        return self._submitter

    def _submit(self) -> str:
        """Note what is about to be submitted, submit it, note its id. Killed in between, `_find` makes up for it."""
        with self._writable():
            self.folder.mkdir(parents=True, exist_ok=True)
            self.order = replace(self.order, carrier=None)  # what was to carry it out was never submitted
            write(self.folder / "order.json", self.order)
            token = f"job-{secrets.token_hex(4)}"
            (self.folder / token).mkdir(mode=0o700)
            (self.folder / "outcome.json").unlink(missing_ok=True)  # of a job that no record names any more
            self._note(state="submitting", folder=token, host=os.uname().nodename)
            self._submitter = None  # one of an earlier submission, which nobody took, has another folder
        try:
            job = self._handed_over()
        except UserError:
            self.file.unlink(missing_ok=True)  # nothing was submitted: the next try starts anew
            raise
        # Of now: another process may have looked at the queue while sbatch was still at work.
        self._note(state="submitted", job=job, submitted_s=time.time())
        cells = f"{len(self.order.cells)} cells"
        self.say(f"submitted job {job} ({cells})" if self._queued else f"started on this machine ({cells})")
        return job

    def _handed_over(self) -> str:
        """The id of the job that was submitted. Trouble that passes is waited out; UserError for a refusal.

        A submission that failed may have been accepted all the same, so its job is looked for before anything else.
        """
        started, said_s, last = time.monotonic(), 0.0, ""
        while True:
            try:
                return self.submitter.submit()
            except NotSubmitted as error:
                if (job := self._accepted()) is not None:
                    self.say(f"sbatch failed ({short(error.text)}), but Slurm has the job {job}")
                    return job
                turn.release()
                if error.kind == "refused":
                    raise refused(error.text, self.order.launch.platform["name"]) from error
                waited = time.monotonic() - started
                if error.kind == "down" and waited > DOWN_S:
                    raise UserError(
                        f"Slurm has not taken the job for {duration(waited)}: {short(error.text)}. Nothing was "
                        "submitted; give the same command again when it answers, or correct `slurm:` in "
                        f"config/platforms/{self.order.launch.platform['name']}.yaml if the job asks for too much."
                    ) from error
                if error.kind != last or time.monotonic() - said_s > 600:
                    full = error.kind == "full"
                    why = "no more jobs are allowed now" if full else "Slurm cannot be reached or takes no jobs now"
                    self.say(f"{why} ({short(error.text)}); trying again until the job is taken")
                    said_s, last = time.monotonic(), error.kind
                self._sleep(min(self.queue.poll_s, 60.0))
                if self.signal:
                    raise Cancelled(self.signal) from error
                # A busy controller may have taken it after it was looked for.
                if (job := self._accepted()) is not None:
                    self.say(f"Slurm has the job {job} after all")
                    return job

    def _accepted(self) -> str | None:
        """The job of this submission, if Slurm has it although sbatch failed; asked until Slurm answers."""
        said = False
        while True:
            try:
                return self.submitter.find()
            except SlurmSilent as error:
                turn.release()
                if not said:
                    self.say(f"cannot ask Slurm whether the job was accepted ({error}); trying again")
                said = True
                self._sleep(min(self.queue.poll_s, 60.0))
                if self.signal:
                    raise Cancelled(self.signal) from error

    def _find(self) -> str | None:
        """The job that was submitted by an earlier process; None where that process was killed before it did."""
        if not self._queued and self.record.host != os.uname().nodename:
            raise UserError(
                f"{self.folder} was started on {self.record.host}, and this is {os.uname().nodename}. Give the "
                f"same command there, or remove {self.file} if that machine is lost."
            )
        if self.record.job:
            return self.record.job
        if (job := self._accepted()) is not None:
            self._note(state="submitted", job=job, submitted_s=time.time())
        return job

    @property
    def _queued(self) -> bool:
        return backend(self.record.mode).queued

    def _note(self, **changes: Any) -> None:
        self.record = replace(self.record, **changes)
        try:
            write(self.file, self.record)
        except OSError as error:
            raise UserError(
                f"{self.file} cannot be written: {error.strerror}. What was measured stays, and a job that runs goes "
                "on; correct that and give the same command again: it finds the job."
            ) from error

    # -- waiting ------------------------------------------------------------

    def _wait(self, job: str) -> JobState:
        """Until the job has ended, or until this process is asked to end and has cancelled it."""
        turn.release()
        watch = Watch(self.order, self.submitter, job, self.record.submitted_s or 0.0, self.say)
        if self.woken and (answer := self.woken.answer):
            self.woken = None
            if answer.state and answer.state.job == job:
                return answer.state
            watch.progress, watch.said = answer.progress, answer.said
        try:
            while True:
                watch.signal = self.signal
                if state := watch.look():
                    return state
                if self.sleeper and self._queued:
                    self.sleeper.sleep(watch, *self._sleep_on, lambda: self.signal)
                    self.sleeper = None  # the waiter cannot wait for us
                self._sleep(2.0 if self._queued else 0.25)
        except KeyboardInterrupt:  # maybe before the first look since the first signal
            watch.signal = self.signal
            watch.cancel()
            self.say(LEFT.format(job=job))
            raise

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        already = self.signal
        while time.monotonic() < end and self.signal == already:
            time.sleep(min(0.25, max(0.0, end - time.monotonic())))

    @contextlib.contextmanager
    def _ending(self) -> Iterator[list[signal.Signals]]:
        """INT, TERM and HUP are noted and acted upon by `_wait`; asked twice, this process ends at once.

        Twice is a second INT, or INT and TERM: not HUP and TERM, which the end of a login sends together.
        """

        def note(number: int, _frame: object) -> None:
            if self.signal and (number == signal.SIGINT or {number, self.signal} == waiter.TWICE):
                for other in heard:
                    signal.signal(other, lambda *_: None)  # nothing more can be asked
                before.clear()
                raise KeyboardInterrupt
            self.signal = self.signal or number

        # What the caller ignores stays ignored: HUP under nohup, INT of a script's background process.
        heard = [number for number in waiter.ENDINGS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {}
        for number in heard:
            before[number] = signal.signal(number, note)
        if self.woken:  # what came while this process was a shell
            for number in sorted(signal.sigpending() & set(heard)):
                self.signal = self.signal or signal.sigwait({number})
            signal.pthread_sigmask(signal.SIG_UNBLOCK, heard)
        try:
            yield heard
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[int]:
        """One process waits for an attempt; another one waits for that one. The lock ends with its process."""
        with self._writable():
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / ".lock").open("a")
        with file:
            if self.woken:  # the shell has kept it
                with contextlib.suppress(OSError):
                    os.dup2(waiter.LOCK, file.fileno(), inheritable=False)
                    os.close(waiter.LOCK)
            with contextlib.suppress(NoLocks):  # then job.json still keeps us from submitting twice
                wait_for_lock(file, self._wait_for_other)
            yield file.fileno()

    def _wait_for_other(self, first: bool) -> None:
        turn.release()  # the other one may need it to end
        if first:
            self.say("another process waits for this attempt; waiting for it")
        self._sleep(1.0)
        if self.signal:  # the job belongs to the other process; it is not ours to cancel
            raise Cancelled(self.signal)

    @contextlib.contextmanager
    def _writable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{error.filename or self.folder} cannot be written: {error.strerror}. Nothing was submitted."
            ) from error

    # -- the outcome --------------------------------------------------------

    def _outcome(self, state: JobState) -> Outcome:
        """The attempt's outcome, once this machine sees what the job left."""
        late = time.monotonic() + LATE_S
        if state.state in ("COMPLETED", "UNKNOWN"):
            self._until(late, lambda: left(self.order) is not None, "its outcome")
        if result := left(self.order):
            cells = [cell for cell, what in result.cells.items() if what.status == "ok"]
            self._until(late, lambda: all(is_measured(self.results, cell) for cell in cells), "cells that it measured")
        outcome = outcome_of(self.order, self.record, state, self.submitter.log_file(state.job))
        for folder in filter(None, (self.folder, self._carrier)):
            seal_logs(folder)
        return outcome

    def _until(self, end: float, there: Callable[[], bool], what: str) -> None:
        """Wait until `there`, or `end`: a shared file system shows late what a node wrote."""
        said = False
        while not there() and time.monotonic() < end and not self.signal:
            if not said:
                self.say(f"the job has ended; waiting up to {duration(LATE_S)} until this machine sees {what}")
                said = True
            for folder in (self.folder, self.results / "cells"):
                with contextlib.suppress(OSError):
                    os.listdir(folder)  # a client of NFS asks its server again for a folder that it lists
            time.sleep(0.5)
