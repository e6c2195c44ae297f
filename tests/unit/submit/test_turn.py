"""Of the launches that start or end together, a few are at work at once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from servegauge.submit import turn

ANOTHER = "from servegauge.submit import turn; turn.AT_ONCE, turn.PATIENCE_S = 1, {}; turn.take(); print(turn._turn)"


@pytest.fixture(autouse=True)
def only_one(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    uid = os.getuid() + os.getpid() * 100_000  # not the turns of what else runs on this machine
    monkeypatch.setattr(turn.os, "getuid", lambda: uid)
    monkeypatch.setattr(turn, "AT_ONCE", 1)
    yield
    turn.release()


def another(patience_s: float) -> str:
    """What a second process got: None where it went on without a turn."""
    code = f"import os; os.getuid = lambda: {os.getuid()}; " + ANOTHER.format(patience_s)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_a_turn_is_one_processs_until_it_is_released() -> None:
    turn.take()
    assert another(0.3) == "None", "it waited, and went on all the same"
    turn.release()
    assert another(30.0) != "None"
