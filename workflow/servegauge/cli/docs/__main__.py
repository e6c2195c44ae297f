"""Write the pages anew and name those that changed: `python -m servegauge.cli.docs`, in the repository's root."""

from __future__ import annotations

import importlib
from pathlib import Path

from servegauge.base import registry
from servegauge.base.errors import UserError, run_and_exit
from servegauge.base.files import write_text
from servegauge.cli import docs


def main() -> None:
    if not Path("docs").is_dir():
        raise UserError(f"there is no folder docs/ in {Path.cwd()}: run this in the repository's root")
    for name in registry.names(docs):
        if name == "__main__":
            continue
        for path, text in importlib.import_module(f"{docs.__name__}.{name}").pages().items():
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                write_text(path, text)
                print(path)


if __name__ == "__main__":
    run_and_exit(main)
