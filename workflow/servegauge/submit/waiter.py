"""One process waits for all jobs of a working folder: 200 waiting launches cost little more than one.

A process that has submitted its job, of a launch or of probes, hands it to the waiter and becomes a shell of 0.1 MB
that waits for one line, which comes when the job has ended. The shell then becomes that process again, which takes the
outcome.

The waiter decides nothing: it looks, passes on what a job says, and cancels a job whose shell was asked to end; asked
twice (`interrupts`), the shell ends at once, and its cancelled job is not waited for. When the waiter is killed, the
shells see their sockets close, become processes again, and the first of them starts another waiter.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from servegauge.base import allocation
from servegauge.base.errors import UserError
from servegauge.contract.records.base import read
from servegauge.contract.records.order import Order
from servegauge.submit import slurm_request
from servegauge.submit.backends import backend
from servegauge.submit.slurm_commands import JobState, Queue
from servegauge.submit.watch import LEFT, Watch

CONNECTION, LOCK = 8, 9  # file descriptors of the shell: to the waiter, and the attempt's lock, which it keeps
ASLEEP, WOKEN = "SERVEGAUGE_ASLEEP", "SERVEGAUGE_WOKEN"
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TWICE = {signal.SIGINT, signal.SIGTERM}  # both pending: asked twice; a signal that is pending already is not counted
DEATHS = 3  # of the waiter, after which a process waits by itself
LOOK_S, SIGNAL_S, IDLE_S = 2.0, 0.5, 5.0

# Its signals are blocked: they wait for the process that it becomes. The waiter sees them pending and cancels the job.
LEAVE = "leave"  # the waiter's line to a shell that was asked twice: there may be 200, too many to become processes
SHELL = f'IFS= read -r a <&{CONNECTION} || a=; [ "$a" = {LEAVE} ] && exit 130; {WOKEN}=$a exec "$@" {CONNECTION}<&-'


class Asleep(msgspec.Struct, frozen=True):
    """What a process leaves for itself when it becomes a shell."""

    attempt: int
    known: bool  # the attempt was submitted by an earlier run
    deaths: int = 0


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What the waiter is given of a job."""

    order: str  # file
    mode: str
    folder: str
    job: str
    submitted_s: float
    poll_s: float
    progress: int
    said: str
    log: str | None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The waiter's line. Without `state`: wait by yourself."""

    progress: int = 0
    said: str = ""
    state: JobState | None = None


@dataclass(frozen=True)
class Woken:
    """A process that was a shell; `answer` is None where the waiter died."""

    asleep: Asleep
    answer: Answer | None

    @property
    def alone(self) -> bool:
        """Whether it has to wait by itself from now on."""
        return self.asleep.deaths >= DEATHS or (self.answer is not None and self.answer.state is None)


def woken() -> Woken | None:
    """What this process was before; None where it was no shell. What it inherited of that leaves the environment."""
    asleep, said = os.environb.pop(ASLEEP.encode(), b""), os.environb.pop(WOKEN.encode(), b"")
    try:
        before = msgspec.json.decode(asleep, type=Asleep)
        os.set_inheritable(LOCK, False)
    except (msgspec.DecodeError, OSError):
        return None
    try:
        return Woken(before, msgspec.json.decode(said, type=Answer))
    except msgspec.DecodeError:
        return Woken(msgspec.structs.replace(before, deaths=before.deaths + 1), None)


@dataclass
class Sleeper:
    """How a process hands its waiting over; `woken` is what it was before."""

    woken: Woken | None = None
    known: bool = False
    log: Path | None = None

    def sleep(self, watch: Watch, lock: int, heard: Collection[int], asked: Callable[[], int]) -> None:
        """Become a shell that waits for the waiter's word about `watch`; returns where that cannot be.

        `heard` are the signals that ask this process to end, `asked` the one that came already.
        """
        if self.woken and self.woken.alone:
            return
        folder, queue = watch.submitter.folder, watch.submitter.queue
        entry = Entry(
            order=str(watch.order.folder / "order.json"),
            mode=watch.submitter.name,
            folder=str(folder),
            job=watch.job,
            submitted_s=watch.submitted_s,
            poll_s=queue.poll_s,
            progress=watch.progress,
            said=watch.said,
            log=str(self.log.absolute()) if self.log else None,
        )
        before = signal.pthread_sigmask(signal.SIG_BLOCK, heard)
        try:
            if asked() or not os.access("/bin/sh", os.X_OK):
                return
            connection = _connect()
            socket.send_fds(connection, [msgspec.json.encode(entry) + b"\n"], [2])
            kept = [fcntl.fcntl(handle, fcntl.F_DUPFD_CLOEXEC, 10) for handle in (connection.fileno(), lock)]
            os.dup2(kept[0], CONNECTION)
            os.dup2(kept[1], LOCK)
            asleep = Asleep(watch.order.attempt, self.known, self.woken.asleep.deaths if self.woken else 0)
            environment = {**os.environ, ASLEEP: msgspec.json.encode(asleep).decode()}
            argv = ["sh", "-c", SHELL, sys.argv[0], sys.executable, *sys.orig_argv[1:]]
            os.execve("/bin/sh", argv, environment)
        except OSError:
            return
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _address() -> str:
    """Of the waiter of this user, working folder and surroundings: an abstract name, which ends with its process."""
    what = [os.getcwd(), str(Path(__file__)), os.environ.get("PATH", ""), allocation.configuration()]
    return f"\0servegauge-{os.getuid()}-{hashlib.sha256('|'.join(what).encode(errors='replace')).hexdigest()[:16]}"


def _connect() -> socket.socket:
    """A connection to the waiter, which is started where there is none. Only one process can take its name."""
    for _ in range(20):
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(_address())
        except ConnectionRefusedError:
            connection.close()
            _start()
            continue
        if _peer(connection)[1] == os.getuid():
            return connection
        connection.close()
        break
    raise ConnectionRefusedError("no waiter of this user runs here")


def _start() -> None:
    """Start the waiter with a socket that takes connections already; nothing where another process does just that."""
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            listener.bind(_address())
        except OSError:
            time.sleep(0.1)
            return
        listener.listen(1024)
        subprocess.Popen(
            [sys.executable, "-m", "servegauge.submit.waiter", str(listener.fileno())], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=(listener.fileno(),), start_new_session=True,
        )  # fmt: skip


def _peer(connection: socket.socket) -> tuple[int, int]:
    """(process, user) at the other end."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", data)
    return pid, uid


# -- the waiter -----------------------------------------------------------


@dataclass
class _Client:
    """A shell that waits. `watch` is None before its entry has come and after it was answered."""

    connection: socket.socket
    pid: int
    text: bytes = b""
    terminal: int = -1
    log: str | None = None
    watch: Watch | None = None

    def answer(self, answer: Answer) -> None:
        self._answer(msgspec.json.encode(answer))

    def leave(self, watch: Watch) -> None:
        """Let the shell end now; its job, which is cancelled, is found again by the same command."""
        self.say(f"{watch.order.launch.id}: {LEFT.format(job=watch.job)}")
        self._answer(LEAVE.encode())

    def _answer(self, line: bytes) -> None:
        self.watch = None
        with contextlib.suppress(OSError):
            self.connection.sendall(line + b"\n")

    def say(self, text: str) -> None:
        """One line where its process would say it; it may have ended."""
        line = f"{text}\n".encode(errors="replace")
        with contextlib.suppress(OSError):
            os.write(self.terminal, line)
        if self.log:
            with contextlib.suppress(OSError), open(self.log, "ab") as file:
                file.write(line)


@dataclass
class Waiter:
    """Waits on `listener` for shells and looks after their jobs, until no shell is left."""

    listener: socket.socket
    clients: dict[int, _Client] = field(default_factory=dict)
    queues: dict[tuple[Path, str, float], Queue] = field(default_factory=dict)

    def run(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ)
        look_s = idle_s = time.monotonic()
        while self.clients or time.monotonic() - idle_s < IDLE_S:
            pause_s = min([LOOK_S, *(queue.poll_s for queue in self.queues.values())])
            for key, _ in self.selector.select(min(SIGNAL_S, pause_s)):
                if key.fileobj is self.listener:
                    self._accept()
                else:
                    self._hear(self.clients[key.fd])
            for client in list(self.clients.values()):
                if client.watch and (asked := _pending(client.pid)):
                    self._end(client, client.watch, asked)
            if time.monotonic() - look_s > pause_s:
                for client in list(self.clients.values()):
                    self._look(client)
                self._unhurried()
                look_s = time.monotonic()
            if self.clients:
                idle_s = time.monotonic()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self.listener.accept()
            pid, uid = _peer(connection)
            if uid != os.getuid():
                connection.close()
                return
            self.clients[connection.fileno()] = _Client(connection, pid)
            self.selector.register(connection, selectors.EVENT_READ)

    def _hear(self, client: _Client) -> None:
        """Its entry, or its end."""
        try:
            data, handles, _, _ = socket.recv_fds(client.connection, 65536, 1)
        except OSError:
            data, handles = b"", []
        if handles:
            client.terminal = handles[0]
        client.text += data
        if not data:
            self._forget(client)
        elif client.text.endswith(b"\n") and not client.watch:
            try:
                client.watch = self._watch(client, msgspec.json.decode(client.text, type=Entry))
            except (UserError, OSError, ValueError):
                client.answer(Answer())

    def _watch(self, client: _Client, entry: Entry) -> Watch:
        order = msgspec.structs.replace(read(Path(entry.order), Order), cells=())
        cluster = slurm_request.cluster(order.launch.platform)
        key = (order.results_folder, cluster, entry.poll_s)
        queue = self.queues.setdefault(key, Queue(order.results_folder, entry.poll_s, cluster))
        submitter = backend(entry.mode)(Path(entry.folder), order, queue)
        client.log = entry.log
        launch = order.launch.id
        watch = Watch(order, submitter, entry.job, entry.submitted_s, lambda text: client.say(f"{launch}: {text}"))
        watch.progress, watch.said = entry.progress, entry.said
        return watch

    def _look(self, client: _Client) -> None:
        if (watch := client.watch) is None:
            return
        try:
            state = watch.look()
        except Exception:  # whatever it is, the process of the launch meets it too, and says it
            client.answer(Answer(progress=watch.progress, said=watch.said))
            return
        if state:
            client.answer(Answer(progress=watch.progress, said=watch.said, state=state))

    def _end(self, client: _Client, watch: Watch, asked: set[signal.Signals]) -> None:
        """Cancel the job of a shell that was asked to end by these signals; asked twice, let it go."""
        if not watch.signal:
            watch.signal = min(asked, key=ENDINGS.index)
            self._look(client)
        if client.watch and asked >= TWICE:
            client.leave(watch)

    def _unhurried(self) -> None:
        """The queue is asked as seldom as before once no cancelled job is waited for."""
        if not any(client.watch and client.watch.signal for client in self.clients.values()):
            for (_, _, poll_s), queue in self.queues.items():
                queue.poll_s = poll_s

    def _forget(self, client: _Client) -> None:
        self.selector.unregister(client.connection)
        del self.clients[client.connection.fileno()]
        client.connection.close()
        if client.terminal >= 0:
            os.close(client.terminal)


def _pending(pid: int) -> set[signal.Signals]:
    """The signals that ask process `pid` to end and that it has blocked."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    masks = dict(line.split(":\t", 1) for line in text.splitlines() if line.startswith(("Sig", "ShdPnd")))
    pending = (int(masks["SigPnd"], 16) | int(masks["ShdPnd"], 16)) & int(masks["SigBlk"], 16)
    return {number for number in ENDINGS if pending >> (number - 1) & 1}


def main() -> int:
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDINGS)  # blocked in the process that started us
    with socket.socket(fileno=int(sys.argv[1])) as listener:
        Waiter(listener).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
