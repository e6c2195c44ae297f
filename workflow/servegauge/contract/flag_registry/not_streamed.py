"""Answers came in one piece though a stream was asked for, so that it is unknown when their first token was made."""

from collections.abc import Iterator

from servegauge.contract.flag import UNFIT_LATENCY, CellCase, Doubt, Flag, Threshold, above


def check(case: CellCase) -> Iterator[Doubt]:
    import pyarrow.compute as pc  # not at the top: reading a study reads this file

    ok = case.window.ok.table
    if not case.cell.load.stream or not ok.num_rows:
        return
    count = pc.sum(pc.and_(pc.is_null(ok["first_token_ns"]), pc.is_valid(ok["last_ns"]))).as_py() or 0
    detail = f"{count} of {ok.num_rows} answers came in one piece: they have no TTFT, no TPOT and no ITL"
    yield from above(case, "one_piece_share", count / ok.num_rows, detail)


NOT_STREAMED = Flag(
    name="not_streamed",
    meaning="Answers came in one piece though a stream was asked for: the server, or a proxy, held them until the end.",
    remedy="Ask the server itself, past any proxy or gateway; turn off their buffering and compression of answers.",
    severity=UNFIT_LATENCY,
    about=CellCase,
    check=check,
    thresholds=(
        Threshold("one_piece_share", 0.01, "answers in one piece, where a stream was asked for / answers is above"),
    ),
    position=61,
)
