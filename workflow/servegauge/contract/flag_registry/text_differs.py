"""Two platforms answer the same prompts with other texts, at temperature 0."""

from collections.abc import Iterator

from servegauge.contract.flag import DOUBT, Doubt, Flag, TextsCase, Threshold, above


def check(case: TextsCase) -> Iterator[Doubt]:
    if case.both:
        detail = f"{case.differ} of {case.both} answers differ in text from {case.reference} at temperature 0"
        yield from above(case, "differing_text_share", case.differ / case.both, detail)


TEXT_DIFFERS = Flag(
    name="text_differs",
    meaning="The platforms answered the same prompts with other texts at temperature 0: other kernels, or other work.",
    remedy="Compare software versions and numerics of the platforms (provenance in the report) before their latencies.",
    severity=DOUBT,
    about=TextsCase,
    check=check,
    thresholds=(
        Threshold(
            "differing_text_share",
            0,
            "answers with another text than on the other platform, at temperature 0 / answers of both, is above",
        ),
    ),
    position=130,
)
