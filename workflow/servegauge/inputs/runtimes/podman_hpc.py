"""podman-hpc (NERSC): Podman with images squashed for parallel file systems."""

from __future__ import annotations

from servegauge.inputs.runtimes import podman


class PodmanHpc(podman.Podman):
    name = "podman-hpc"
    about = "podman-hpc: `container` is an image that `podman-hpc migrate` made"
    program = "podman-hpc"
    nvidia = ("--gpu",)
