"""A flag that nobody needs: on every other answer."""

from collections.abc import Iterator

from servegauge.contract.flag import DOUBT, CellCase, Doubt, Flag, Threshold, above


def check(case: CellCase) -> Iterator[Doubt]:
    yield from above(case, "made_up_count", case.window.count, "made-up: there are requests")


MADE_UP = Flag(
    name="made_up_flag",
    meaning="Made-up: there were requests.",
    remedy="Made-up: send none.",
    severity=DOUBT,
    about=CellCase,
    check=check,
    thresholds=(Threshold("made_up_count", 3, "made-up: requests of the window are more than"),),
)
