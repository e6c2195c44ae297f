"""The named files under config/: found by name, checked against their schema, completed with its defaults."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from servegauge.base import redact
from servegauge.base.errors import UserError, did_you_mean
from servegauge.contract.config_types import Model, Platform
from servegauge.contract.yaml_schema import Keys, Mistake, read_yaml, schema, validate, with_defaults

MOST_SHOWN = 12  # names of files in a message
MOST_LETTERS = 64  # of a name: a cell's folder is named by model, framework, platform and prompt set together
SECRET = (
    "looks like a secret, and what stands in this file is kept with the results. Take it out (and, where it was "
    "committed, revoke it): export it in the shell on the login node, whose environment every job inherits, or keep it "
    "in a private file"
)
# Under a secret's name, yet none: whole numbers and switches too short to be one (NCCL_IB_PKEY: 0x8001), and places of
# files that hold one (HF_TOKEN_PATH: ~/.token).
_PLAIN = re.compile(r"(?!.{8})[+-]?(?:0x[0-9a-f]+|\d+(?:\.\d*)?)|true|false|none|null|on|off|yes|no|", re.IGNORECASE)
_PLACE_NAME = re.compile(r"(?:file|path|dir|map)$", re.IGNORECASE)
_PLACE = re.compile(r"(?:[~/.]|\$\w+/|\$\{\w+\}/)[^\s:=@]*")


def load_model(root: Path, name: str) -> Model:
    """The model `name`: its file's keys, `name`, defaults, and `tokenizer` (its `source` unless the file says)."""
    model, path, text = read_named(root, "models", "model", name)
    refuse_secrets(path, text)
    return cast(Model, {**model, "tokenizer": model.get("tokenizer", model["source"])})


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
    """The message for a file that is not there: the nearest name, and all of them, or some where they are many."""
    plain = Path(name).name.removesuffix(".yaml")
    if plain in known:
        return f"there is no {folder / name}.yaml: give the name alone, {plain!r}"
    shown = ", ".join(known) or "none"
    if len(known) > MOST_SHOWN:
        near = difflib.get_close_matches(name, known, MOST_SHOWN, 0.5) or known[:MOST_SHOWN]
        shown = f"{', '.join(near)} and {len(known) - len(near)} others (ls {folder})"
    return f"there is no {folder / name}.yaml.{did_you_mean(name, known)} There are: {shown}"


def read_named(root: Path, folder: str, kind: str, name: str) -> tuple[dict[str, Any], Path, str]:
    """Of `name` in config/`folder`: its keys, by schema `kind`, with defaults and `name`; its path; its text."""
    path = file_of(root, folder, name)
    data, text = read_yaml(path)
    validate(data, kind, path, text)
    return {"name": name, **with_defaults(data, schema(kind))}, path, text


def refuse_secrets(path: Path, text: str) -> None:
    """UserError where a line of a file that is kept with the results looks like a secret, comments included."""
    lines = text.splitlines()
    alone = [redact.suspicious(line) for line in lines]
    found = [
        number
        for number, line in enumerate(lines, start=1)
        # by itself, or as the value of a name in the line before
        if alone[number - 1]
        or (number > 1 and not alone[number - 2] and redact.suspicious(f"{lines[number - 2]}\n{line}"))
    ]
    if found:
        also = f" (so do lines {', '.join(map(str, found[1:]))})" if found[1:] else ""
        raise UserError(f"{path}:{found[0]}: this line {SECRET}{also}")


def server_secrets(server: Mapping[str, Any]) -> Iterator[Mistake]:
    yield from _secret_variables(["server", "environment"], server["environment"])
    extra = server.get("extra_args", ())
    for keys, words in extra.items() if isinstance(extra, dict) else [(None, extra)]:
        yield from _secret_words(["server", "extra_args", *([keys] if keys else [])], words)


def platform_secrets(platform: Platform) -> Iterator[Mistake]:
    yield from _secret_variables(["environment"], platform.get("environment", {}))
    yield from _secret_words(["slurm", "sbatch"], platform.get("slurm", {}).get("sbatch", ()))
    for name, how in platform.get("frameworks", {}).items():
        yield from _secret_words(["frameworks", name, "container_args"], how.get("container_args", ()))
        for key, text in (("url", how.get("url", "")), ("container", how.get("container", ""))):
            if redact.text(text) != text:  # http://user:password@host
                yield ["frameworks", name, key], SECRET


def _secret_variables(where: Keys, variables: Mapping[str, Any]) -> Iterator[Mistake]:
    """Variables whose value would be taken out of a record, but stands in the open in plans and specifications."""
    for name, value in variables.items():
        text = str(value)
        if redact.text(text) != text or (redact.is_secret_name(name) and not _is_plain(name, text)):
            yield [*where, name], SECRET


def _secret_words(where: Keys, words: Iterable[str]) -> Iterator[Mistake]:
    """The same for a command line: `--api-key x`, `--env=HF_TOKEN=x`, `Authorization: Bearer x`."""
    words = [str(word) for word in words]
    for position, (word, kept) in enumerate(zip(words, redact.argv(words), strict=True)):
        name, _, value = word.rpartition("=") if kept != redact.REMOVED else (words[position - 1], "", word)
        if kept != word and not _is_plain(name, value):
            yield [*where, position], SECRET


def _is_plain(name: str, value: str) -> bool:
    """True where `value` is none, though `name` is a secret's: a small number, a switch, or the path of a file."""
    return bool(_PLAIN.fullmatch(value) or (_PLACE_NAME.search(name) and _PLACE.fullmatch(value)))
