"""The server reports another value of an option than was asked for."""

from collections.abc import Iterator

from servegauge.contract.flag import DOUBT, Doubt, Flag, ServerCase


def check(case: ServerCase) -> Iterator[Doubt]:
    for name, asked, reported in case.differences:
        yield Doubt(reported, asked, f"{name}: asked for {asked}, the server says {reported}")


SERVER_DIFFERS = Flag(
    name="server_differs",
    meaning="The server reports another value of an option or of the layout than the study asked for.",
    remedy="Read the server's log; ask for what it can do, so that the study says what was measured.",
    severity=DOUBT,
    about=ServerCase,
    check=check,
    position=110,
)
