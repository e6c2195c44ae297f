"""Answers are not as long as asked, so that cells are not comparable token by token."""

from collections.abc import Iterator

from servegauge.contract.flag import UNFIT, CellCase, Doubt, Flag, Threshold, above


def check(case: CellCase) -> Iterator[Doubt]:
    import pyarrow.compute as pc  # not at the top: reading a study reads this file

    ok = case.window.ok.table
    if not case.cell.load.ignore_eos or not ok.num_rows:
        return
    other = pc.fill_null(pc.not_equal(ok["output_tokens"], ok["output_tokens_asked"]), False)
    count = pc.sum(other).as_py()
    detail = f"{count} of {ok.num_rows} answers are longer or shorter than asked"
    yield from above(case, "output_length_share", count / ok.num_rows, detail)


OUTPUT_LENGTH = Flag(
    name="output_length",
    meaning="Answers are longer or shorter than asked though `ignore_eos` is set: the sides did not do the same work.",
    remedy="Look whether the server honours `ignore_eos` and whether `context_tokens` holds prompt and answer.",
    severity=UNFIT,
    about=CellCase,
    check=check,
    thresholds=(
        Threshold(
            "output_length_share",
            0.01,
            "answers of another length than asked (only with ignore_eos) / answers is above",
        ),
    ),
    position=60,
)
