"""Progress, one line at a time: to the terminal of the job and to a file beside it."""

from __future__ import annotations

import datetime
import time
from pathlib import Path

from servegauge.base.text import visible


def utc(seconds: float) -> str:
    """A time in seconds since the epoch as documents have it: UTC, ISO 8601, to the millisecond."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def utc_now() -> str:
    """The time now, as `utc` writes it."""
    return utc(time.time())


def seconds_between(start: str | None, end: str | None) -> float | None:
    """Seconds from one time to another; None where one is not known."""
    began, ended = seconds_of(start), seconds_of(end)
    return None if began is None or ended is None else ended - began


def seconds_of(text: str | None) -> float | None:
    """What `utc` wrote, or any ISO 8601 time with its zone, as seconds since the epoch; None where there is none."""
    return None if not text else datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def duration(seconds: float) -> str:
    """`8 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Progress:
    """Appends lines to `path` and prints them; `every_s` keeps a running count from flooding either."""

    def __init__(self, path: Path, every_s: float = 5.0) -> None:
        self.path, self.every_s = path, every_s
        self._last = 0.0

    def say(self, text: str) -> None:
        """One line, now."""
        stamped = f"{utc_now()[11:19]} {visible(text)}"
        print(stamped, flush=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(stamped + "\n")

    def count(self, text: str) -> None:
        """One line, unless one was written within `every_s`."""
        now = time.monotonic()
        if now - self._last >= self.every_s:
            self._last = now
            self.say(text)
