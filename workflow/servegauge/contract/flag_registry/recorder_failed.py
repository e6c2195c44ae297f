"""What should have recorded beside the cell did not."""

from collections.abc import Iterator

from servegauge.contract.flag import DOUBT, CellCase, Doubt, Flag, Threshold, above


def check(case: CellCase) -> Iterator[Doubt]:
    recorders = case.record.get("recorders") or {}
    failed = {name: one["error"] for name, one in recorders.items() if one.get("error")}
    detail = "; ".join(f"{name}: {error}" for name, error in failed.items())
    yield from above(case, "failed_recorders", len(failed), detail)


RECORDER_FAILED = Flag(
    name="recorder_failed",
    meaning="A recorder beside the cell died or could not write: what it would have seen is not known.",
    remedy="Read the detail; the measurement itself stands.",
    severity=DOUBT,
    about=CellCase,
    check=check,
    thresholds=(Threshold("failed_recorders", 0, "recorders that failed are more than"),),
    position=103,
)
