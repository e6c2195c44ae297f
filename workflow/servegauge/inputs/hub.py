"""Fetch models from the hub: a pinned revision, every file hashed, on the login node.

A measured job never fetches: it runs with the hub switched off. Nothing that is fetched is run: no code of a model's is
even downloaded. `HF_TOKEN`, `HF_ENDPOINT` and the other variables of the hub's client work as everywhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError

from servegauge.base.errors import UserError
from servegauge.base.files import write_json
from servegauge.inputs import config_files
from servegauge.inputs.environments import locked
from servegauge.inputs.models import FETCHED, MODELS, file_hashes, hub_folder, source_folder, tokenizer_folder

Say = Callable[[str], None]

# What is fetched of a hub's repository beside a GGUF file that the model names. Weights in other formats (.bin, .pth,
# ONNX) hold the same numbers again; code (.py) is never fetched.
WANTED = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.tiktoken", "LICENSE*", "README.md")
UNWANTED = ("original/*", "consolidated*", "onnx/*", "openvino/*", "*.pth", "*.bin")


def fetch_named(name: str, root: Path, say: Say = lambda line: None) -> Path:
    """Fetch the model `name` of config/models/, and its tokenizer where that is another repository; returns its folder.

    UserError for a model that is not a hub's.
    """
    model = config_files.load_model(root, name)
    folders = [folder for folder in (source_folder(model), tokenizer_folder(model)) if _is_hub(folder)]
    if not folders:
        raise UserError(f"config/models/{name}.yaml names no hub repository (`hub: true`); there is nothing to fetch")
    for folder in dict.fromkeys(folders):
        fetch_folder(folder.name, root, say)
    return root / folders[0]


def fetch_folder(folder: str, root: Path, say: Say = lambda line: None) -> Path:
    """Fetch what is to be in `.cache/models/<folder>`, with the GGUF files that our models name in it."""
    repository, at, revision = folder.rpartition("@")
    if not at or len(revision) != 40:
        raise UserError(f"{folder!r} is not <owner>--<name>@<revision of 40 hex digits>")
    every = [config_files.load_model(root, name) for name in config_files.names(root, "models")]
    extra = [model["gguf"] for model in every if model.get("gguf") and source_folder(model).name == folder]
    return fetch_model(repository.replace("--", "/", 1), revision, sorted(set(extra)), root, say)


def _is_hub(folder: Path) -> bool:
    return folder.parent == MODELS and "@" in folder.name


def fetch_model(repository: str, revision: str, extra: Iterable[str], root: Path, say: Say = lambda line: None) -> Path:
    """Fetch `repository` at commit `revision` from the hub into `hub_folder`, if it is not there; returns the folder.

    `extra` are names of files wanted beside WANTED, such as a GGUF file. Every file's SHA-256 goes into the stamp and
    is held against the hub's own where the hub says one. A broken transfer goes on where it was.
    """
    folder = root / hub_folder(repository, revision)
    if _fetched(folder, extra):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(
        folder.with_name(f"{folder.name}.lock"), lambda: say(f"waiting for another process that fetches {repository}")
    ):
        if _fetched(folder, extra):
            return folder
        started = time.monotonic()
        wanted = [*WANTED, *extra]
        try:
            info = HfApi().model_info(repository, revision=revision, files_metadata=True)
            said = {entry.rfilename: entry for entry in info.siblings or []}
            say(f"fetching {repository} at {revision[:12]} into {folder}")
            snapshot_download(
                repository, revision=revision, local_dir=folder, allow_patterns=wanted, ignore_patterns=list(UNWANTED)
            )
        except (HTTPError, LocalEntryNotFoundError, OSError) as error:
            raise UserError(_fetch_error(repository, revision, error)) from error
        files = sorted(
            file for file in folder.rglob("*") if file.is_file() and ".cache" not in file.relative_to(folder).parts
        )
        files = [file for file in files if file.name != FETCHED]
        say(f"hashing {len(files)} files")
        hashes = file_hashes(files, folder)
        _verify(repository, hashes, said, extra)
        write_json(folder / FETCHED, {"repository": repository, "revision": revision, "files": hashes})
        size = sum(entry["bytes"] for entry in hashes.values())
        say(f"fetched {len(files)} files, {size / 1e9:.2f} GB, in {time.monotonic() - started:.0f} s")
    return folder


def _fetched(folder: Path, extra: Iterable[str]) -> bool:
    return (folder / FETCHED).is_file() and all((folder / name).is_file() for name in extra)


def _verify(repository: str, hashes: Mapping[str, Any], said: Mapping[str, Any], extra: Iterable[str]) -> None:
    """UserError when a file is not what the hub says it is, or a file that the model names is not there."""
    for name, entry in hashes.items():
        expected = getattr(getattr(said.get(name), "lfs", None), "sha256", None)
        if expected and expected != entry["sha256"]:
            raise UserError(
                f"{name} of {repository} has SHA-256 {entry['sha256']}, the hub says {expected}. "
                "Delete the file and fetch again."
            )
    absent = [name for name in extra if name not in hashes]
    if absent:
        have = ", ".join(sorted(name for name in said if name.endswith(".gguf"))) or "no .gguf"
        raise UserError(f"{repository} has no file {', '.join(absent)}; it has: {have}")


def _fetch_error(repository: str, revision: str, error: Exception) -> str:
    what = type(error).__name__
    hints = {
        "GatedRepoError": "Its owner asks you to accept terms: do so on the hub's page, then set HF_TOKEN.",
        "RepositoryNotFoundError": "Check `source:`; for a private repository set HF_TOKEN.",
        "RevisionNotFoundError": "Check `revision:`; it is a commit, 40 hex digits, on the hub's page of the files.",
    }
    hint = hints.get(what, "If this machine does not reach the hub, fetch on one that does and copy the folder here.")
    first = (str(error).strip().splitlines() or ["no reason given"])[0].rstrip(".")
    return f"could not fetch {repository} at {revision}: {what}: {first}. {hint}"
