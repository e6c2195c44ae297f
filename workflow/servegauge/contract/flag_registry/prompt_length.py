"""Prompts were not as long for the server as they were asked to be: truncated, or counted otherwise."""

from collections.abc import Iterator

from servegauge.contract.flag import UNFIT, CellCase, Doubt, Flag, Threshold, above

FEWEST = 2  # tokens that a prompt may always be off: special tokens, a word that a server splits


def check(case: CellCase) -> Iterator[Doubt]:
    import numpy as np  # not at the top: reading a study reads this file
    import pyarrow.compute as pc

    table = case.window.ok.table
    known = table.filter(pc.is_valid(table["prompt_tokens"]))
    if not known.num_rows:
        return
    asked = known["prompt_tokens_asked"].to_numpy()
    more = known["prompt_tokens"].to_numpy() - asked
    # A chat template adds the same to every prompt; it never takes anything away.
    constant = max(0.0, float(np.median(more))) if case.cell.load.endpoint == "chat" else 0.0
    most = np.maximum(FEWEST, case.thresholds["prompt_length_tolerance"] * asked)
    off = np.abs(more - constant) > most
    worst = int(np.argmax(np.abs(more - constant)))
    beyond = f" beyond the {constant:g} of the chat template" if constant else ""
    detail = (
        f"{int(off.sum())} of {known.num_rows} prompts had another length than asked{beyond}; the farthest: "
        f"{int(asked[worst])} tokens asked, {int(asked[worst] + more[worst])} counted by the server"
    )
    yield from above(case, "prompt_length_share", float(off.mean()), detail)


PROMPT_LENGTH = Flag(
    name="prompt_length",
    meaning="The server counted prompts of another length than asked, beyond what a chat template adds to each.",
    remedy="Look whether the server truncates prompts to its context, and whether the tokenizer is that of its model.",
    severity=UNFIT,
    about=CellCase,
    check=check,
    thresholds=(
        Threshold("prompt_length_share", 0.01, "prompts of another length than asked / prompts is above"),
        Threshold(
            "prompt_length_tolerance",
            0.02,
            "a prompt is of another length beyond 2 tokens, and where tokens off / tokens asked is above",
        ),
    ),
    position=64,
)
