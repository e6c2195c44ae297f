"""docs/reliability.md names a test for each fault; each of them exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_every_fault_of_the_table_has_its_test():
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    assert len(named) > 25
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file} has no {test}"
