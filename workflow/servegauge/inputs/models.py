"""Where a model's files are, and how the ones that we write ourselves come about.

A model is what `config.load_model` returns (its file in config/models/ with its `name`). There are three kinds:

- `build: tiny`: random weights that we write ourselves to `.cache/models/random-llama-<size>` and `.gguf`;
- `hub: true`: a pinned revision of a hub's repository, in `.cache/models/<owner>--<name>@<revision>/` (hub.py);
- neither: a folder that the user has.

The first two have a stamp, a JSON file written last, with the SHA-256 of every file. Nothing here runs code that a
model brings with it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from servegauge.base.errors import UserError
from servegauge.base.files import sha256, write_json
from servegauge.contract.config_types import Model
from servegauge.inputs.engines import tiny_sizes
from servegauge.inputs.environments import build_environment, locked

Say = Callable[[str], None]

MODELS = Path(".cache") / "models"
FETCHED = "fetched.json"


def hub_folder(repository: str, revision: str) -> Path:
    """Folder of a hub repository's revision, from the repository's root: `.cache/models/<owner>--<name>@<revision>`."""
    return MODELS / f"{repository.replace('/', '--')}@{revision}"


def source_folder(model: Model) -> Path:
    """The model's folder: absolute, or from the repository's root. It need not exist."""
    if model.get("hub"):
        return hub_folder(model["source"], model["revision"])
    return _path(model["source"])


def tokenizer_folder(model: Model) -> Path:
    """Folder with the model's tokenizer.json. Another hub repository is written `owner/name@<40 hex digits>`."""
    tokenizer = model.get("tokenizer") or model["source"]
    if tokenizer == model.get("source", tokenizer) and model.get("hub"):
        return source_folder(model)
    repository, at, revision = tokenizer.rpartition("@")
    if at and len(revision) == 40:
        return hub_folder(repository, revision)
    return _path(tokenizer)


def workload_tokenizer(tokenizer: Model, root: Path) -> Path:
    """tokenizer.json of a workload's `tokenizer` ({"name", "tokenizer", "revision"}); UserError if it is not here."""
    source = tokenizer.get("tokenizer") or tokenizer.get("source")
    if not source:
        raise UserError(f"the workload's model {tokenizer.get('name')!r} names no tokenizer")
    folder = tokenizer_folder({"source": source, "tokenizer": source})
    if not (root / folder).exists() and tokenizer.get("revision"):
        folder = hub_folder(source, tokenizer["revision"])
    path = root / folder / "tokenizer.json"
    if not path.is_file():
        raise UserError(
            f"the tokenizer of model {tokenizer.get('name')!r} is not on this machine: {path} is missing. "
            "Build or fetch the model first (the workflow does so by itself), or give the model file a `tokenizer:` "
            "folder that has a tokenizer.json."
        )
    return path


def weights_path(model: Model, weights: str, root: Path) -> str:
    """What a server loads, absolute: the folder for `weights` "hf", the file for "gguf"; UserError if it is absent.

    Empty for "none": a server that is not ours to start has its own.
    """
    if weights == "none":
        return ""
    path = root / (source_folder(model) if weights == "hf" else gguf_file(model))
    missing = path / "config.json" if weights == "hf" else path
    if not missing.is_file():
        raise UserError(f"model {model['name']!r} is not on this machine: {missing} is missing. {how_to_get(model)}")
    return str(path.absolute())


def gguf_file(model: Model) -> Path:
    """The model's GGUF file, absolute or from the repository's root; UserError when its file names none."""
    if not model.get("gguf"):
        raise UserError(
            f"model {model['name']!r} has no GGUF file: set `gguf:` in config/models/{model['name']}.yaml "
            "(llama.cpp's convert_hf_to_gguf.py makes one of a Hugging Face folder)"
        )
    return hub_folder(model["source"], model["revision"]) / model["gguf"] if model.get("hub") else _path(model["gguf"])


def how_to_get(model: Model) -> str:
    """For people: what to do where the model is not on the machine."""
    if model.get("hub"):
        return f"On a machine that reaches the hub: python scripts/fetch_model.py {model['name']}"
    if model.get("build"):
        return f"Build it: python scripts/build_tiny_model.py --size {model['build']}"
    return f"Put it there, or change the path in config/models/{model['name']}.yaml."


def files_needed(model: Model, weights: str) -> list[str]:
    """Files that a launch waits for: the stamp of a built or fetched model, else the model's own files.

    `weights` is "hf", "gguf" or "none", as the framework says. UserError for a folder of the user's that is not there.
    """
    if weights == "none":
        return []
    made = _stamp(model)
    return [made] if made else [_present(model, gguf_file(model) if weights == "gguf" else _config(model))]


def tokenizer_needed(model: Model) -> list[str]:
    """Files that compiling a workload for `model` waits for."""
    tokenizer = tokenizer_folder(model)
    if tokenizer == source_folder(model) and (made := _stamp(model)):
        return [made]
    if tokenizer.parent == MODELS and "@" in tokenizer.name:
        return [str(tokenizer / FETCHED)]
    return [_present(model, tokenizer / "tokenizer.json")]


def _stamp(model: Model) -> str | None:
    if model.get("hub"):
        return str(source_folder(model) / FETCHED)
    if size := model.get("build"):
        if _path(model["source"]) != built_folder(size):
            raise UserError(
                f"config/models/{model['name']}.yaml: `build: {size}` makes {built_folder(size)}, but source is "
                f"{model['source']!r}; write `source: {built_folder(size)}`"
            )
        return str(built_stamp(size))
    return None


def _config(model: Model) -> Path:
    return source_folder(model) / "config.json"


def _present(model: Model, path: Path) -> str:
    if not path.is_file():
        raise UserError(f"model {model['name']!r} is not on this machine: {path} is missing. {how_to_get(model)}")
    return str(path)


def _path(text: str) -> Path:
    """A path from a model's file, with variables and ~ filled in; UserError for a variable that is not set."""
    path = os.path.expandvars(os.path.expanduser(text))
    if "$" in path:
        raise UserError(f"the path {text!r} holds a variable that is not set here; set it, or write the path out")
    return Path(path)


# -- built ------------------------------------------------------------------


def built_folder(size: str) -> Path:
    """Folder of the random-weight model of `size`, from the repository's root; its GGUF has the suffix `.gguf`."""
    return MODELS / f"random-llama-{size}"


def built_stamp(size: str) -> Path:
    """The stamp of `built_folder`: {"size", "seed", "files": {name: {"sha256", "bytes"}}, ...}."""
    return MODELS / f"random-llama-{size}.json"


def build_model(size: str, root: Path, say: Say = lambda line: None) -> Path:
    """Build the random-weight model of `size` if it is not there; returns its folder. Needs no network but for pip."""
    folder, mark = root / built_folder(size), root / built_stamp(size)
    if size not in tiny_sizes.SIZES:
        raise UserError(f"there is no model of size {size!r} to build; there are: {', '.join(tiny_sizes.SIZES)}")
    if mark.is_file():
        return folder
    interpreter = build_environment("tiny-model", root, say)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(mark.with_suffix(".lock"), lambda: say(f"waiting for another process that builds {folder}")):
        if mark.is_file():
            return folder
        say(f"building {folder}: random weights, seed 0")
        work = folder.with_name(f".{folder.name}.{os.getpid()}")
        file = folder.with_suffix(".gguf")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            _write_tiny(interpreter, size, work / folder.name, work / file.name)
            shutil.rmtree(folder, ignore_errors=True)
            (work / folder.name).rename(folder)
            (work / file.name).replace(file)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        files = [*sorted(folder.iterdir()), file]
        write_json(
            mark,
            {"size": size, "seed": 0, "context_tokens": tiny_sizes.CONTEXT, "files": file_hashes(files, folder.parent)},
        )
        say(f"built {folder} and {file.name}")
    return folder


def _write_tiny(interpreter: Path, size: str, folder: Path, file: Path) -> None:
    # As a file and isolated: the environment of the writer has no servegauge, and must not see the driver's packages.
    writer = Path(__file__).with_name("engines") / "tiny_model.py"
    argv = [str(interpreter), str(writer), "--size", size, "--seed", "0", "--hf", str(folder), "--gguf", str(file)]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UserError(f"building the model failed, exit status {done.returncode}:\n{done.stderr.strip()[-2000:]}")


def file_hashes(files: Iterable[Path], start: Path) -> dict[str, dict[str, Any]]:
    """File name from `start` -> {"sha256", "bytes"}."""
    return {str(file.relative_to(start)): {"sha256": sha256(file), "bytes": file.stat().st_size} for file in files}
