"""Comparisons that are looked at together, and the verdicts that they leave.

Assumption: the members of a family are all that was looked at as an answer to its question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from servegauge.compare.families import benjamini_hochberg, holm
from servegauge.compare.power import repeats_to_decide
from servegauge.compare.results import EXPLORATORY, LEVELS, Judged
from servegauge.compare.verdicts import BELOW_INSTRUMENT, DIFFERENT, NOT_COMPARABLE, NOT_JUDGED, UNDECIDED, word

J = TypeVar("J", bound=Judged)


def judged_together(members: Sequence[J], family: str, margin: float) -> tuple[list[J], int]:
    """The members of a family with p values adjusted for its size and their verdicts, and how large it is.

    It is as large as there are members that may be judged; the others are as they were.
    """
    judged = [index for index, one in enumerate(members) if one.verdict not in (NOT_JUDGED, NOT_COMPARABLE)]
    method = benjamini_hochberg if family == EXPLORATORY else holm
    differ = method([members[index].p for index in judged])  # type: ignore[misc]  # what is judged has both
    equal = method([members[index].p_equal for index in judged])  # type: ignore[misc]
    size = len(judged)
    found = [replace(one, family=family, family_size=size) for one in members]
    for index, p, p_equal in zip(judged, differ, equal, strict=True):
        found[index] = _judged(found[index], family, size, float(p), float(p_equal), margin)
    return found, size


def _judged(one: J, family: str, size: int, p: float, p_equal: float, margin: float) -> J:
    assert one.ratio is not None
    assert one.deviation is not None
    alpha = LEVELS[family]
    verdict, reason, needed = word(p, p_equal, one.ratio, alpha, one.metric.more_is_better), None, None
    if verdict in DIFFERENT and one.within_instrument:
        verdict, reason = BELOW_INSTRUMENT, "the difference is not larger than the instrument's own error"
    if verdict == UNDECIDED:
        needed = repeats_to_decide(
            one.deviation, one.ratio, margin, alpha=alpha / (1 if family == EXPLORATORY else size)
        )
    return replace(one, p_adjusted=p, p_equal_adjusted=p_equal, verdict=verdict, reason=reason, repeats_needed=needed)
