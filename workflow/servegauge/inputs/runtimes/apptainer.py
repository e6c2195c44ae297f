"""Apptainer (and Singularity under its name)."""

from __future__ import annotations

from collections.abc import Sequence

from servegauge.inputs.runtime import Inside, Runtime


class Apptainer(Runtime):
    name = "apptainer"
    about = "Apptainer: `container` is a .sif file, a folder or docker://..."

    def argv(self, argv: Sequence[str], inside: Inside) -> list[str]:
        gpu = {"nvidia": ["--nv"], "amd": ["--rocm"]}.get(inside.gpus or "", [])
        bind = [word for folder in inside.folders for word in ("--bind", folder)]
        where = ["--pwd", inside.folders[0]]
        return ["apptainer", "exec", *gpu, *bind, *where, *inside.arguments, inside.image, *argv]
