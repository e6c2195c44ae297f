"""The suites of tests: markers, targets of make, what CI runs and what developers are told are the same."""

from __future__ import annotations

import re
import tomllib

from tests.conftest import ROOT

BY_HAND = {"nightly", "studies"}


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def targets(where: str) -> set[str]:
    return set(re.findall(r"\btest-(\w+)", where))


def test_every_marker_is_a_suite_that_make_test_leaves_out() -> None:
    declared = tomllib.loads(text("pyproject.toml"))["tool"]["pytest"]["ini_options"]["markers"]
    markers = {line.partition(":")[0] for line in declared}
    (quick,) = re.findall(r"^test: .*\n(.*)$", text("Makefile"), re.MULTILINE)
    assert set(re.findall(r"not (\w+)", quick)) == markers
    assert set(re.findall(r"^test-(\w+):", text("Makefile"), re.MULTILINE)) == markers
    run = re.sub(r"^#.*$", "", text(".ci/run"), flags=re.MULTILINE)
    assert targets(run) == markers - BY_HAND
    assert targets(text("CONTRIBUTING.md")) == markers
