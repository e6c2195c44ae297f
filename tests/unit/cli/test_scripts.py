"""scripts/ holds the command-line doors of the rules and nothing else: one name for rule, script and log."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT

RULES = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")))
SCRIPTS = sorted(path.stem for path in (ROOT / "scripts").glob("*.py"))


def test_every_script_is_the_door_of_the_rule_of_its_name() -> None:
    rules = {
        name: body
        for name, body in re.findall(r"^rule (\w+):\n(.*?)(?=^\S|\Z)", RULES, re.MULTILINE | re.DOTALL)
        if "shell:" in body
    }
    assert sorted(rules) == SCRIPTS
    for name, body in rules.items():
        assert re.findall(r"scripts/(\w+)\.py", body) == [name]
        assert f"logs/{name}/" in body


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_has_help(name: str) -> None:
    argv = [sys.executable, f"scripts/{name}.py", "--help"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=ROOT, timeout=60)
    assert done.stdout.startswith(f"usage: {name}.py")
