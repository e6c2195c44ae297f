"""What a calibration says: which loads this node's instrument carries, and which point is nearest to a load."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from servegauge.contract.records.calibration import Beyond, CalibratedPoint, Calibration, Limits, Nearest
from servegauge.contract.spec import Load

TTFT_ERROR_LIMIT_S = 0.001  # what "carries a load" means: the p99 TTFT error stays below
REACH = 2.0  # a load up to this many times a calibrated one is taken to be as well measured
OTHERS = 0.1  # share of the node's CPU time above which other work, not the instrument, makes a point noisy


def limits(points: Sequence[CalibratedPoint], most_s: float = TTFT_ERROR_LIMIT_S) -> Limits:
    """Up to which load of each kind every point, but those `disturbed`, keeps its p99 TTFT error below `most_s`."""
    found: dict[str, Any] = {"ttft_p99_error_s": most_s, "tokens_per_s": None}
    for kind in ("streams", "rate_rps"):
        family = [point for point in points if _axis(point, kind) and not disturbed(point)]
        family.sort(key=lambda point: _axis(point, kind) or 0)
        carried = None
        for point in family:
            if not carries(point, most_s):
                break
            carried = _axis(point, kind)
            found["tokens_per_s"] = max(found["tokens_per_s"] or 0.0, point.tokens_per_s or 0.0)
        found[kind] = carried
        found[f"{kind}_tried"] = _axis(family[-1], kind) if family else None
    return Limits(**found)


def carries(point: CalibratedPoint, most_s: float = TTFT_ERROR_LIMIT_S) -> bool:
    """True where the instrument's p99 TTFT error at this point is below `most_s`, in either direction."""
    return error_of(point) < most_s


def error_of(point: CalibratedPoint) -> float:
    """Size of a point's p99 TTFT error in seconds; infinite where it has none."""
    return math.inf if point.ttft_p99_error_s is None else abs(point.ttft_p99_error_s)


def disturbed(point: CalibratedPoint) -> bool:
    """True where a point was not carried while other work had the node: that says nothing of the instrument."""
    return not carries(point) and (point.others_share or 0.0) > OTHERS


def merged(old: Calibration | None, new: Calibration) -> Calibration:
    """`new` with what `old` holds of other points, to be `known` to calibrations to come."""
    taken = {point.load for point in new.points}
    kept = (point for point in (old.points if old else ()) if point.load not in taken)
    return msgspec.structs.replace(new, points=(*new.points, *kept))


def nearest(
    calibration: Calibration | None,
    load: Load,
    tokens_per_s: float | None = None,
    prompt_tokens: float | None = None,
) -> Nearest | None:
    """The calibrated point nearest to `load`, on logarithmic scales; None where no point has this kind of load.

    Axes: streams or rate (of a burst: its size, as streams), and as far as they are known tokens per second and prompt
    length. The farthest axis says how far a point is. `beyond` is true where the instrument did not carry that point on
    this node, or where an axis of the load is more than `REACH` times the highest at which it was seen to carry. What
    was `disturbed` makes nothing beyond: nor where that point alone would have told.
    """
    size, kind = size_of(load)
    points = calibration.points if calibration else ()
    family = [point for point in points if _axis(point, kind)]
    if calibration is None or not family:
        return None
    asked: dict[str, float] = {kind: size}
    asked |= {"tokens_per_s": tokens_per_s} if tokens_per_s else {}
    asked |= {"prompt_tokens": prompt_tokens} if prompt_tokens else {}

    def distance(point: CalibratedPoint) -> float:
        known = {name: _axis(point, name) for name in asked}
        return max(abs(math.log(asked[name] / value)) for name, value in known.items() if value)

    point = min(family, key=distance)
    told = not all(map(disturbed, family))
    highest: dict[str, float | None] = {kind: getattr(calibration.limits, kind) if told else size}
    for name in asked.keys() - {kind}:  # of any kind of load: tokens and bytes are the same in both
        seen = (_axis(one, name) or 0.0 for one in points if carries(one))
        highest[name] = max(seen, default=None if told else asked[name])
    held_up = disturbed(point)
    untold = held_up and all(carries(one) or disturbed(one) for one in family)  # nothing failed on a quiet node
    over = [
        Beyond(axis=name, value=asked[name], carried=most)
        for name, most in highest.items()
        if (not most or asked[name] > REACH * most)
        and not (untold and asked[name] <= REACH * (_axis(point, name) or 0.0))
    ]
    worst = max(over, key=lambda one: one.value / (one.carried or 1e-9), default=None)
    beyond = worst is not None or not (carries(point) or held_up)
    return Nearest(**msgspec.structs.asdict(point), beyond=beyond, beyond_axis=worst, disturbed=held_up)


def _axis(point: CalibratedPoint, name: str) -> float | None:
    """Where a point stands on an axis; None where it has none."""
    found: float | None = point.tokens_per_s if name == "tokens_per_s" else getattr(point.load, name)
    return found


def workers_needed(calibration: Calibration | None, load: Load) -> int:
    """How many generator processes carry `load`, by calibration: one, or more where it and the CPUs say so."""
    if calibration is None:
        return 1
    size, kind = size_of(load)
    carried = getattr(calibration.limits, kind)
    if carried is None or calibration.cpus is None:
        return 1
    return max(1, min(len(calibration.cpus), math.ceil(size / carried)))


def size_of(load: Load) -> tuple[float, str]:
    """How large a load is, and in which measure."""
    return load.size or 1, "rate_rps" if load.loop == "open" else "streams"
