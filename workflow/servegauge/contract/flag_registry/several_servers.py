"""The cells of a launch were measured by servers that were started anew in between."""

from collections.abc import Iterator

from servegauge.contract.flag import DOUBT, Doubt, Flag, ServersCase


def check(case: ServersCase) -> Iterator[Doubt]:
    if case.servers > 1:
        apart = f", begun {case.apart} apart" if case.apart else ""
        detail = f"the launch's cells were measured by {case.servers} servers{apart}; this one by number {case.server}"
        yield Doubt(float(case.servers), 1.0, detail)


SEVERAL_SERVERS = Flag(
    name="several_servers",
    meaning="The launch is not one server lifetime: its job was cut off or its server died, and another one went on.",
    remedy="Its cells do not share one server's luck, and may lie far apart in time: look at the order of measuring in "
    "the report. For a launch of one piece, remove its cells and measure it again.",
    severity=DOUBT,
    about=ServersCase,
    check=check,
    position=150,
)
