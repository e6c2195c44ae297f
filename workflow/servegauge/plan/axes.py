"""The axes of a study's matrix, and where a study names values of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from servegauge.contract.config_types import Study
from servegauge.contract.spec import canonical_json
from servegauge.contract.yaml_schema import Keys
from servegauge.frameworks.base import OPTIONS

LAYOUT = {"tp": 1, "pp": 1, "dp": 1, "ep": 1, "instances": 1, "share_gpu": False}  # axis -> value without it
SIZES = ("rate", "concurrency", "burst", "capacity")  # how large a load is: a point has one of them
SPEED = "speed"  # of a recording: a rate in other words
LAUNCH_AXES = ("framework", "model", *LAYOUT, *OPTIONS, "platform")  # what a server is
CELL_AXES = ("prompts", *SIZES, SPEED, "cache", "sampling")  # what it is put under
FOLDERS = {"model": "models", "platform": "platforms", "prompts": "prompts"}  # axes of names of files under config/
NOT_AXES = ("repeat", "include", "exclude")


def matrices(study: Study) -> list[Mapping[str, Any]]:
    """The matrix, and each entry of include."""
    return [study["matrix"], *study["matrix"].get("include", ())]


def asked(study: Study, axis: str) -> list[Any]:
    """Values of `axis` in the matrix and in include, each once, in order."""
    values = (value for matrix in matrices(study) for value in matrix.get(axis, ()))
    return list({canonical_json(value): value for value in values}.values())


def places(study: Study) -> Iterator[tuple[Keys, Mapping[str, Any]]]:
    """Every place of a study that names values of axes: the matrix, and each entry of include and exclude."""
    yield ["matrix"], study["matrix"]
    for key in ("include", "exclude"):
        for position, entry in enumerate(study["matrix"].get(key, ())):
            yield ["matrix", key, position], entry


def at_speed(speed: float, recorded_rps: float) -> float:
    """Requests a second of a recording that is replayed so many times as fast."""
    return round(speed * recorded_rps, 6)
