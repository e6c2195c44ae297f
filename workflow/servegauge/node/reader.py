"""Reading a node: its files below a root, its commands, and the register of facts read from them.

Everything that looks at the machine goes through `Node`, so that a test can give a made-up /proc and /sys tree and the
output of commands that this machine does not have. What cannot be read raises `Unreadable`, and becomes a None fact
with that reason.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

COMMAND_TIMEOUT_S = 20.0  # nvidia-smi takes seconds where persistence mode is off; a hung driver takes for ever

Run = Callable[[list[str]], str]
Read = tuple[Any, str]  # a fact's value, and where it was read


class Unreadable(Exception):
    """A fact that cannot be read on this node, with the reason; `source` is where it was looked for."""

    def __init__(self, reason: str, source: str | None = None) -> None:
        super().__init__(reason)
        self.source = source


def run_command(argv: list[str], timeout_s: float = COMMAND_TIMEOUT_S) -> str:
    """Standard output of a command, with the C locale. Unreadable when it is absent, fails or takes too long.

    nvidia-smi names a GPU that it cannot speak to in a message beside its answer for the others, and ends with a status
    then, or with none: such an answer is whole, and the message follows it.
    """
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            argv,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
            env=environment,
            text=True,
            errors="replace",
        )
    except FileNotFoundError:
        raise Unreadable(f"no {argv[0]} on this node", argv[0]) from None
    except subprocess.TimeoutExpired:
        raise Unreadable(f"{' '.join(argv)} gave no answer in {timeout_s:g} s", argv[0]) from None
    except OSError as error:
        raise Unreadable(f"{' '.join(argv)} could not be started: {error}", argv[0]) from None
    if "</nvidia_smi_log>" in done.stdout:
        return f"{done.stdout}\n{done.stderr}"
    if done.returncode != 0:
        message = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[0][:200]
        raise Unreadable(f"{' '.join(argv)} ended with status {done.returncode}: {message}", argv[0])
    return done.stdout


class Node:
    """One machine: files below `root`, commands by `run`, each command asked once.

    Below another root than / no command is run unless `run` is given: its answer would be about this machine.
    """

    def __init__(self, root: Path | str = "/", run: Run | None = None, folder: Path | str = ".") -> None:
        self.root = Path(root)
        self.folder = Path(folder)  # the workflow's
        self.real = self.root == Path("/")
        self._run = run or (run_command if self.real else None)
        self._answers: dict[tuple[str, ...], str | Unreadable] = {}

    def path(self, name: str) -> Path:
        """The absolute path `name` below the root."""
        return self.root / name.lstrip("/")

    def read(self, name: str) -> str:
        """Text of a file, stripped. Unreadable when it is absent or refused."""
        try:
            return self.path(name).read_text(encoding="utf-8", errors="replace").strip("\0\n\t ")
        except FileNotFoundError:
            raise Unreadable(f"no {name} on this node", name) from None
        except OSError as error:
            raise Unreadable(f"{name} could not be read: {error.strerror or error}", name) from None

    def read_or(self, name: str, default: str | None = None) -> str | None:
        """Text of a file, or `default` where it cannot be read or is empty."""
        try:
            return self.read(name) or default
        except Unreadable:
            return default

    def number(self, name: str) -> int:
        """A whole number in a file; Unreadable where the text is none."""
        text = self.read(name)
        try:
            return int(text)
        except ValueError:
            raise Unreadable(f"{name} holds {text[:60]!r}, not a whole number", name) from None

    def glob(self, pattern: str) -> list[Path]:
        """Paths below the root that fit, sorted with numbers in their natural order."""
        try:
            return sorted(self.root.glob(pattern.lstrip("/")), key=natural)
        except OSError:
            return []

    def name_of(self, path: Path) -> str:
        """`path` as this node sees it: without the root."""
        return "/" + str(path.relative_to(self.root))

    def command(self, *argv: str) -> str:
        """Standard output of a command, remembered. Unreadable where it fails."""
        if argv not in self._answers:
            try:
                if self._run is None:
                    raise Unreadable(f"{argv[0]} is not asked below another root than /", argv[0])
                self._answers[argv] = self._run(list(argv))
            except Unreadable as refused:
                self._answers[argv] = refused
            except LookupError:  # a made-up node that has no answer for this command
                self._answers[argv] = Unreadable(f"no {argv[0]} on this node", argv[0])
        answer = self._answers[argv]
        if isinstance(answer, Unreadable):
            raise Unreadable(str(answer), answer.source)
        return answer

    @cached_property
    def cpuinfo(self) -> list[dict[str, str]]:
        """/proc/cpuinfo: one dict per logical CPU."""
        blocks = self.read("/proc/cpuinfo").split("\n\n")
        return [fields for block in blocks if "processor" in (fields := colon_fields(block))]

    @cached_property
    def meminfo(self) -> dict[str, int]:
        """/proc/meminfo: name -> KiB, or a plain count where the kernel gives no unit."""
        fields = colon_fields(self.read("/proc/meminfo"))
        return {
            name: int(words[0]) for name, value in fields.items() if (words := value.split()) and words[0].isdigit()
        }


def natural(path: Path) -> list[Any]:
    """Sort key: `cpu2` before `cpu10`."""
    parts: list[Any] = []
    for name in path.parts:
        digits = "".join(letter if letter.isdigit() else " " for letter in name).split()
        parts.append(("".join(letter for letter in name if not letter.isdigit()), [int(number) for number in digits]))
    return parts


def colon_fields(text: str) -> dict[str, str]:
    """`name : value` lines as a dict."""
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def expand_list(text: str) -> list[int]:
    """The kernel's list notation: `0-3,8` is [0, 1, 2, 3, 8]; an empty text is []."""
    found: list[int] = []
    for part in text.replace(" ", "").split(","):
        if part:
            first, _, last = part.partition("-")
            found.extend(range(int(first), int(last or first) + 1))
    return found


def short_list(numbers: Iterable[int]) -> str:
    """Numbers in the kernel's list notation: [0, 1, 2, 3, 8] is `0-3,8`."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


@dataclass(frozen=True)
class Spec:
    """One fact: what it means, and the function that reads it as (value, source)."""

    name: str
    description: str
    read: Callable[[Node], Read]


REGISTER: dict[str, Spec] = {}


def enter(name: str, description: str, read: Callable[[Node], Read]) -> None:
    """Add a fact to the register. ValueError where another has its name."""
    if name in REGISTER:
        raise ValueError(f"two facts are called {name}")
    REGISTER[name] = Spec(name, description, read)


def fact(description: str) -> Callable[[Callable[[Node], Read]], Callable[[Node], Read]]:
    """Enter the decorated function, which returns (value, source), as the fact of its own name."""

    def named(function: Callable[[Node], Read]) -> Callable[[Node], Read]:
        enter(function.__name__, description, function)
        return function

    return named


def read_fact(spec: Spec, node: Node) -> dict[str, Any]:
    """One fact as {"value", "source", "reason"}: `reason` is None where there is a value, and the other way round."""
    try:
        value, source = spec.read(node)
    except Unreadable as refused:
        return {"value": None, "source": refused.source, "reason": str(refused)}
    # Provenance may fail, measurements may not. Kernels, drivers and hypervisors differ in
    # ways that no list of exceptions foresees; the fact is lost, with the reason, and nothing else is.
    except Exception as error:
        return {"value": None, "source": None, "reason": f"could not be understood: {type(error).__name__}: {error}"}
    if value is None:
        return {"value": None, "source": source, "reason": f"{source} does not say"}
    return {"value": value, "source": source, "reason": None}
