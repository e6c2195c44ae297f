"""What runs on the node: take the machine, learn when the job ends and which rank this is, carry out the order.

`run_order` is what submitit's pickle names, so it holds a path and two module names and nothing else. The same
function runs as `python -m servegauge.submit.entrypoint ORDER` where the node is ours already (`inline`). The outcome
is left as JSON in the attempt's folder: nothing that a job leaves is ever unpickled.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TextIO, cast

from servegauge.base import allocation, environment
from servegauge.base.errors import UserError
from servegauge.base.files import read_json, write_json
from servegauge.base.locks import wait_for_lock
from servegauge.base.text import visible
from servegauge.contract.records.base import DamagedRecord, read, read_if_there, write
from servegauge.contract.records.job import Left, Running
from servegauge.contract.records.order import JobContext, Node, Order, is_measured
from servegauge.contract.records.outcome import CellOutcome, Outcome
from servegauge.submit import slurm_commands
from servegauge.submit.claim import claim

# One for everybody on this machine, whatever their TMPDIR.
MACHINE_LOCK = Path(os.environ.get("SERVEGAUGE_MACHINE_LOCK", "/tmp/servegauge-machine.lock"))
HEAD_WAIT_S = 120.0  # for the first node of a launch that spans several to say where it is


Run = Callable[[Order, JobContext], Outcome | None]
"""What measures on a node, as `Order.run` names it: None on a node that is not the first."""


class Interrupted(Exception):
    """A signal that asks for the end came while no cell was measured."""


def run_order(order_file: str, run: str) -> None:
    """Carry out the order in `order_file` on this node; the first node leaves `outcome.json` beside it.

    Called by submitit in each task of the job. A requeued job calls it again: what is measured is not measured again.
    `run` names the function that measures, as module:function; it gets the order and the job's context.
    """
    path = Path(order_file)
    order = read(path, Order)
    os.chdir(order.root)
    environment.take_setup(os.environ)
    os.environ.update(environment.past_proxies(os.environ))
    signals = EndSignals()
    with machine_lock(f"{order.launch.id}, attempt {order.attempt}"):
        outcome = _carry_out(path, order, run, signals)
        if outcome and order.then and outcome.ran_through:
            then = read(Path(order.then), Order)
            print(f"{order.launch.id} has ended; {then.launch.id} follows in its job", flush=True)
            _carry_out(Path(order.then), then, then.run, signals)


def _carry_out(path: Path, order: Order, run: str, signals: EndSignals) -> Outcome | None:
    """Do what one order says; its outcome on the first node, None on the others and where another job does it."""
    signals.begun = False  # of an order before, the outcome is written and the handlers are gone
    folder = path.parent
    rank, nodes = allocation.rank()
    start = allocation.start()
    if rank == 0:
        if other := _claimed_by(folder):
            _left_to(folder, other)
            return None
        if start and nodes == 1 and (done := _done(folder)):
            return done  # put back into the queue while the order after it was carried out
        if failed := _failed_nodes(folder):
            write(folder / "outcome.json", _not_measured(order, failed))
            return None
        _say_started(folder, nodes)
    context = JobContext(start=start, deadline_s=deadline(order), node=_node(folder, rank, nodes))
    # Imported here, on the node: the process that submits and waits never loads pyarrow or numpy.
    module, _, name = run.partition(":")
    function: Run = getattr(importlib.import_module(module), name)
    signals.begun = bool(order.cells)  # without cells nothing is half measured, and nobody else listens
    outcome = function(order, context)
    if rank == 0 and outcome is not None:
        write(folder / "outcome.json", outcome)
        return outcome
    return None


def _done(folder: Path) -> Outcome | None:
    """What an earlier start of the job left, where it had carried the order out."""
    with contextlib.suppress(DamagedRecord):
        done = read_if_there(folder / "outcome.json", Outcome)
        return done if done and done.ran_through else None
    return None


class EndSignals:
    """Until a launch has its own handlers, and while probes run, TERM, INT and Slurm's USR2 end the job and say so.

    submitit's handlers would ignore TERM and requeue on USR2; neither is wanted: the launch stops by itself. Once it
    has begun, a signal that comes before or after its own handlers changes nothing: the outcome must not be lost to it.
    """

    def __init__(self) -> None:
        self.begun = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            signal.signal(number, self._end)

    def _end(self, number: int, _frame: object) -> None:
        if not self.begun:
            raise Interrupted(f"the job got {signal.Signals(number).name}")


# -- the machine ----------------------------------------------------------


@contextlib.contextmanager
def machine_lock(holder: str) -> Iterator[None]:
    """Hold this machine alone; waits for the launch that has it. Inside a Slurm job the node is Slurm's to give.

    The lock ends with its process, however that ends. `holder` is what a waiting launch says it waits for.
    """
    if allocation.job():
        yield
        return
    with _open_shared(MACHINE_LOCK) as file:

        def wait(first: bool) -> None:
            if first:
                file.seek(0)
                who = visible(file.read(200)).strip()  # another user may have written it
                print(f"waiting for this machine: {who or 'another launch'} has it", flush=True)
            time.sleep(0.2)

        wait_for_lock(file, wait)
        with contextlib.suppress(OSError):  # another user's file: then it is not about us
            file.seek(0)
            file.truncate()
            file.write(f"{holder} (process {os.getpid()})\n")
            file.flush()
        yield


def _open_shared(path: Path) -> TextIO:
    """Open a lock file that other users may have made; without O_CREAT first, which a sticky /tmp would refuse.

    A link is never followed: its owner would choose the file that we write to.
    """
    flags = os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        try:
            return _regular(path, os.open(path, os.O_RDWR | flags))
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | flags, 0o666)
                os.fchmod(handle, 0o666)
                return _regular(path, handle)
            return _regular(path, os.open(path, os.O_RDWR | flags))
        except PermissionError:
            return _regular(path, os.open(path, os.O_RDONLY | flags), "r")
    except OSError as error:
        raise UserError(
            f"{path}, the lock that keeps two launches off one machine, cannot be opened: {error.strerror}. Remove it "
            "if it is a link or a folder, or set SERVEGAUGE_MACHINE_LOCK to a path of your own."
        ) from error


def _regular(path: Path, handle: int, mode: str = "r+") -> TextIO:
    """The open file, which must be an ordinary one with one name; OSError otherwise."""
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        os.close(handle)
        raise OSError(errno.EINVAL, "it is no ordinary file", str(path))
    return cast(TextIO, os.fdopen(handle, mode, encoding="utf-8", errors="replace"))


# -- time -----------------------------------------------------------------


def deadline(order: Order) -> float | None:
    """When the job ends, in seconds since the epoch: Slurm's word, else the study's minutes from now, else None."""
    if job := allocation.job():
        return allocation.end_s() or slurm_commands.time_limit_s(job)
    return time.time() + 60.0 * order.job.minutes if order.job.minutes else None


# -- nodes ----------------------------------------------------------------


def _node(folder: Path, rank: int, nodes: int) -> Node:
    """This task's place; the first node says its address in a file beside the order, and the others wait for it."""
    if nodes == 1:
        return Node()
    # A requeued job starts on other nodes: the name tells this start's file from an earlier one's.
    start = f"{allocation.job()}-{allocation.start()}"
    file = folder / f"head-{start}.json"
    if rank == 0:
        name = allocation.node()
        try:
            socket.getaddrinfo(name, None)
        except OSError:
            name = socket.gethostname()
        with socket.socket() as listener:
            listener.bind(("", 0))
            port = listener.getsockname()[1]
        write_json(file, {"head": name, "head_port": port})
    end = time.monotonic() + HEAD_WAIT_S
    while not file.exists():
        if time.monotonic() > end:
            raise UserError(f"the first node of this launch did not write {file} within {HEAD_WAIT_S:.0f} s")
        time.sleep(0.2)
    head = read_json(file)
    return Node(rank=rank, nodes=nodes, head=str(head["head"]), head_port=int(head["head_port"]))


# -- starts, and what is left of an earlier one ---------------------------


def _say_started(folder: Path, nodes: int) -> None:
    """Record what runs this attempt. Of a start that was interrupted, the outcome goes and the record stays."""
    (folder / "outcome.json").unlink(missing_ok=True)
    # What made the cells of the start before: on another node, perhaps, with another calibration.
    start = allocation.start()
    for name in ("launch", "calibration") if start else ():
        with contextlib.suppress(FileNotFoundError):
            (folder / f"{name}.json").rename(folder / f"{name}-start-{start - 1}.json")
    names = allocation.nodes() or socket.gethostname()
    running = Running(
        job=allocation.job(),
        start=start,
        host=socket.gethostname(),
        pid=os.getpid(),
        nodes=names,
        number_of_nodes=nodes,
        started_s=time.time(),
    )
    write(folder / "running.json", running)


def _failed_nodes(folder: Path) -> dict[str, str]:
    """Nodes of an earlier start of this very job that are out of service, with Slurm's words."""
    if not allocation.start():
        return {}
    try:
        before = read(folder / "running.json", Running)
    except (FileNotFoundError, DamagedRecord):
        return {}
    if before.job != allocation.job():
        return {}
    try:
        return slurm_commands.failed_nodes(before.nodes)
    except slurm_commands.SlurmSilent:
        return {}


def _claimed_by(folder: Path) -> str | None:
    """Another living job of this attempt: a submission that seemed to fail may have left two. None outside Slurm."""
    job = allocation.job()
    return claim(folder, job, slurm_commands.is_alive) if job else None


def _left_to(folder: Path, other: str) -> None:
    """Say that this job leaves the attempt to the one that had it first, whose outcome counts."""
    print(f"job {other} measures this attempt; this job stopped", flush=True)
    write(folder / f"left-{allocation.job()}.json", Left(to=other))


def _not_measured(order: Order, failed: Mapping[str, str]) -> Outcome:
    """The outcome of a start that measures nothing, because the start before it lost its node."""
    reason = slurm_commands.say_failed(failed)
    cells = {
        cell.id: CellOutcome(status="ok")
        if is_measured(order.results_folder, cell.id)
        else CellOutcome(status="not_run", reason=reason)
        for cell in order.cells
    }
    return Outcome(
        launch=order.launch.id,
        attempt=order.attempt,
        study=order.study,
        status="failed",
        reason=reason,
        cells=cells,
        failed_nodes=tuple(failed),
    )


def main() -> int:
    """`python -m servegauge.submit.entrypoint ORDER RUN FOLDER`; FOLDER is there to be found in the command line."""
    order_file, run, _folder = sys.argv[1:]
    run_order(order_file, run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
