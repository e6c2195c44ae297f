"""Many chunks came in one read, so that the gaps between them are those of a buffer and not of the server."""

from collections.abc import Iterator

from servegauge.contract.flag import DOUBT, CellCase, Doubt, Flag, Threshold, above


def check(case: CellCase) -> Iterator[Doubt]:
    gaps = case.window.streamed.gaps_s()
    if not len(gaps):
        return
    share = float((gaps == 0).mean())
    detail = f"{share:.0%} of the gaps between chunks are 0: their chunks came in one read, and TPOT is that of groups"
    yield from above(case, "zero_gap_share", share, detail)


COALESCED = Flag(
    name="coalesced",
    meaning="Reads carried several chunks: something between the model and the generator gathers them, and ITL is its.",
    remedy="Turn off buffering in proxies; a server that streams every few steps does it by its own option.",
    severity=DOUBT,
    about=CellCase,
    check=check,
    thresholds=(Threshold("zero_gap_share", 0.1, "gaps of 0 between chunks / gaps is above"),),
    position=62,
)
