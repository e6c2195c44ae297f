"""Pages of docs/ that are printed from the code: `python -m servegauge.cli.docs` writes them all anew.

A page is a module here with `pages() -> {path: text}`; the paths are those of the repository, whose root is the current
folder. Tests hold each page against its module.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(part.replace('|', chr(92) + '|') for part in line)} |" for line in (head, *rows)]
    lines.insert(1, f"|{'---|' * len(head)}")
    return "\n".join(lines) + "\n"


def between(page: str, begin: str, end: str, text: str) -> str:
    """`page` with `text` in place of what stands between the marks `begin` and `end`."""
    head, _, rest = page.partition(begin)
    return f"{head}{begin}{text}{end}{rest.partition(end)[2]}"
