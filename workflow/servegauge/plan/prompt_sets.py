"""Prompt sets: the files in config/prompts/, and which keys do something for which kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

from servegauge.base.errors import UserError
from servegauge.contract.config_types import Prompts
from servegauge.contract.yaml_schema import Mistake, refuse
from servegauge.inputs.config_files import read_named, refuse_secrets
from servegauge.workloads import recordings

_LENGTHS, _FILE = ("input_tokens", "output_tokens"), ("path", "sha256")
_COUNTS = tuple(f"filters.{end}_{what}_tokens" for end in ("min", "max") for what in ("input", "output"))
_READ = (*_FILE, *_COUNTS, "filters.max_total_tokens")
_REPLAYED = (*_READ, "output_tokens", "where", "cut")
_KEYS = {  # of a prompt set, the keys that do something for its kind
    "synthetic": (*_LENGTHS, "images"),
    "shared_prefix": (*_LENGTHS, "images", "prefix"),
    "sessions": (*_LENGTHS, "turns", "pause_s", "prefix"),
    "sharegpt": (*_READ, "output_tokens", "filters.min_turns"),
    "jsonl": (*_READ, "output_tokens", "fields"),
    "conversations": (*_READ, "pause_s", "filters.min_requests"),
}
_ANY_KIND = ("name", "description", "kind", "how_to_get", "licence")


def load_prompts(root: Path, name: str) -> Prompts:
    """The prompt set `name`: its file's keys as they stand there, and `name`."""
    read, path, text = read_named(root, "prompts", "prompts", name)
    prompts = cast(Prompts, read)
    refuse_secrets(path, text)
    refuse(_idle_keys(prompts), path, text)
    for key in ("input_tokens", "output_tokens", "turns", "pause_s"):
        length = prompts.get(key)
        least = 0 if key == "pause_s" else 1
        if isinstance(length, dict) and length.get("min", least) > length.get("max", length.get("min", least)):
            raise UserError(f"{path}: {key}: min {length['min']} is more than max {length['max']}")
        if isinstance(length, dict) and "weights" in length and len(length["weights"]) != len(length.get("values", [])):
            raise UserError(f"{path}: {key}: {len(length['weights'])} weights for {len(length['values'])} values")
    return prompts


def _kind_keys() -> dict[str, tuple[str, ...]]:
    """Kind of prompt set -> the keys that do something for it."""
    return _KEYS | {name: (*_REPLAYED, *one.keys) for name, one in recordings.formats().items()}


def _idle_keys(prompts: Prompts) -> Iterator[Mistake]:
    """Keys that another kind of prompt set has: here they would be taken and do nothing."""
    kind, filters = prompts["kind"], prompts.get("filters") or {}
    own = _KEYS.get(kind) or _kind_keys()[kind]
    known = (*own, *_ANY_KIND)
    for keys in ([key] for key in prompts if key != "filters"), (["filters", key] for key in filters):
        for where in keys:
            if ".".join(where) not in known:
                others = ", ".join(name for name, has in _kind_keys().items() if ".".join(where) in has)
                yield list(where), f"does nothing for {kind}; it is for {others}. {kind} has: {', '.join(own)}"
