"""Podman, without a daemon; as an ordinary user too."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from servegauge.inputs.runtime import Inside, Runtime, mounted


class Podman(Runtime):
    name = "podman"
    about = "Podman: `container` is an image's name with its digest, or a folder with a root file system"
    program = "podman"
    nvidia: tuple[str, ...] = ("--device", "nvidia.com/gpu=all")  # by CDI, which nvidia-ctk writes

    def argv(self, argv: Sequence[str], inside: Inside) -> list[str]:
        amd = ("--device", "/dev/kfd", "--device", "/dev/dri", "--group-add", "keep-groups")
        gpu = {"nvidia": self.nvidia, "amd": amd}.get(inside.gpus or "", ())
        # Files written are the user's own; as root they are anyhow, and the option is refused.
        user = ["--userns=keep-id"] if os.geteuid() else []
        mounts = [word for folder in mounted(inside.folders) for word in ("--volume", f"{folder}:{folder}")]
        named = [word for name in inside.variables for word in ("--env", name)]
        # The image's own entry point is not ours to start; the network is the node's, where only loopback listens.
        image = ["--rootfs", inside.image] if Path(inside.image).is_dir() else ["--entrypoint=", inside.image]
        return [
            *(self.program, "run", "--rm", "--network=host", "--ipc=host", "--log-driver=none", *user, *gpu, *mounts),
            *("--workdir", inside.folders[0], *named, *inside.arguments, *image, *argv),
        ]
