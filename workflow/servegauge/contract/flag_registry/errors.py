"""Too many requests failed."""

from collections import Counter
from collections.abc import Iterator

from servegauge.contract.flag import DOUBT, CellCase, Doubt, Flag, Threshold, above


def check(case: CellCase) -> Iterator[Doubt]:
    total = case.window.count
    counts = Counter(case.window.table["status"].to_pylist())
    counts.pop("ok", None)
    failed = sum(counts.values())
    words = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    detail = f"{failed} of {total} requests failed: {words}"
    yield from above(case, "error_share", failed / total if total else None, detail)


ERRORS = Flag(
    name="errors",
    meaning="More requests failed than chance would explain; latencies are those of the answered ones.",
    remedy="Read `error` in the requests table and the server's log; lower the load or raise `timeout_s`.",
    severity=DOUBT,
    about=CellCase,
    check=check,
    thresholds=(Threshold("error_share", 0.01, "requests not ok / requests is above"),),
    position=50,
)
