"""A framework in a container of the site: the command line that runs it there; `runtimes/` has a file for each runtime.

The driver itself never runs in a container: it starts the server's command through the runtime, as its own child, so
that signals and the log are the same as without one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from servegauge.contract.config_types import Platform
from servegauge.inputs.runtime import Inside
from servegauge.inputs.runtimes import DEFAULT, runtime


def contained(
    argv: Sequence[str],
    framework: str,
    platform: Platform,
    work: Path,
    environment: Sequence[str] = (),
    cache: Path | None = None,
) -> list[str]:
    """`argv` as `framework` runs it on `platform`: unchanged without a container, else through its runtime.

    `work` is the server's private folder and its working directory; the folder of the repository is visible too, and
    `cache`, where compiled code is kept.
    `environment`: names of variables that the server must see; values never stand in the command line.
    """
    how = (platform.get("frameworks") or {}).get(framework) or {}
    if not how.get("container"):
        return list(argv)
    inside = Inside(
        image=os.path.expandvars(os.path.expanduser(how["container"])),
        folders=list(dict.fromkeys(map(str, (work, Path.cwd(), *([cache] if cache else ()))))),
        variables=list(environment),
        gpus=vendor(platform) if platform.get("gpus_per_node") and how.get("device") != "cpu" else None,
        arguments=[os.path.expandvars(word) for word in how.get("container_args") or ()],
    )
    return runtime(how.get("runtime", DEFAULT)).argv(argv, inside)


def carried(framework: str, platform: Platform, variables: Mapping[str, str]) -> dict[str, str]:
    """What the process that starts `framework`'s command needs so that a server in a container sees `variables`."""
    how = (platform.get("frameworks") or {}).get(framework) or {}
    return runtime(how.get("runtime", DEFAULT)).environment(variables) if how.get("container") else {}


def vendor(platform: Platform) -> Literal["nvidia", "amd"]:
    """Who made the platform's GPUs."""
    return "amd" if (platform.get("gpu") or {}).get("vendor") == "amd" else "nvidia"
