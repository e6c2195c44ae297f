"""Processes that are not ours had the node's CPUs."""

from collections.abc import Iterator

from servegauge.contract.flag import DOUBT, CellCase, Doubt, Flag, Threshold, above


def check(case: CellCase) -> Iterator[Doubt]:
    share = (case.record.get("node") or {}).get("others_share")
    detail = "share of the node's CPU time that processes had which this launch did not start"
    yield from above(case, "others_share", share, detail)


NODE_BUSY = Flag(
    name="node_busy",
    meaning="Other work ran on the node's CPUs while the cell was measured.",
    remedy="Measure on a node of your own (`slurm: {exclusive: true}`), or stop what else runs there.",
    severity=DOUBT,
    about=CellCase,
    check=check,
    thresholds=(Threshold("others_share", 0.1, "CPU time of processes that the launch did not start / time is above"),),
    position=101,
)
