"""The container engine of CSCS' Alps: srun with an environment definition file, which names image and mounts."""

from __future__ import annotations

from collections.abc import Sequence

from servegauge.inputs.runtime import Inside, Runtime, step


class EnvironmentDefinition(Runtime):
    name = "edf"
    about = "srun --environment (CSCS): `container` is an EDF, whose mounts hold repository and scratch"

    def argv(self, argv: Sequence[str], inside: Inside) -> list[str]:
        return [*step(), f"--environment={inside.image}", *inside.arguments, *argv]
