"""Does a level of the factor answer as the baseline does? Graded questions, paired by item, and the texts themselves.

Assumption: items are independent; a launch answers a question as its repeats do, up to the luck of its kernels, so they
give one grade an item (what most of them say) and are no further items.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scipy.special import bdtr

from servegauge.compare.families import holm
from servegauge.contract.columns import Row
from servegauge.contract.spec import canonical_json
from servegauge.dataset.study_view import Study, axis_value, label, level_text, without

ALPHA = 0.05
FEWEST_CORRECT = 5  # of the baseline, below which a loss could not be seen at all

WORSE, BETTER, NO_DIFFERENCE, CANNOT_TELL = "answers worse", "answers better", "no difference seen", "cannot tell"


@dataclass(frozen=True)
class Canary:
    """One level against the baseline, in one condition (the other axes of a launch, in words).

    `lost`: items right on the baseline alone; `won`: on the level alone. `differ`: answers with another text than on
    the baseline, of `compared`; `base_differ`: the same between two launches of the baseline. `otherwise`: texts differ
    more than those do.
    """

    level: Any
    condition: str
    items: int
    base_correct: int
    correct: int
    lost: int
    won: int
    p: float
    p_adjusted: float
    verdict: str
    reason: str | None
    differ: int
    compared: int
    base_differ: int
    base_compared: int
    otherwise: bool

    @property
    def words(self) -> str:
        """`fp8: 41 of 50 right, 47 on the baseline: answers worse (...); 30 of 50 texts differ ...`."""
        where = "" if self.condition == "everything" else f" at {self.condition}"
        text = f"{level_text(self.level)}{where}: {self.correct} of {self.items} right, {self.base_correct} on the "
        text += (
            "baseline: "
            + self.verdict
            + (f" ({self.reason})" if self.reason else f" (exact McNemar, p = {self.p_adjusted:.2g})")
        )
        text += f"; {self.differ} of {self.compared} texts differ from the baseline's"
        if self.base_compared:
            return f"{text}, {self.base_differ} of {self.base_compared} between launches of the baseline"
        return f"{text}; with one launch of the baseline it is unknown how many of its own would"


def mcnemar(lost: int, won: int) -> float:
    """Two-sided exact p value of "as many items are lost as won", given how many changed."""
    return min(1.0, 2 * float(bdtr(min(lost, won), lost + won, 0.5)))


def more_often(one: int, of_one: int, other: int, of_other: int) -> float:
    """One-sided exact p value (Fisher) of "the first share is not larger", of `one` in `of_one` and the second pair."""
    total, marked = of_one + of_other, one + other
    ways = math.comb(total, of_one)
    most = min(of_one, marked)
    return sum(math.comb(marked, k) * math.comb(total - marked, of_one - k) for k in range(one, most + 1)) / ways


def canaries(study: Study, factor: str | None, baseline: Any) -> list[Canary]:
    """Every level of the factor that answered questions, beside the baseline; empty where none were asked."""
    if factor is None or not study.quality:
        return []
    of_launch = {row["launch"]: axis_value(row, factor) for row in study.ok}
    conditions: dict[str, dict[str, dict[Question, list[Row]]]] = defaultdict(lambda: defaultdict(dict))
    values: dict[str, Any] = {}
    for row in study.quality:
        key = canonical_json(of_launch[row["launch"]])
        values[key] = of_launch[row["launch"]]
        where = label(without(row, factor))
        conditions[where][key].setdefault((row["item"], row["prompt_sha256"]), []).append(row)
    found = []
    for where, levels in conditions.items():
        if base := levels.pop(canonical_json(baseline), None):
            found += [_canary(values[key], where, base, other) for key, other in levels.items()]
    adjusted: Sequence[float] = list(holm([one.p for one in found])) if found else []
    return [_judged(replace(one, p_adjusted=float(p))) for one, p in zip(found, adjusted, strict=True)]


Question = tuple[int, str]  # number and hash of the prompt: another version asks otherwise under the same number
Answers = Mapping[Question, Sequence[Mapping[str, Any]]]  # its answers, one a repeat


def _canary(level: Any, where: str, base: Answers, other: Answers) -> Canary:
    both = [key for key in base if key in other]
    grades = [(_right(base[key]), _right(other[key])) for key in both]
    lost, won = sum(one and not two for one, two in grades), sum(two and not one for one, two in grades)
    differ = [texts for key in both if (texts := _texts(base[key], other[key]))]
    own = [texts for rows in base.values() if len(rows) > 1 and (texts := _texts(rows[:1], rows[1:2], paired=False))]
    counts = [(sum(one != two for one, two in pairs), len(pairs)) for pairs in (differ, own)]
    (differing, compared), (base_differing, base_compared) = counts
    otherwise = bool(base_compared) and more_often(differing, compared, base_differing, base_compared) < ALPHA
    base_right, right = (sum(side) for side in zip(*grades, strict=True)) if grades else (0, 0)
    return Canary(
        level, where, len(both), base_right, right, lost, won, mcnemar(lost, won), 1.0, "", None,
        differing, compared, base_differing, base_compared, otherwise,
    )  # fmt: skip


def notes(found: Sequence[Canary]) -> list[str]:
    """What a reader of a comparison must know of the levels that do not answer as the baseline does."""
    sentences = []
    for one in found:
        if one.verdict == WORSE:
            sentences.append(f"What it is faster by is of worse answers: {one.words}.")
        elif one.otherwise:
            sentences.append(f"It answers otherwise than the baseline: {one.words}.")
    return sentences


def _judged(one: Canary) -> Canary:
    if one.p_adjusted < ALPHA:
        return replace(one, verdict=WORSE if one.lost > one.won else BETTER)
    if max(one.base_correct, one.correct) < FEWEST_CORRECT:
        return replace(one, verdict=CANNOT_TELL, reason=f"fewer than {FEWEST_CORRECT} right answers on either side")
    return replace(one, verdict=NO_DIFFERENCE)


def _right(rows: Sequence[Row]) -> bool:
    """What most repeats say; no answer is no right one."""
    return 2 * sum(bool(row["correct"]) for row in rows) > len(rows)


def _texts(base: Iterable[Row], other: Iterable[Row], paired: bool = True) -> tuple[str, str] | None:
    """The texts of one item on both sides, of the first repeat that both have; null where there is none."""
    by_repeat = {row["repeat"] if paired else 0: row["text"] for row in base}
    for row in other:
        text = by_repeat.get(row["repeat"] if paired else 0)
        if text is not None and row["text"] is not None:
            return text, row["text"]
    return None
