"""Nobody can tell how many tokens the first chunk held, so that the time per token after it has no denominator."""

from collections.abc import Iterator

from servegauge.contract.flag import DOUBT, CellCase, Doubt, Flag, Threshold, above


def check(case: CellCase) -> Iterator[Doubt]:
    import pyarrow.compute as pc  # not at the top: reading a study reads this file

    streamed = case.window.streamed
    if not streamed.count:
        return
    several = pc.greater(streamed.table["output_tokens"], 1)
    untold = pc.and_(pc.is_null(streamed.first_chunk_tokens), pc.fill_null(several, False))
    count = pc.sum(untold).as_py() or 0
    detail = f"of {count} of {streamed.count} answers it is unknown how many tokens the first chunk held: no TPOT"
    yield from above(case, "untold_chunk_share", count / streamed.count, detail)


TPOT_UNKNOWN = Flag(
    name="tpot_unknown",
    meaning="Chunks hold several tokens, and nothing says how many the first one held: TPOT is null for those answers.",
    remedy="Give the generator the model's tokenizer, or ask the server for usage, or token ids, in every event.",
    severity=DOUBT,
    about=CellCase,
    check=check,
    thresholds=(
        Threshold(
            "untold_chunk_share", 0.01, "answers whose first chunk holds untold tokens / streamed answers is above"
        ),
    ),
    position=63,
)
