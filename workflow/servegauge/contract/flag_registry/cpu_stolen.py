"""Another guest of the same machine had the CPU."""

from collections.abc import Iterator

from servegauge.contract.flag import DOUBT, CellCase, Doubt, Flag, Threshold, above


def check(case: CellCase) -> Iterator[Doubt]:
    share = (case.record.get("node") or {}).get("steal_share")
    yield from above(case, "steal_share", share, "share of CPU time that the hypervisor gave to others")


CPU_STOLEN = Flag(
    name="cpu_stolen",
    meaning="The hypervisor gave this node's CPU time to others while the cell was measured.",
    remedy="Measure when the host is idle, or on a machine whose CPUs are not shared.",
    severity=DOUBT,
    about=CellCase,
    check=check,
    thresholds=(Threshold("steal_share", 0.02, "CPU time that the hypervisor took from this node / time is above"),),
    position=100,
)
