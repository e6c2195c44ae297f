"""The table of packages in docs/architecture.md, of their docstrings."""

from __future__ import annotations

import ast
from pathlib import Path

import servegauge
from servegauge.cli.docs import between, table

PAGE = Path("docs/architecture.md")
# In the order of the data: a package imports only from itself and from those before it. A test holds it.
ORDER = (
    "base", "contract", "inputs", "frameworks", "node", "probes", "workloads", "plan", "instrument", "launch", "submit",
    "traces", "dataset", "compare", "report", "exchange", "cli",
)  # fmt: skip
BEGIN, END = "<!-- packages -->\n", "<!-- end of packages -->\n"


def packages() -> list[tuple[str, str]]:
    """The name of each package that there is, and what it is for."""
    found = []
    for name in ORDER:
        file = Path(servegauge.__file__).parent / name / "__init__.py"
        if file.is_file():
            purpose = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            found.append((f"`{name}`", " ".join(purpose.split())))
    return found


def filled(page: str) -> str:
    """`page` with its table made anew."""
    return between(page, BEGIN, END, table(("package", "what it is for"), packages()))


def pages() -> dict[Path, str]:
    return {PAGE: filled(PAGE.read_text(encoding="utf-8"))}
