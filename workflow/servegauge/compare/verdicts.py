"""The words that a comparison may end in, and which of them two p values allow.

Assumption: the p values are what they say; where several were looked at, they were adjusted for that beforehand.
"""

from __future__ import annotations

SLOWER, FASTER = "slower", "faster"
SLOWER_WITHIN, FASTER_WITHIN = "slower but within the margin", "faster but within the margin"
EQUAL = "equal"
UNDECIDED = "undecided"
NOT_JUDGED = "not judged"
NOT_COMPARABLE = "not comparable"
BELOW_INSTRUMENT = "below the instrument"

VERDICTS: dict[str, str] = {
    SLOWER: "the ratio differs from 1, to the worse: a latency is longer, a throughput lower",
    FASTER: "the ratio differs from 1, to the better: a latency is shorter, a throughput higher",
    SLOWER_WITHIN: "slower, and the difference is smaller than the margin",
    FASTER_WITHIN: "faster, and the difference is smaller than the margin",
    EQUAL: "the difference is smaller than the margin, either way",
    UNDECIDED: "the data allow a difference and equality; more repeats would tell",
    NOT_JUDGED: "fewer than three repeats, or a flag forbids a verdict; the reason stands beside it",
    NOT_COMPARABLE: "the sides did not carry the same load, or a side has no such number; the reason stands beside it",
    BELOW_INSTRUMENT: "a difference was found, not larger than the instrument's own error",
}
"""Every verdict and what it says."""

DIFFERENT = (SLOWER, FASTER, SLOWER_WITHIN, FASTER_WITHIN)

COLOURS: dict[str, str] = {SLOWER: "worse", FASTER: "better", EQUAL: "same"}
"""Verdicts that are drawn in a colour of their own; every other one is grey."""


def word(p: float, p_equal: float, ratio: float, alpha: float = 0.05, more_is_better: bool = False) -> str:
    """The verdict on a ratio whose p values against "no difference" and "not equal" are these."""
    if p < alpha:
        worse = (ratio > 1) != more_is_better
        if p_equal < alpha:
            return SLOWER_WITHIN if worse else FASTER_WITHIN
        return SLOWER if worse else FASTER
    return EQUAL if p_equal < alpha else UNDECIDED
