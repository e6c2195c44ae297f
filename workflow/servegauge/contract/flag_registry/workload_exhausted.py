"""The load ran out before the last request of the window was answered."""

from collections.abc import Iterator

from servegauge.contract.flag import UNFIT, CellCase, Doubt, Flag, Threshold, above


def check(case: CellCase) -> Iterator[Doubt]:
    exhausted_ns = (case.record.get("window") or {}).get("exhausted_ns")
    ok = case.window.ok
    if exhausted_ns is None or not ok.count:
        return
    # A request that timed out afterwards would have done so under any load.
    late = ok.ended_after(exhausted_ns)
    detail = f"{late} of {ok.count} answers came after the workload's last request was sent, under a lighter load"
    yield from above(case, "unloaded_share", late / ok.count, detail)


WORKLOAD_EXHAUSTED = Flag(
    name="workload_exhausted",
    meaning="The workload ran out of requests before the window's were answered: the last ones came under less load.",
    remedy="Shorten the window's answers, or raise the number of requests around it in `workloads/load_times.py`.",
    severity=UNFIT,
    about=CellCase,
    check=check,
    thresholds=(
        Threshold("unloaded_share", 0.01, "answers of the window that came after the load ran out / answers is above"),
    ),
    position=82,
)
