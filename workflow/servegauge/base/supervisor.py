"""Runs one command and makes sure that nothing of it outlives us. Started as a file, needs only the standard library.

`python supervisor.py [--cpus 0,1] [--grace 10] -- command...` with a pipe on standard input: when the pipe closes,
because its owner stopped the command or because its owner was killed, the command gets SIGTERM, then its whole family,
and SIGKILL after the grace time. The guard is the subreaper of that family, so children that left their process group
or whose parents died are found too. Its exit status is the command's, or 128 plus the signal that ended it.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
COMMAND_SHARE = 0.6  # of the grace time; SGLang needs 3.5 s of the usual 10 on two cores


def prctl(option: int, value: int) -> None:
    """Linux's prctl(2); OSError where it is refused."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) was refused")


def die_with_parent() -> None:
    """Have the kernel end this process when its parent ends, however that does."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def descendants(root: int) -> list[int]:
    """Process ids of all living children of `root`, of any depth; zombies are left out."""
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError), open(f"/proc/{entry.name}/stat", encoding="utf-8", errors="replace") as file:
            # The command's name is in parentheses and may hold spaces; the fields after it do not.
            state, parent = file.read().rpartition(")")[2].split()[:2]
            if state != "Z":
                children.setdefault(int(parent), []).append(int(entry.name))
    found, queue = [], [root]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def signal_all(number: int) -> int:
    """Send `number` to every descendant of this process; returns how many there were."""
    family = descendants(os.getpid())
    for process in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)
    return len(family)


def end_family(grace_s: float) -> None:
    """SIGTERM to the command, then to all descendants, SIGKILL to those left after `grace_s`, until there are none.

    The command comes first and has `COMMAND_SHARE` of the grace time to end its own workers: a server whose worker dies
    before it takes that for a crash of the worker, logs it, and waits.
    """
    begin = time.monotonic()
    if COMMAND in descendants(os.getpid()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(COMMAND, signal.SIGTERM)
        wait_for_end(begin + COMMAND_SHARE * grace_s, lambda: COMMAND in descendants(os.getpid()))
    signal_all(signal.SIGTERM)
    wait_for_end(begin + grace_s, lambda: bool(descendants(os.getpid())))
    while signal_all(signal.SIGKILL):
        reap()
        time.sleep(0.05)


def wait_for_end(deadline: float, alive: Callable[[], bool]) -> None:
    """Wait until `alive()` is false or the clock (time.monotonic) is past `deadline`."""
    while time.monotonic() < deadline and alive():
        reap()
        time.sleep(0.05)


def reap() -> None:
    """Collect orphans that came to us as their subreaper, but leave the command itself to `subprocess`."""
    # waitid with WNOWAIT would still need to tell them apart; /proc shows zombies of ours, and there are few.
    for entry in os.scandir(f"/proc/{os.getpid()}/task"):
        with contextlib.suppress(OSError), open(f"{entry.path}/children", encoding="ascii") as file:
            for child in map(int, file.read().split()):
                if child != COMMAND:
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(child, os.WNOHANG)


COMMAND = 0


def main() -> int:
    global COMMAND
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpus", default="")
    parser.add_argument("--grace", type=float, default=10.0)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    if arguments.cpus:
        os.sched_setaffinity(0, {int(cpu) for cpu in arguments.cpus.split(",")})
    # The owner decides when to stop. A handler, not SIG_IGN, because exec would hand SIG_IGN down to the command.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)

    try:
        # Where the guard itself is killed, the kernel ends the command.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=die_with_parent
        )
    except OSError as error:
        print(f"cannot start {command[0]}: {error.strerror}", flush=True)
        return 127
    COMMAND = process.pid
    while process.poll() is None:
        readable, _, _ = select.select([0], [], [], 0.1)
        if readable and not os.read(0, 4096):
            break
        reap()
    end_family(arguments.grace)
    code = process.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
