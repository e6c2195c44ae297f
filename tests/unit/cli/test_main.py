"""The `servegauge` command: every subcommand is found, has a help with an example that it takes, and fails well."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from servegauge.cli import main

COMMANDS = main.subcommands()


def ask(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "servegauge.cli", *argv], capture_output=True, text=True, timeout=60)


def test_what_the_project_promises_is_there() -> None:
    assert {"plan", "doctor", "load", "calibrate", "probe", "status", "report"} <= set(COMMANDS)


def test_the_console_script_is_the_command() -> None:
    script = Path(sys.executable).with_name("servegauge")
    said = subprocess.run([script, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
    assert said.startswith("servegauge ")
    assert ask("--version").stdout == said


def test_the_overview_names_every_command_and_imports_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert [name for name in COMMANDS if not re.search(rf"^  {name} +\S", shown, re.MULTILINE)] == []
    code = (
        "import sys; from servegauge.cli.main import run; run(['--help']);"
        "print(sorted(name for name in sys.modules if name.startswith('servegauge.cli.')), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr.strip() == "['servegauge.cli.main']"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_are_command_lines_that_it_takes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda _process: set(range(8)))  # the examples name some of them
    (tmp_path / "copied" / "results").mkdir(parents=True)
    (tmp_path / "artifacts" / "run1").mkdir(parents=True)
    (tmp_path / "artifacts" / "run1" / "profile_export.jsonl").touch()
    module = importlib.import_module(f"servegauge.cli.{name}")
    parser = main.parser_of(module, f"servegauge {name}")
    assert module.EXAMPLE.strip("\n") in parser.format_help()
    examples = [line.strip() for line in module.EXAMPLE.replace("\\\n", " ").splitlines() if "servegauge " in line]
    assert examples
    for example in examples:
        words = shlex.split(example.partition(" > ")[0])
        assert words[:2] == ["servegauge", name]
        parser.parse_args(words[2:])


def test_a_command_that_does_not_exist_is_one_message() -> None:
    done = ask("pln")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: servegauge has no command 'pln'; there are: ")
    assert done.stderr.endswith("Did you mean 'plan'?\n")
    assert ask().returncode == 2


def test_a_new_file_is_a_new_command(tmp_path: Path) -> None:
    (tmp_path / "made_up.py").write_text('HELP = "Do what was made up."\n')
    (tmp_path / "no_command.py").write_text("X = 1\n")
    assert main.subcommands(tmp_path) == {"made_up": "Do what was made up."}


def test_a_mistake_of_the_user_ends_with_status_2_and_no_traceback() -> None:
    done = ask("plan", "no-such-study")
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no ")
    assert "Traceback" not in done.stderr
