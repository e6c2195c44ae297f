"""The `servegauge` command: finds the subcommands in this folder, one file each.

A subcommand is a module with `HELP` (one line), `EXAMPLE` (command lines), `add_arguments(parser)` and
`run(arguments) -> int`. Only the module of the subcommand that is asked for is imported.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from servegauge import __version__
from servegauge.base.errors import did_you_mean, run_and_exit

NEWLINE = "\n"
FOLDER = Path(__file__).parent


def subcommands(folder: Path = FOLDER) -> dict[str, str]:
    """Name of each subcommand and its line of help, read from its file without importing it."""
    found = {}
    for path in sorted(folder.glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["HELP"]:
                found[path.stem] = str(ast.literal_eval(node.value))
    return found


def parser_of(module: ModuleType, prog: str) -> argparse.ArgumentParser:
    """The parser of one subcommand, whose help ends with its example."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description=module.HELP,
        epilog=f"example:\n{module.EXAMPLE.strip(NEWLINE)}" if getattr(module, "EXAMPLE", "") else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    return parser


def overview(commands: dict[str, str]) -> str:
    """What `servegauge --help` prints."""
    width = max(map(len, commands))
    return "\n".join(
        [
            "usage: servegauge COMMAND [OPTION ...]",
            "",
            "Measure what serving a large language model costs on a platform.",
            "",
            *(f"  {name:<{width}}  {text}" for name, text in commands.items()),
            "",
            "`servegauge COMMAND --help` shows the options and an example. A study is measured by Snakemake:",
            "  snakemake --profile profiles/local --config study=demo",
        ]
    )


def run(argv: Sequence[str]) -> int:
    """Carry out a command line without its first word; returns the exit status."""
    commands = subcommands()
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(overview(commands))
        return 0 if argv else 2
    if argv[0] in ("-V", "--version"):
        print(f"servegauge {__version__}")
        return 0
    name = argv[0]
    if name not in commands:
        print(
            f"error: servegauge has no command {name!r}; there are: {', '.join(commands)}."
            f"{did_you_mean(name, commands)}",
            file=sys.stderr,
        )
        return 2
    module = importlib.import_module(f"servegauge.cli.{name}")
    return int(module.run(parser_of(module, f"servegauge {name}").parse_args(argv[1:])) or 0)


def main() -> None:
    """The console script."""
    run_and_exit(lambda: run(sys.argv[1:]))


def script(module: ModuleType) -> None:
    """A script of a rule that is a subcommand too."""
    run_and_exit(lambda: module.run(parser_of(module, Path(sys.argv[0]).name).parse_args()))
