"""A GPU was slowed in the window, for heat or by its hardware."""

from collections.abc import Iterator

from servegauge.contract.flag import DOUBT, CellCase, Doubt, Flag, Threshold, above

THROTTLING = frozenset({"hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown"})
"""Clock throttle reasons that slow a GPU beyond its power cap, with which many run at full load."""


def check(case: CellCase) -> Iterator[Doubt]:
    if case.gpu is None or not case.gpu.num_rows:
        return
    samples = zip(case.gpu["t_ns"].to_pylist(), case.gpu["throttle_reasons"].to_pylist(), strict=True)
    reasons = [set(reason.split(",")) for t_ns, reason in samples if t_ns >= 0 and reason is not None]
    slowed = [reason & THROTTLING for reason in reasons if reason & THROTTLING]
    names = ", ".join(sorted(set().union(*slowed)))
    detail = f"{len(slowed)} of {len(reasons)} GPU samples were throttled: {names}"
    yield from above(case, "throttled_share", len(slowed) / len(reasons) if reasons else None, detail)


CLOCKS_THROTTLED = Flag(
    name="clocks_throttled",
    meaning="A GPU's clocks were lowered for heat or by its hardware during the window.",
    remedy="Look at cooling and power of the node, or measure on another one; `gpu` in the dataset has every sample.",
    severity=DOUBT,
    about=CellCase,
    check=check,
    thresholds=(Threshold("throttled_share", 0, "GPU samples slowed for heat or by the hardware / samples is above"),),
    position=90,
)
