"""A verdict as a person may quote it: the effect, its interval, how many launches, and what it was corrected for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from servegauge.base.text import quantity
from servegauge.compare.results import EXPLORATORY, METHODS, PROBES, Comparison, Judged, Overall, Ratio
from servegauge.compare.verdicts import BELOW_INSTRUMENT, DIFFERENT, EQUAL, NOT_COMPARABLE, NOT_JUDGED, UNDECIDED
from servegauge.contract.metric import PRIMARY, TABLE
from servegauge.dataset.study_view import level_text

MEMBERS = {
    PRIMARY: "primary metrics", TABLE: "cells of the table", EXPLORATORY: "exploratory ratios",
    PROBES: "numbers of the probes",
}  # fmt: skip

WIDE = 4.0  # an interval whose ends differ by such a factor says nothing; two repeats often give one


def sentence(comparison: Comparison, one: Judged) -> str:
    """The quotable sentence of a ratio, with a full stop.

    `TTFT p50 is 6.1 % slower on h100-vgpu (95 % interval 4.0 to 8.3 %, 6 launches a side, Holm over 3 primary metrics;
    instrument error 0.30 ms).`
    """
    title, level, base = one.metric.title, level_text(one.level), level_text(comparison.baseline)
    where, verb = _where(comparison, one), "are" if title.split(" (")[0].endswith("s") else "is"
    if one.ratio is not None and one.verdict in (*DIFFERENT, BELOW_INSTRUMENT):
        worse, within = _direction(one), ""
        if "within the margin" in one.verdict:
            within = f", but within the margin of {percent(comparison.margin)}"
        if one.verdict == BELOW_INSTRUMENT:
            within = ", which is not larger than the instrument's own error"
        return f"{title} {verb} {_amount(one)} {worse} on {level}{where}{within} ({basis(one, True)})."
    if one.verdict == EQUAL:
        verb = "equal" if verb == "are" else "equals"
        return (
            f"{title} on {level}{where} {verb} {base} within {percent(comparison.margin)} "
            f"({_signed(one.ratio)}; {basis(one, False)})."
        )
    if one.verdict == UNDECIDED:
        return f"{title} on {level}{where} {verb} undecided: {undecided(one)} ({basis(one, False)})."
    seen = ""
    if one.ratio is not None:
        seen = f"; what was seen against {base} is {_signed(one.ratio)}"
        if one.low is not None:
            seen += f", 95 % interval {_range(one)}"
    return f"{title} on {level}{where} {verb} {one.verdict}: {one.reason}{seen}."


def primary_sentences(comparison: Comparison, ones: Sequence[Judged]) -> list[str]:
    """The sentences of several metrics of one level; those that are not judged for one reason share theirs.

    `TTFT p50 and TPOT p50 on h100-vgpu are not judged: ...; what was seen against h100-bare is +6.1 and +1.9 %.`
    """
    groups: dict[tuple[Any, ...], list[Judged]] = {}
    for one in ones:
        alone = one.verdict not in (NOT_JUDGED, NOT_COMPARABLE)
        groups.setdefault((one.verdict, one.reason, _where(comparison, one), alone and one.metric.name), []).append(one)
    found = []
    for (verdict, reason, where, _), members in groups.items():
        if len(members) == 1:
            found.append(sentence(comparison, members[0]))
            continue
        titles = listed([one.metric.title for one in members])
        seen = listed([_points(one.ratio) for one in members if one.ratio is not None])
        tail = f"; what was seen against {level_text(comparison.baseline)} is {seen} %" if seen else ""
        found.append(f"{titles} on {level_text(members[0].level)}{where} are {verdict}: {reason}{tail}.")
    return found


def listed(texts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def words(one: Judged, margin: float) -> str:
    """The verdict in few words, for a card or a table: `6.1 % slower`, `equal within 2 %`."""
    if one.verdict in DIFFERENT:
        return f"{_amount(one)} {_direction(one)}" + (", within the margin" if "within" in one.verdict else "")
    if one.verdict == EQUAL:
        return f"equal within {percent(margin)}"
    if one.verdict == UNDECIDED:
        return f"undecided: about {one.more_repeats} more {one.repeated}"
    if one.verdict == BELOW_INSTRUMENT:
        return one.verdict
    return f"{one.verdict}: {one.reason}"


def short(one: Judged) -> str:
    """The verdict in one or two words, empty where none was given: `slower`, `lower, within`, `equal`."""
    if one.verdict in DIFFERENT:
        return _direction(one) + (", within" if "within" in one.verdict else "")
    return one.verdict if one.verdict in (EQUAL, UNDECIDED) else ""


def undecided(one: Judged) -> str:
    """`could be -3.0 to +7.2 %; about 12 more repeats would tell`."""
    return f"could be {_range(one)}; about {one.more_repeats} more {one.repeated} would tell"


def percent(share: float) -> str:
    """A share as per cent: two digits at least, none that mean nothing."""
    value = 100 * share
    return f"{value:.0f} %" if abs(value) >= 100 or abs(value - round(value)) < 0.005 else f"{value:.1f} %"


def _signed(ratio: float | None) -> str:
    return "–" if ratio is None else f"{_points(ratio)} %"


def _points(ratio: float | None) -> str:
    """The difference in per cent with its sign; none where it rounds to nothing."""
    text = f"{100 * ((ratio or 1.0) - 1):+.1f}"
    return "0.0" if text in ("-0.0", "+0.0") else text


def _range(one: Judged) -> str:
    if one.low and one.high and one.high / one.low > WIDE:
        return "too wide to say anything"
    return f"{_points(one.low)} to {_points(one.high)} %"


def _direction(one: Judged) -> str:
    """A latency is slower or faster, a throughput lower or higher."""
    above = (one.ratio or 1.0) > 1
    if one.metric.more_is_better:
        return "higher" if above else "lower"
    return "slower" if above else "faster"


def _amount(one: Judged) -> str:
    return f"{abs(100 * ((one.ratio or 1.0) - 1)):.1f} %"


def basis(one: Judged, magnitudes: bool) -> str:
    """What a verdict rests on. `magnitudes`: the ends of the interval in the direction of the effect."""
    low, high = one.low, one.high
    parts = []
    if low is not None and high is not None and one.ratio is not None:
        if magnitudes:
            ends = [100 * (low - 1), 100 * (high - 1)] if one.ratio > 1 else [100 * (1 - high), 100 * (1 - low)]
            parts.append(f"95 % interval {ends[0]:.1f} to {ends[1]:.1f} %")
        else:
            parts.append(f"95 % interval {_range(one)}")
    parts.append(_launches(one))
    if one.family and one.family_size and one.family_size > 1:
        parts.append(f"{METHODS[one.family]} over {one.family_size} {MEMBERS[one.family]}")
    text = ", ".join(parts)
    if one.instrument_s is not None:
        text += f"; instrument error {quantity(one.instrument_s, 's')}"
    return text


def _launches(one: Judged) -> str:
    if isinstance(one, Ratio) and one.launches != one.base_launches:
        return f"{one.launches} and {one.base_launches} launches"
    return f"{one.pairs} {one.measured_by[one.pairs != 1]} a side"


def _where(comparison: Comparison, one: Judged) -> str:
    if isinstance(one, Ratio):
        text = comparison.label(one.condition)
        return "" if text == "everything" else f" at {text}"
    if isinstance(one, Overall) and one.conditions + len(one.left_out) > 1:
        of = f" of {one.conditions + len(one.left_out)}" if one.left_out else ""
        return f" over {one.conditions}{of} conditions"
    return ""


def spread(comparison: Comparison, one: Overall) -> str | None:
    """`from +1.0 % (chat, rate 4/s) to +9.3 % (chat, rate 1/s)`; None where there is one condition."""
    if one.conditions < 2 or one.smallest is None or one.largest is None:
        return None
    ends: list[Any] = [one.smallest, one.largest]
    texts = [f"{_signed(end.ratio)} ({comparison.label(end.condition)})" for end in ends]
    return f"from {texts[0]} to {texts[1]}"
