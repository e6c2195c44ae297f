"""One effect over several conditions: their mean, with the error that launches give it.

Assumption: conditions that were served by the same launches share their luck, so their mean is taken inside a repeat
before the spread is estimated; blocks of conditions that share no launch are independent of each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from servegauge.compare.effect import Effect, of_estimate, without_interval
from servegauge.compare.student import Estimate, combined, estimate


@dataclass(frozen=True)
class Side:
    """Logarithms of one condition's statistic by launch: `repeats` names the launches, shape (R,) both."""

    repeats: Sequence[int]
    logs: Sequence[float]


@dataclass(frozen=True)
class Block:
    """Conditions that share launches. `paired`: repeats of the sides belong together."""

    base: Sequence[Side]
    other: Sequence[Side]
    paired: bool = True


def overall_effect(
    blocks: Sequence[Block], margin: float = 0.02, confidence: float = 0.95, more_is_better: bool = False
) -> Effect:
    """The geometric mean ratio over all conditions of all blocks, each condition with the same weight.

    Where a condition of a block lacks a repeat that its siblings have, the block's common repeats are taken: a mean
    over changing conditions would compare unlike things. None without two common repeats in every block.
    """
    count = sum(len(block.base) for block in blocks)
    estimates, weights, repeats, warnings = [], [], [], []
    for block in blocks:
        found = _block(block)
        if found is None:
            return without_interval(0, "conditions have no two repeats in common")
        one, launches, lost = found
        if lost:
            verb = "repeat was" if lost == 1 else "repeats were"
            warnings.append(f"{lost} {verb} left out because not every condition has it")
        estimates.append(one)
        weights.append(len(block.base) / count)
        repeats.append(launches)
    total = estimates[0] if len(blocks) == 1 else combined(estimates, weights)
    # What one launch of a study of this shape deviates by, so that planning says how many it needs of each.
    fewest = min(repeats)
    effect = of_estimate(total, fewest, total.error * math.sqrt(fewest / 2), margin, confidence, more_is_better)
    return replace(effect, warnings=(*effect.warnings, *dict.fromkeys(warnings)))


def _block(block: Block) -> tuple[Estimate, int, int] | None:
    """Estimate of the block's mean, launches of its smaller side, and repeats left out."""
    base, base_lost = _means(block.base)
    other, other_lost = _means(block.other)
    lost = max(base_lost, other_lost)
    if block.paired:
        common = sorted(base.keys() & other.keys())
        if len(common) < 2:
            return None
        found = estimate([other[repeat] - base[repeat] for repeat in common])
        return found, len(common), lost
    if min(len(base), len(other)) < 2:
        return None
    sides = estimate(list(base.values())), estimate(list(other.values()))
    return combined(sides, (-1.0, 1.0)), min(len(base), len(other)), lost


def _means(conditions: Sequence[Side]) -> tuple[Mapping[int, float], int]:
    """Repeat -> mean over conditions, for repeats that all of them have, and how many repeats some lack."""
    have = [set(side.repeats) for side in conditions]
    common, every = set.intersection(*have), set.union(*have)
    tables = [dict(zip(side.repeats, side.logs, strict=True)) for side in conditions]
    means = {repeat: float(np.mean([table[repeat] for table in tables])) for repeat in sorted(common)}
    return means, len(every) - len(common)
