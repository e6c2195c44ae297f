"""Options that several commands have, and values that are checked when the command line is read, before any work."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path

from servegauge.submit.backends import backends
from servegauge.submit.monitor import POLL_S


def number(what: str, least: float = -math.inf, most: float = math.inf, kind: type = float) -> Callable[[str], float]:
    """A type for argparse: a finite number from `least` to `most`; `what` says in the message what is expected."""

    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or not least <= value <= most:
            raise argparse.ArgumentTypeError(f"found {text!r}; expected {what}")
        return value

    return read


def count(what: str, least: int = 1) -> Callable[[str], float]:
    """A type for argparse: a whole number from `least` on."""
    return number(f"{what}, a whole number from {least} on", least, kind=int)


def counts(what: str, least: int = 1) -> Callable[[str], list[int]]:
    """A type for argparse: whole numbers from `least` on with commas between them."""

    def read(text: str) -> list[int]:
        try:
            values = [int(part) for part in text.split(",")]
        except ValueError:
            values = []
        if not values or min(values) < least:
            raise argparse.ArgumentTypeError(f"found {text!r}; expected {what}, such as 1,2")
        return values

    return read


def cpus(text: str) -> list[int]:
    """A type for argparse: CPUs that this process may use."""
    found, ours = counts("CPUs", 0)(text), sorted(os.sched_getaffinity(0))
    if absent := sorted(set(found) - set(ours)):
        raise argparse.ArgumentTypeError(f"this process may not use CPU {absent[0]}; it may use {ours}")
    return found


def name(text: str) -> str:
    """A type for argparse: a text that is not empty, as that of an unset variable of a shell is."""
    if not text.strip():
        raise argparse.ArgumentTypeError("found an empty text; is a variable of the shell not set?")
    return text


def path(text: str) -> Path:
    """A type for argparse: a path of anything."""
    return Path(name(text))


def file(text: str) -> Path:
    """A type for argparse: a file that can be read."""
    found = path(text)
    if found.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder; give a file")
    if not found.exists():
        raise argparse.ArgumentTypeError(f"there is no file {text} (the current folder is {Path.cwd()})")
    if not os.access(found, os.R_OK):
        raise argparse.ArgumentTypeError(f"{text} cannot be read; correct its rights (chmod u+r), or copy it")
    return found


def folder(text: str) -> Path:
    """A type for argparse: a folder that is there."""
    found = path(text)
    if not found.is_dir():
        what = "is a file; give a folder" if found.exists() else "does not exist"
        raise argparse.ArgumentTypeError(f"{text} {what} (the current folder is {Path.cwd()})")
    return found


def new_file(text: str) -> Path:
    """A type for argparse: where a file can be written; one that is there is replaced."""
    found = path(text)
    if found.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder; give the name of a file")
    _writable(found.parent, text)
    return found


def new_folder(text: str) -> Path:
    """A type for argparse: a folder to write to; it need not be there."""
    found = path(text)
    _writable(found, text)
    return found


def _writable(target: Path, text: str) -> None:
    """Refuse a folder in which no file can be made, as far as that can be known before."""
    above = next((one for one in (target, *target.parents) if os.path.lexists(one)), Path())
    if not above.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: {above} is a file, not a folder; give another path")
    if not os.access(above, os.W_OK | os.X_OK) or above.resolve().is_relative_to("/proc"):
        raise argparse.ArgumentTypeError(f"{text}: nothing can be written in {above}; give another path")


def add_study(add: Callable[..., object]) -> None:
    """The study, a name; None where the command leaves it to config/config.yaml."""
    where = "name of a file in config/studies/; default: the one of config/config.yaml"
    add("study", nargs="?", type=name, help=where)


def add_results(add: Callable[..., object], what: str = "folder with dataset/") -> None:
    """`--results`: a folder that is there."""
    add("--results", type=folder, default=Path("results"), metavar="DIR", help=f"{what}; default: results")


def add_submit(add: Callable[..., object]) -> None:
    """`--submit` and `--poll-s`."""
    add("--submit", choices=sorted(backends()), default="local", help="how the job reaches its node; default: local")
    what = f"seconds between two questions to Slurm; default: {POLL_S:g}"
    add("--poll-s", type=number("seconds, more than 0", 1e-3), default=POLL_S, metavar="S", help=what)
