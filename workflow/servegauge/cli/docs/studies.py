"""The table of docs/studies.md, and what each file in config/studies/ is expected to take, as its comment says.

docs/studies.json holds what the CPU variants gave when they were last run: `make test-studies` checks them, and
`pytest --fix tests/studies` writes it anew.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from servegauge.base.files import read_json
from servegauge.cli import docs
from servegauge.contract.config_types import Study
from servegauge.contract.yaml_schema import read_yaml
from servegauge.inputs.config_files import file_of, names
from servegauge.plan import documents
from servegauge.plan.config import load_study
from servegauge.plan.expand import expand

PAGE = Path("docs/studies.md")
FIGURES = Path("docs/studies.json")
CPU = "-cpu"
NOTHING = Path("no-results")  # the plan of what was never measured, whatever lies in results/
EXPECTED = re.compile(r"^# Expected: .*\n", re.MULTILINE)
_BEGINS = re.compile(r"^(?=[^#\n])", re.MULTILINE)  # of the first line that is no comment
BEGIN, END = "<!-- studies -->\n", "<!-- end of studies -->\n"


def rebuilt(root: Path) -> list[str]:
    """Names of the studies with a variant for a CPU in which something stands in for what was published."""
    known = names(root, "studies")
    variants = [name for name in known if f"{name}{CPU}" in known]
    return [name for name in variants if "stand_ins" in read_yaml(file_of(root, "studies", f"{name}{CPU}"))[0]]


@cache
def sums_of(root: Path, name: str) -> tuple[Study, dict[str, Any]]:
    """The study, and the totals of its plan while nothing is measured."""
    study = load_study(root, name)
    plan = expand(study)
    now = documents.state(plan, NOTHING)
    return study, documents.totals(plan, now, documents.estimate(plan, now, NOTHING), NOTHING)


def expected(root: Path, name: str) -> str:
    """The study's file with the comment of what it takes, in place of the one that it has."""
    _, sums = sums_of(root, name)
    gpus = f", {sums['gpu_hours']:.1f} GPU hours" if sums["gpu_hours"] else ", no GPU"
    line = f"# Expected: {documents.time_of(sums['minutes'])}, one launch after the other{gpus}.\n"
    text = EXPECTED.sub("", file_of(root, "studies", name).read_text(encoding="utf-8"))
    return _BEGINS.sub(line, text, count=1)


def table(root: Path, figures: dict[str, Any]) -> str:
    """A row for each study: question, published figures, cost, and one figure of its CPU variant."""
    rows = []
    for name in rebuilt(root):
        study, sums = sums_of(root, name)
        published = len(study.get("expects", ()))
        row = [f"`{name}`", study["question"], str(published or "–"), f"{sums['launches']}, {sums['cells']}"]
        row += [documents.time_of(sums["minutes"]), f"{sums['gpu_hours']:.0f}"]
        rows.append([*row, figures.get(f"{name}{CPU}", {}).get("figure", "not run yet")])
    return docs.table(("study", "asks", "published", "launches, cells", "time", "GPU hours", "on a CPU"), rows)


def filled(page: str, root: Path) -> str:
    """`page` with its table made anew."""
    figures = read_json(root / FIGURES) if (root / FIGURES).exists() else {}
    return docs.between(page, BEGIN, END, table(root, figures))


def pages() -> dict[Path, str]:
    files = {file_of(Path(), "studies", name): expected(Path(), name) for name in names(Path(), "studies")}
    return {**files, PAGE: filled(PAGE.read_text(encoding="utf-8"), Path())}
