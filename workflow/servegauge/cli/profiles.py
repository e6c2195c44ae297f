"""`servegauge profiles`: make `snakemake --profile hlrs` find this repository's profiles by their name."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from servegauge.base.errors import UserError

HELP = "Link the profiles of this repository to where Snakemake looks for names, or undo it."
EXAMPLE = """
  servegauge profiles
  servegauge profiles --undo

Afterwards, in this repository: snakemake --profile hlrs --config study=NAME
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--undo", action="store_true", help="remove the links that lead here")


def run(arguments: argparse.Namespace) -> int:
    source, target = Path("profiles").resolve(), folder(os.environ)
    profiles = sorted(path for path in source.glob("*") if (path / "config.yaml").is_file())
    if not profiles:
        raise UserError(f"there is no profile in {source}; give the command in the repository's root")
    # A link to nothing is that of a clone which was moved or removed.
    taken = [
        target / one.name for one in profiles if not _ours(target / one.name, one) and (target / one.name).exists()
    ]
    if taken and not arguments.undo:
        raise UserError(f"{taken[0]} is there already and is not ours; rename it, or name ours: --profile profiles/...")
    for one in profiles:
        link = target / one.name
        if arguments.undo:
            if _ours(link, one):
                link.unlink()
                print(f"removed {link}")
        elif not _ours(link, one):
            target.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(one)
            print(f"{link} -> {one}")
    if not arguments.undo:
        print(f"`snakemake --profile {profiles[0].name}` works now in {source.parent}; --undo removes the links")
    return 0


def folder(environment: os._Environ[str] | dict[str, str]) -> Path:
    """Where Snakemake looks for a profile that is named, not given by its path."""
    home = environment.get("XDG_CONFIG_HOME") or str(Path(environment.get("HOME", "~")).expanduser() / ".config")
    return Path(home) / "snakemake"


def _ours(link: Path, profile: Path) -> bool:
    return link.is_symlink() and Path(os.readlink(link)) == profile
