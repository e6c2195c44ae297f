"""The load was not in its steady state when the window began."""

from collections.abc import Iterator

from servegauge.contract.flag import DOUBT, CellCase, Doubt, Flag, Threshold
from servegauge.contract.flag_registry.saturated import STEADY_PROCESSES

FEWEST = 48  # answers
CHANCE = 4.5  # standard errors that the quarters must differ by: requests that queue together are alike


def check(case: CellCase) -> Iterator[Doubt]:
    process = case.cell.load.arrival.get("process", "poisson")
    ok = case.window.ok
    if case.cell.protocol == 1 or process not in STEADY_PROCESSES or ok.count < FEWEST:
        return
    first, rest, error = ok.first_quarter()
    share = abs(first / rest - 1)
    most = case.thresholds["first_quarter_share"]
    if share > most and abs(first - rest) > CHANCE * error:
        detail = f"requests of the window's first quarter took {first:.3g} s, the others {rest:.3g} s"
        yield Doubt(float(share), float(most), detail)


RAMP_SHORT = Flag(
    name="ramp_short",
    meaning="Requests at the window's start took another time than later ones: the load was not steady yet.",
    remedy="Set a longer `load.ramp_s`, or a longer window.",
    severity=DOUBT,
    about=CellCase,
    check=check,
    thresholds=(
        Threshold(
            "first_quarter_share",
            0.1,
            "end-to-end time of the window's first quarter / of the rest, less 1, is beyond, and not by chance",
        ),
    ),
    position=81,
)
