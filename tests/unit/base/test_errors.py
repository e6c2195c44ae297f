"""What a command prints and how it ends."""

from __future__ import annotations

import sys

import pytest

from servegauge.base.errors import UserError, run_and_exit


def test_no_terminal_obeys_what_a_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """Names of hosts and files, reasons of servers and of Slurm: whoever wrote them, and whatever prints them."""
    before = sys.stdout

    def command() -> int:
        print("node \x1b[2J\u202e", "n\udcff", sep="\t")
        sys.stdout.write("a line\nand another\n")
        return 3

    with pytest.raises(SystemExit) as ended:
        run_and_exit(command)
    assert ended.value.code == 3
    assert capsys.readouterr().out == "node \\x1b[2J\\u202e\tn\\udcff\na line\nand another\n"
    assert sys.stdout is before


def test_a_message_is_not_obeyed_either(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        raise UserError("x\x1b[2J.yaml is not there")

    with pytest.raises(SystemExit) as ended:
        run_and_exit(command)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: x\\x1b[2J.yaml is not there\n"
