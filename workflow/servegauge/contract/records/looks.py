"""How narrow the intervals of a study were after so many repeats: `results/looks/<study>.json`, a look a repeat.

`job.stop` of a study adds repeats until they are narrow enough. Every look stays, with what was seen.
"""

from __future__ import annotations

import math
from typing import ClassVar

import msgspec

from servegauge.contract.records.base import Record

FIRST, FULL = 5, 10
"""Repeats from which on a study may stop, and from which on its intervals need be no narrower than was asked."""


class Width(msgspec.Struct, frozen=True, kw_only=True):
    """The 95 % interval of one primary ratio over all conditions; null where there was none."""

    metric: str
    level: str
    ratio: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def half(self) -> float | None:
        """Half of the interval, as a share of the ratio: on the logarithm, where it is symmetric."""
        return math.sqrt(self.high / self.low) - 1 if self.low and self.high else None


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen when `after` repeats had been measured.

    `question` is a digest of what the study compared then, `cells` how many cells of those repeats were measured.
    """

    after: int
    utc: str
    question: str = ""
    cells: int = 0
    widths: tuple[Width, ...] = ()

    def narrow(self, half_width: float) -> bool:
        """Every primary ratio has an interval, and none is wider; with few repeats they must be narrower than asked.

        Few repeats that happen to scatter little would stop a study too soon, with intervals that are too narrow:
        docs/statistics.md has the coverage with and without this.
        """
        halves = [one.half for one in self.widths]
        most = half_width * min(1.0, (self.after - 1) / (FULL - 1))
        return self.after >= FIRST and bool(halves) and all(half is not None and half <= most for half in halves)


class Looks(Record, frozen=True, kw_only=True):
    """Every look at a study, in the order of its repeats."""

    WHAT: ClassVar[str] = "the looks at a study"
    REMEDY: ClassVar[str] = "Remove it: the next run of the study looks again, and measures no repeat twice."

    study: str
    looks: tuple[Look, ...] = ()
