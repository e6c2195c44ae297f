"""What a server died of: the first error in its log, not the last.

A server of several processes dies from the inside out: a worker's exception ends the engine, whose exception ends the
API server, and the log ends with "see root cause above". What happened first is what to read. Warnings and handled
errors (lines of a level below error) do not count, nor does what says only that another process failed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from servegauge.base.text import visible

LONGEST = 400  # characters of the answer
MOST_BYTES = 64 << 20  # of a log that are read

ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
PROCESS = re.compile(
    r"^\s*(?:\[[^\]]*\]|\([\w .:/=-]*\))[:\s]*"
)  # "(EngineCore_0 pid=17)", "[rank0]:", "[2026-11-26 ...]"
STAMP = re.compile(r"^\s*(?:\d{2,4}[-/]\d\d(?:[-/]\d\d)?[ T])?\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?[\s:|-]*")
LEVEL = re.compile(r"^\W*((?i:TRACE|DEBUG|INFO|NOTICE|WARNING|WARN|ERROR|CRITICAL|FATAL)\b|[DIWEF](?=\d{4} ))[\s:|\]]*")
BELOW_ERROR = ("TRACE", "DEBUG", "INFO", "NOTICE", "WARNING", "WARN", "D", "I", "W")
TRACEBACK = "Traceback (most recent call last)"
EXCEPTION = re.compile(
    r"^(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit|Timeout|Failure|Refused|NotFound)(?::|$)"
)
GOES_ON = re.compile(r":$|\d+ validation errors?\b")  # the next line says more
PLAIN = re.compile(
    r"\b(?:error|fatal|panic(?:ked)?|exception|out of memory|terminate called|segmentation fault|bus error|"
    r"illegal instruction|core dumped|undefined symbol|no such file|permission denied|address already in use|"
    r"cannot open shared object|command not found)\b|what\(\)",
    re.IGNORECASE,
)
WEAK = re.compile(r"\b(?:not found|failed to|unable to|could not|cannot)\b", re.IGNORECASE)
FOLLOWS = re.compile(
    r"root cause above|core initialization failed|initialization failed due to|background process|"
    r"died unexpectedly|process(?:es)? (?:failed|died|exited|terminated)|EngineDead|DeadError|BrokenPipe|"
    r"KeyboardInterrupt|SystemExit|CancelledError|see (?:the )?(?:logs?|stack trace) (?:above|for)|ChildFailedError",
    re.IGNORECASE,
)
"""What says that another process failed, in the words of several servers."""


def first_error(log: Path, causes: Sequence[str] = (), follows: Sequence[str] = (), begin: int = 0) -> str | None:
    """The line of `log` that says what went wrong first, without process, time and level; None where none does.

    `causes` and `follows` are a framework's own regular expressions: lines that name a cause, before anything else; and
    lines that only follow from another error. `begin`: where this server's part of the log begins, in bytes.
    """
    try:
        with log.open("rb") as file:
            file.seek(begin)
            text = file.read(MOST_BYTES)
    except OSError:
        return None
    lines = text.decode("utf-8", "replace").splitlines()
    return of_lines(lines[:-1] if len(text) == MOST_BYTES else lines, causes, follows)


def of_lines(lines: Iterable[str], causes: Sequence[str] = (), follows: Sequence[str] = ()) -> str | None:
    """As `first_error`, of the lines of a log."""
    known = [re.compile(pattern) for pattern in causes]
    later = [FOLLOWS, *(re.compile(pattern) for pattern in follows)]
    found: dict[str, str] = {}
    told = [(level, text) for level, text in map(_told, lines) if text]
    for kind, text in _errors(told, known):
        follows_from_another = kind != "cause" and any(one.search(text) for one in later)
        found.setdefault("follows" if follows_from_another else kind, text)
    for kind in ("cause", "exception", "plain", "weak", "follows"):
        if kind in found:
            return _short(visible(found[kind]))
    return None


def _short(text: str) -> str:
    """Cut at a space: half a word may be half a secret, which nothing recognises."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST].rpartition(' ')[0]} ..."


def _errors(lines: Sequence[tuple[str | None, str]], causes: Sequence[re.Pattern[str]]) -> Iterator[tuple[str, str]]:
    """(cause | exception | plain | weak, text) of every line that tells an error, in order."""
    inside = False  # a traceback was begun and its exception did not come yet
    for number, (level, text) in enumerate(lines):
        low = level in BELOW_ERROR
        if any(one.search(text) for one in causes):
            yield "cause", text
        if TRACEBACK in text:
            inside = not low
        elif low:
            continue
        elif EXCEPTION.match(text):
            yield "exception" if inside or level is not None else "plain", _whole(lines, number)
            inside = False
        elif not inside and (level is not None or PLAIN.search(text)):
            yield "plain", _whole(lines, number)
        elif not inside and WEAK.search(text):
            yield "weak", text


def _whole(lines: Sequence[tuple[str | None, str]], number: int) -> str:
    """A line with the next one where that says more."""
    text = lines[number][1]
    return " ".join([text, *(more for _, more in lines[number + 1 : number + 2] if GOES_ON.search(text))])


def _told(line: str) -> tuple[str | None, str]:
    """(level, what it says) of a line; a level stands behind process and time, in either order."""
    text, level = ESCAPES.sub("", line).rstrip(), None
    while True:
        if stamped := STAMP.match(text):
            text = text[stamped.end() :]
        elif level is None and (levelled := LEVEL.match(text)):
            level, text = levelled[1].upper(), text[levelled.end() :]
        elif named := PROCESS.match(text):
            text = text[named.end() :]
        else:
            return level, text.strip()
