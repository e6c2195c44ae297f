"""Charliecloud: an image is a folder; nothing but user namespaces is needed."""

from __future__ import annotations

from collections.abc import Sequence

from servegauge.inputs.runtime import Inside, Runtime, mounted


class Charliecloud(Runtime):
    name = "charliecloud"
    about = "ch-run: `container` is an image's folder, in which the mounted folders exist (or give --write)"

    def argv(self, argv: Sequence[str], inside: Inside) -> list[str]:
        # /dev of the node is seen in any case; `ch-fromhost --nvidia` put the driver's libraries into the image.
        bind = [word for folder in mounted(inside.folders) for word in ("--bind", f"{folder}:{folder}")]
        return ["ch-run", *bind, "--cd", inside.folders[0], *inside.arguments, inside.image, "--", *argv]
