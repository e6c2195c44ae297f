"""What people wrote under config/, read, checked and resolved.

`load_study` returns one dictionary with everything that the rest of the pipeline needs of a study. A mistake in any
file is a UserError that names the file, the line, the key, what was found and what is allowed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from servegauge.base.errors import UserError
from servegauge.contract import sbatch_lines
from servegauge.contract.config_types import Platform, Study
from servegauge.contract.spec import AGAIN
from servegauge.contract.yaml_schema import Mistake, read_yaml, refuse, schema, validate, with_defaults
from servegauge.inputs.config_files import (
    file_of,
    load_model,
    platform_secrets,
    read_named,
    refuse_secrets,
    server_secrets,
)
from servegauge.inputs.runtimes import DEFAULT, runtime
from servegauge.node.expectations import check_expect
from servegauge.plan import fit
from servegauge.plan.axes import FOLDERS, NOT_AXES, asked
from servegauge.plan.bases import read_study
from servegauge.plan.expected import expectation_mistakes
from servegauge.plan.mistakes import unknown_names, wrong_files, wrong_keys
from servegauge.plan.prompt_sets import load_prompts


def load_config(root: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """config/config.yaml under `root` with `overrides` (Snakemake's `--config`) over it and defaults filled in."""
    path = root / "config" / "config.yaml"
    data, text = read_yaml(path)
    validate(data, "config", path, text)
    config = {**data, **overrides}
    validate(config, "config", Path("--config, or the configfile of a profile"))
    return with_defaults(config, schema("config"))


def load_study(root: Path, name: str) -> Study:
    """The study `name` from config/studies/ under `root`, checked and resolved.

    Returns the file's keys with defaults filled in (`matrix` with a list for each axis, `load.arrival` as a mapping),
    and: `name`, `path`, `files` (paths of this and of every file that it names), `text`, `sha256` (of the text),
    `models`, `platforms` and `prompts` (name to the contents of its file, see `load_model` and its siblings),
    `recorded_rps` (with `arrival: trace`, recorded prompt set to its requests a second), `shapes`
    (model name to what `fit.shape` says of it), `planning` (that part of config/config.yaml).
    """
    data, text, files = read_study(root, name)
    path = files[0]
    _with_lists(data)
    validate(data, "study", path, text)
    study: Any = with_defaults(data, schema("study"))
    study["matrix"] = with_defaults(study["matrix"], schema("study")["$defs"]["axes"])
    if isinstance(study["load"]["arrival"], str):
        study["load"]["arrival"] = {"process": study["load"]["arrival"]}
    study["server"] = {**study["server"], "environment": _texts(study["server"].get("environment", {}))}

    mistakes = [*unknown_names(root, cast(Study, data))] or [
        *wrong_keys(study),
        *expectation_mistakes(study, list(schema("study")["$defs"]["axes"]["properties"]), root),
        *server_secrets(study["server"]),
    ]
    refuse(mistakes, path, text)
    refuse_secrets(path, text)

    study.setdefault("compare", {"factor": "platform", "baseline": study["matrix"]["platform"][0]})
    models = [*asked(study, "model"), *(one["model"] for one in study.get("expects", ()) if "model" in one)]
    study["models"] = {name: load_model(root, name) for name in dict.fromkeys(models)}
    study["platforms"] = {name: load_platform(root, name) for name in asked(study, "platform")}
    study["prompts"] = {name: load_prompts(root, name) for name in asked(study, "prompts")}
    refuse(wrong_files(study, root), path, text)
    study["shapes"] = {name: fit.shape(root, model) for name, model in study["models"].items()}
    study["planning"] = load_config(root, {})["planning"]
    study.update(
        name=name,
        files=[path.as_posix() for path in _files(root, study, files)],
        path=path.as_posix(),
        text=text,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
    )
    return study


def load_platform(root: Path, name: str) -> Platform:
    """The platform `name`: its file's keys, `name`, defaults, and CPUs of `placement` as lists of numbers."""
    platform: Any
    platform, path, text = read_named(root, "platforms", "platform", name)
    if name.lower().endswith(AGAIN):
        raise UserError(
            f"{path}: a platform's name must not end in {AGAIN!r}: a study with `aa: true` calls its baseline so when "
            f"it measures it once more. Rename the file, for example to {name[: -len(AGAIN)]}-again.yaml"
        )
    refuse(platform_secrets(platform), path, text)
    refuse(_sbatch(platform), path, text)
    refuse_secrets(path, text)
    check_expect(platform.get("expect"), f"{path}: expect")
    for framework, how in (platform.get("frameworks") or {}).items():
        try:
            runtime(how.get("runtime", DEFAULT))
        except UserError as error:
            raise UserError(f"{path}: frameworks: {framework}: {error}") from error
    given = platform.get("placement", {})
    placement: Any = {key: _cpus(value, f"{path}: placement.{key}") for key, value in given.items()}
    return {**platform, "placement": placement, "environment": _texts(platform.get("environment", {}))}


def _sbatch(platform: Platform) -> Iterator[Mistake]:
    """What the lines for sbatch say that cannot be had: said before any job is submitted."""
    slurm = platform.get("slurm") or {}
    try:
        sbatch_lines.merged(slurm.get("sbatch") or (), slurm, platform.get("gpus_per_node") or 0)
    except sbatch_lines.Refused as error:
        yield ["slurm", "sbatch"], str(error)


def _with_lists(data: dict[str, Any]) -> None:
    """Put a value that stands alone on an axis into a list, in place; wrong shapes are left to the schema."""
    matrix = data.get("matrix")
    if not isinstance(matrix, dict):
        return
    for key in ("include", "exclude"):
        if isinstance(matrix.get(key), dict):
            matrix[key] = [matrix[key]]
    entries = [entry for key in ("include", "exclude") if isinstance(matrix.get(key), list) for entry in matrix[key]]
    for axes in [matrix, *entries]:
        if isinstance(axes, dict):
            for key, value in axes.items():
                if key not in NOT_AXES and value is not None and not isinstance(value, list):
                    axes[key] = [value]


def _files(root: Path, study: Study, own: list[Path]) -> list[Path]:
    named = [file_of(root, folder, name) for axis, folder in FOLDERS.items() for name in asked(study, axis)]
    return list(dict.fromkeys([*own, *named, *(file_of(root, "models", name) for name in study["models"])]))


def _texts(variables: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in variables.items()}


def _cpus(value: list[int] | str, where: str) -> list[int]:
    """[0, 1, 2, 8] for "0-2,8"; UserError for a range whose end comes before its beginning."""
    if isinstance(value, list):
        return value
    numbers: list[int] = []
    for part in value.split(","):
        first, _, last = part.partition("-")
        if int(last or first) < int(first):
            raise UserError(f"{where}: found {part!r}, whose end is before its beginning; write {last}-{first}")
        numbers.extend(range(int(first), int(last or first) + 1))
    return numbers
