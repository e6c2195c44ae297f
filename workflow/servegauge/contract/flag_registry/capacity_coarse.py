"""The windows of a search for the capacity were too short to see an overload as small as its precision."""

from collections.abc import Iterator

import pyarrow.compute as pc

from servegauge.contract.flag import DOUBT, CellCase, Doubt, Flag, Threshold, above, ms

ENDS = {  # limits that a wait before the first token adds to -> where they end, where they begin
    "ttft_s": ("first_token_ns", "sent_ns"),
    "ttft_scheduled_s": ("first_token_ns", "scheduled_ns"),
    "ttfat_s": ("first_answer_ns", "sent_ns"),
    "e2e_s": ("last_ns", "sent_ns"),
    "e2e_scheduled_s": ("last_ns", "scheduled_ns"),
}


def check(case: CellCase) -> Iterator[Doubt]:
    found = case.record.get("capacity")
    window_s = (case.record.get("window") or {}).get("duration_s")
    if not found or not window_s:
        return
    # At a rate so much above what is carried, a request's wait grows by that part of the time that has passed.
    for name, most in found["limits"].items():
        if ends := ENDS.get(name):
            typical = pc.quantile(case.window.seconds(*ends), 0.5)[0].as_py() or 0.0
            slack = most - typical
            detail = (
                f"an overload takes {ms(slack)} of waiting to miss {name}; in a window of {window_s:.3g} s one of less "
                f"than {100 * slack / window_s:.2g} % is not seen"
            )
            yield from above(case, "unseen_overload", slack / window_s, detail)


CAPACITY_COARSE = Flag(
    name="capacity_coarse",
    meaning="Requests wait too little in a window to miss the SLO, although more was offered than the server carries.",
    remedy="Raise `load.requests`, so that windows last longer, or tighten the limit: the capacity is below its value.",
    severity=DOUBT,
    about=CellCase,
    check=check,
    thresholds=(
        Threshold("unseen_overload", 0.05, "slack of the SLO / length of the window at the capacity is above"),
    ),
    position=83,
)
