"""Complete answers that hold nothing."""

from collections.abc import Iterator

from servegauge.contract.flag import DOUBT, CellCase, Doubt, Flag, Threshold, above


def check(case: CellCase) -> Iterator[Doubt]:
    import pyarrow.compute as pc  # not at the top: reading a study reads this file

    table = case.window.table
    empty = pc.or_kleene(pc.equal(table["status"], "no_tokens"), pc.equal(table["output_tokens"], 0))
    count = pc.sum(empty).as_py() or 0
    yield from above(case, "zero_token_requests", count, f"{count} of {table.num_rows} answers held no token")


ZERO_TOKENS = Flag(
    name="zero_tokens",
    meaning="Some answers were complete and held no token; they are in no latency.",
    remedy="Read the server's log; with `ignore_eos: true` a model cannot end before its first token.",
    severity=DOUBT,
    about=CellCase,
    check=check,
    thresholds=(Threshold("zero_token_requests", 0, "complete answers without a token are more than"),),
    position=40,
)
