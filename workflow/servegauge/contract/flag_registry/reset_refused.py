"""The server did not do the cache reset that it was asked for."""

from collections.abc import Iterator

from servegauge.contract.flag import UNFIT, CellCase, Doubt, Flag, Threshold, above


def check(case: CellCase) -> Iterator[Doubt]:
    reset = case.record.get("cache_reset")
    if reset and not reset.get("ok") and case.cell.load.cache == "cold":
        detail = f"{reset.get('how', 'the reset')} was answered: {reset.get('answer') or 'nothing'}"
        yield from above(case, "refused_resets", 1, detail)


RESET_REFUSED = Flag(
    name="reset_refused",
    meaning="The server refused to empty its prefix cache before a cell that asked for a cold one.",
    remedy="Switch the prefix cache off (`prefix_cache: false`), or set what the framework needs for a reset.",
    severity=UNFIT,
    about=CellCase,
    check=check,
    thresholds=(
        Threshold(
            "refused_resets", 0, "cache resets that the server refused, in a cell with a cold cache, are more than"
        ),
    ),
    position=30,
)
