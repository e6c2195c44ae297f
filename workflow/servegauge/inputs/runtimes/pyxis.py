"""Pyxis, Slurm's plugin for enroot: the container belongs to a step of srun."""

from __future__ import annotations

from collections.abc import Sequence

from servegauge.inputs.runtime import Inside, Runtime, mounted, step


class Pyxis(Runtime):
    name = "pyxis"
    about = "srun --container-image (enroot): `container` is a .sqsh file or registry#image"

    def argv(self, argv: Sequence[str], inside: Inside) -> list[str]:
        mounts = ",".join(f"{folder}:{folder}" for folder in mounted(inside.folders))
        where = [f"--container-mounts={mounts}", f"--container-workdir={inside.folders[0]}"]
        named = [f"--container-env={','.join(inside.variables)}"] if inside.variables else []
        return [*step(), f"--container-image={inside.image}", *where, *named, *inside.arguments, *argv]
