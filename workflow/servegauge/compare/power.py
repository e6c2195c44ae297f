"""What a number of repeats can see, and how many it takes.

Assumption: launches of one configuration differ by a known deviation of the logarithm, normal, the same on both sides;
a repeat pairs one launch of either side, so a difference deviates by sqrt(2) as much.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
from scipy.special import gammaincinv, ndtr, ndtri, stdtrit

FEWEST = 3  # below it no verdict is given
MOST = 1_000_000
_GRID = (np.arange(2000) + 0.5) / 2000


def power_to_see(deviation: float, effect: float, repeats: int, alpha: float = 0.05) -> float:
    """Probability that `repeats` pairs show a true difference of `effect` (0.05: 5 %), two-sided paired t test."""
    shift = abs(math.log1p(effect))
    if deviation <= 0:
        return 1.0 if shift > 0 else alpha
    offset = shift / (deviation * math.sqrt(2 / repeats))
    reach = float(stdtrit(repeats - 1, 1 - alpha / 2)) * _spread(repeats - 1)
    return float((ndtr(offset - reach) + ndtr(-offset - reach)).mean())


def power_to_equal(deviation: float, margin: float, repeats: int, alpha: float = 0.05, effect: float = 0.0) -> float:
    """Probability that `repeats` pairs state equality within `margin` (TOST) where the true difference is `effect`."""
    edge, shift = math.log1p(margin), math.log1p(effect)
    if deviation <= 0:
        return 1.0 if abs(shift) < edge else 0.0
    degrees, error = repeats - 1, deviation * math.sqrt(2 / repeats)
    reach = edge - float(stdtrit(degrees, 1 - alpha)) * error * _spread(degrees)
    inside = ndtr((reach - shift) / error) - ndtr((-reach - shift) / error)
    return float(np.maximum(inside, 0.0).mean())


def repeats_needed(
    deviation: float, effect: float = 0.05, power: float = 0.8, alpha: float = 0.05, most: int = MOST
) -> int | None:
    """Fewest repeats, at least 3, that see a true difference of `effect`; None beyond `most`.

    `deviation`: between launches of one side, of the logarithm (0.03: about 3 %). Before any correction for other
    comparisons.
    """
    if effect == 0 or effect <= -1:
        raise ValueError(f"an effect is a difference such as 0.05 or -0.05, found {effect}")
    return _fewest(lambda repeats: power_to_see(deviation, effect, repeats, alpha) >= power, most)


def repeats_to_equal(
    deviation: float, margin: float = 0.02, power: float = 0.8, alpha: float = 0.05, effect: float = 0.0
) -> int | None:
    """Fewest repeats, at least 3, that state equality within `margin` where the true difference is `effect`."""
    if abs(math.log1p(effect)) >= math.log1p(margin):
        return None
    return _fewest(lambda repeats: power_to_equal(deviation, margin, repeats, alpha, effect) >= power, MOST)


def repeats_to_decide(deviation: float, ratio: float, margin: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """About how many repeats would end in a verdict, if the truth is as was seen.

    A difference beyond the margin: as many as see it. One inside: as many as see the margin or state equality with it,
    whichever takes more.
    """
    seen, edge = abs(math.log(ratio)), math.log1p(margin)
    both = _about(deviation, max(seen, edge), alpha / 2, power)
    if seen > edge:
        return both
    return max(both, _about(deviation, edge, alpha, (1 + power) / 2))


def _about(deviation: float, shift: float, tail: float, power: float) -> int:
    """Guenther's approximation of the searches below, off by one at most: quick enough for every cell of a table."""
    critical = float(ndtri(1 - tail))
    exact = 2 * (deviation * (critical + float(ndtri(power))) / shift) ** 2
    return max(FEWEST, math.ceil(min(exact + critical**2 / 2, MOST)))


def detectable_difference(deviation: float, repeats: int, power: float = 0.8, alpha: float = 0.05) -> float | None:
    """Smallest true difference (0.05: 5 %) that `repeats` repeats see with probability `power`; None below 2."""
    if repeats < 2:
        return None
    low, high = 0.0, 1e-6
    while power_to_see(deviation, high, repeats, alpha) < power:
        low, high = high, 2 * high
        if high > 1e9:
            return None
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if power_to_see(deviation, middle, repeats, alpha) >= power else (middle, high)
    return high


def usual_half_width(deviation: float, repeats: int, confidence: float = 0.95) -> float | None:
    """Half of a usual interval of the ratio (0.05: 5 %): differences under it mostly stay undecided; None below 2."""
    if repeats < 2:
        return None
    return math.expm1(float(stdtrit(repeats - 1, 0.5 + confidence / 2)) * deviation * math.sqrt(2 / repeats))


@lru_cache(maxsize=64)
def _spread(degrees: int) -> np.ndarray:
    """Estimated / true standard error at evenly spaced probabilities, over which a mean is an expectation.

    Powers are averages over it: scipy's noncentral t loses its lower tail at large offsets.
    """
    return np.sqrt(2 * gammaincinv(degrees / 2, _GRID) / degrees)


def _fewest(enough: Callable[[int], bool], most: int) -> int | None:
    """Smallest count from FEWEST to `most` that is enough; more is never less."""
    low, high = FEWEST - 1, FEWEST
    while not enough(high):
        low, high = high, 2 * high
        if low >= most:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


ASSUMED_DEVIATION = 0.03
"""Between launches of one configuration, where nothing was measured yet."""


def plan_text(
    repeats: int,
    deviations: Mapping[str, tuple[float, int]],
    margin: float = 0.02,
    effect: float | None = None,
    titles: Mapping[str, str] | None = None,
) -> str:
    """What a study of `repeats` repeats can see, in lines.

    `deviations`: metric -> (deviation of the logarithm between launches, how many launches of a configuration it rests
    on); empty: one is assumed, and marked so. `effect`: a difference (0.02: 2 %) whose repeats are asked for.
    """
    known = dict(deviations) or {"": (ASSUMED_DEVIATION, 0)}
    lines = ["What it can see, before correction for several questions (power 80 %, two-sided 5 %, launches in pairs):"]
    if repeats < FEWEST:
        lines.append(
            f"  a demonstration: repeat is {repeats}, and no verdict is given below {FEWEST} repeats of a side"
        )
    for metric, (deviation, launches) in known.items():
        lines.append(f"  {_seen(metric, deviation, launches, repeats, titles or {})}")
        wanted = [margin, *([effect] if effect and effect != margin else [])]
        takes = [f"a difference of {_percent(one)} takes {_count(repeats_needed(deviation, one))}" for one in wanted]
        takes.append(f"to state equality within {_percent(margin)} {_count(repeats_to_equal(deviation, margin))}")
        lines.append(f"    {', '.join(takes)}")
    if effect:
        counts = [repeats_needed(deviation, effect) for deviation, _ in known.values()]
        most = None if None in counts else max(count for count in counts if count)
        lines.append(f"  to see {_percent(effect)} in all of them, set matrix.repeat to {_count(most, '')}")
    return "\n".join(lines)


def _seen(metric: str, deviation: float, launches: int, repeats: int, titles: Mapping[str, str]) -> str:
    basis = f"measured, {launches} launches a configuration" if launches else "assumed: nothing was repeated yet"
    text = f"{titles.get(metric, metric) or 'every metric'}: launches differ by {_percent(deviation)} ({basis})"
    seen, half = detectable_difference(deviation, repeats), usual_half_width(deviation, repeats)
    if repeats < FEWEST or seen is None or half is None:
        return text
    return (
        f"{text}; {repeats} repeats see {_percent(seen)}, "
        f"differences under about {_percent(half)} will mostly stay undecided"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def _count(repeats: int | None, unit: str = " repeats") -> str:
    return f"more than {MOST}" if repeats is None else f"{repeats}{unit}"
