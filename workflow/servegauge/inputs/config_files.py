"""The named files under config/: found by name, checked against their schema, completed with its defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from servegauge.base import redact
from servegauge.base.errors import UserError, did_you_mean
from servegauge.contract.yaml_schema import read_yaml, schema, validate, with_defaults

MOST_LETTERS = 64  # of a name: a cell's folder is named by model, framework, platform and prompt set together
SECRET = (
    "looks like a secret, and what stands in this file is kept with the results. Take it out (and, where it was "
    "committed, revoke it): export it in the shell on the login node, whose environment every job inherits, or keep it "
    "in a private file"
)


def load_model(root: Path, name: str) -> dict[str, Any]:
    """The model `name`: its file's keys, `name`, defaults, and `tokenizer` (its `source` unless the file says)."""
    model = read_named(root, "models", "model", name)
    path = file_of(root, "models", name)
    refuse_secrets(path, path.read_text(encoding="utf-8"))
    return {**model, "tokenizer": model.get("tokenizer", model["source"])}


def names(root: Path, folder: str) -> list[str]:
    """Names of the files in config/`folder` under `root`, in alphabetical order."""
    return sorted(path.stem for path in (root / "config" / folder).glob("*.yaml"))


def file_of(root: Path, folder: str, name: str) -> Path:
    """The file of `name` in config/`folder`; UserError lists the names that exist."""
    known = names(root, folder)
    if not known and not (root / "config").is_dir():
        raise UserError(f"there is no folder {root / 'config'}: give the command in the folder of the repository")
    if name not in known:
        raise UserError(unknown_name(name, known, root / "config" / folder))
    if len(name) > MOST_LETTERS:
        raise UserError(
            f"config/{folder}/{name[:20]}...yaml: the name has {len(name)} letters, and at most {MOST_LETTERS} are "
            "allowed: it is part of the names of files. Rename the file."
        )
    return root / "config" / folder / f"{name}.yaml"


def unknown_name(name: str, known: list[str], folder: Path) -> str:
    """The message for a file that is not there: the nearest name, and all of them."""
    return f"there is no {folder / name}.yaml.{did_you_mean(name, known)} There are: {', '.join(known) or 'none'}"


def read_named(root: Path, folder: str, kind: str, name: str) -> dict[str, Any]:
    """The file of `name` in config/`folder`, checked against the schema `kind`, with its defaults and its `name`."""
    path = file_of(root, folder, name)
    data, text = read_yaml(path)
    validate(data, kind, path, text)
    return {"name": name, **with_defaults(data, schema(kind))}


def refuse_secrets(path: Path, text: str) -> None:
    """UserError where a line of a file that is kept with the results looks like a secret, comments included."""
    found = [number for number, line in enumerate(text.splitlines(), start=1) if redact.suspicious(line)]
    if found:
        also = f" (so do lines {', '.join(map(str, found[1:]))})" if found[1:] else ""
        raise UserError(f"{path}:{found[0]}: this line {SECRET}{also}")
