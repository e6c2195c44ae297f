"""The table of packages in docs/architecture.md, of their docstrings: `python -m servegauge.cli.docs.architecture`."""

from __future__ import annotations

import ast
from pathlib import Path

import servegauge
from servegauge.base.errors import run_and_exit
from servegauge.base.files import write_text

PAGE = Path("docs/architecture.md")
# In the order of the data: a package imports only from itself and from those before it. A test holds it.
ORDER = (
    "base", "contract", "inputs", "frameworks", "node", "probes", "workloads", "plan", "instrument", "launch", "submit",
    "traces", "dataset", "compare", "report", "exchange", "cli",
)  # fmt: skip
BEGIN, END = "<!-- packages -->\n", "<!-- end of packages -->\n"


def table() -> str:
    """A row for each package that there is: its name and what it is for."""
    lines = ["| package | what it is for |", "|---|---|"]
    for name in ORDER:
        folder = Path(servegauge.__file__).parent / name
        if not (folder / "__init__.py").is_file():
            continue
        said = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
        lines.append(f"| `{name}` | {' '.join(said.split())} |")
    return "\n".join(lines) + "\n"


def filled(page: str) -> str:
    """`page` with its table made anew."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}{table()}{END}{tail}"


def main() -> None:
    write_text(PAGE, filled(PAGE.read_text(encoding="utf-8")))


if __name__ == "__main__":
    run_and_exit(main)
