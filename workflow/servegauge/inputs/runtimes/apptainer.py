"""Apptainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from servegauge.inputs.runtime import Inside, Runtime, mounted

COMPOSED = ("PATH", "LD_LIBRARY_PATH")  # made of the image's and the driver's folders


class Apptainer(Runtime):
    name = "apptainer"
    about = "Apptainer: `container` is a .sif file, a folder or docker://..."
    program = "apptainer"
    prefix = "APPTAINERENV_"

    def argv(self, argv: Sequence[str], inside: Inside) -> list[str]:
        gpu = {"nvidia": ["--nv"], "amd": ["--rocm"]}.get(inside.gpus or "", [])
        bind = [word for folder in mounted(inside.folders) for word in ("--bind", folder)]
        where = ["--pwd", inside.folders[0]]
        return [self.program, "exec", *gpu, *bind, *where, *inside.arguments, inside.image, *argv]

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        # Under --cleanenv, and where the image sets the same, only what is named so is seen inside.
        return {f"{self.prefix}{name}": text for name, text in variables.items() if name not in COMPOSED}
