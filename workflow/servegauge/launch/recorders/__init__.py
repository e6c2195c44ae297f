"""What records beside a cell: a file each, found by looking into this folder. `launch/recorder.py` says what one is."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache

from servegauge.base.registry import subclasses
from servegauge.contract.spec import Launch
from servegauge.frameworks.base import Context
from servegauge.launch.recorder import Recorder


def of_launch(launch: Launch) -> dict[str, type[Recorder]]:
    """Those that record the cells of `launch`: every one that is no profiler, and the one that traces it, if any."""
    asked = (launch.trace or {}).get("profiler", "")
    return {name: kind for name, kind in recorders().items() if kind.profiler in ("", asked)}


def around(launch: Launch, argv: list[str], context: Context, environment: Mapping[str, str]) -> list[str]:
    """The command of a server of `launch` as its recorders start it."""
    for kind in of_launch(launch).values():
        argv = kind.around(argv, context, environment)
    return argv


@cache
def recorders() -> dict[str, type[Recorder]]:
    """Every recorder by name, in the order in which they are started."""
    found = subclasses(sys.modules[__name__], Recorder)
    return dict(sorted(found.items(), key=lambda item: (item[1].position, item[0])))
