"""A program that prints line after line: its lines as they come, and its end."""

from __future__ import annotations

import os
import time

import pytest

from servegauge.node.repeated import Repeated


def lines(program: Repeated, count: int) -> list[str]:
    """Its first `count` lines."""
    found: list[str] = []
    while len(found) < count:
        found += program.lines() or []
    return found


def test_one_that_does_not_hear_that_it_should_end_is_killed() -> None:
    program = Repeated(["sh", "-c", "trap '' TERM; echo $$; while :; do sleep 0.1; done"])
    (number,) = lines(program, 1)
    started = time.monotonic()
    program.close()
    assert time.monotonic() - started >= 2, "it was asked first"
    with pytest.raises(ProcessLookupError):
        os.kill(int(number), 0)
    assert program.lines() is None
    program.close()


def test_a_line_comes_when_it_is_whole() -> None:
    program = Repeated(["sh", "-c", "printf 'one\\ntw'; sleep 0.2; printf 'o\\n'; sleep 60"])
    assert lines(program, 2) == ["one", "two"]
    program.close()
