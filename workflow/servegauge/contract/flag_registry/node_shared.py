"""The launch had a part of the node only."""

from collections.abc import Iterator

from servegauge.contract.flag import DOUBT, CellCase, Doubt, Flag, Threshold, below


def check(case: CellCase) -> Iterator[Doubt]:
    node = case.record.get("node") or {}
    ours, all_of_them = node.get("cpus_allowed"), node.get("cpus")
    if ours and all_of_them:
        detail = f"this launch may use {ours} of the node's {all_of_them} CPUs; others may use the rest, and its memory"
        yield from below(case, "node_share", ours / all_of_them, detail)


NODE_SHARED = Flag(
    name="node_shared",
    meaning="The launch had a part of the node's CPUs only, so that other jobs may have run beside it.",
    remedy="Ask for the whole node (`slurm: {exclusive: true}` in the platform), or compare with launches like it.",
    severity=DOUBT,
    about=CellCase,
    check=check,
    thresholds=(Threshold("node_share", 1.0, "CPUs that the launch may use / CPUs of the node is below"),),
    position=102,
)
