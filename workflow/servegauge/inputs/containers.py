"""A framework in a container of the site: the command line that runs it there, for Apptainer and for Pyxis (enroot).

The driver itself never runs in a container: it starts the server's command through the runtime, as its own child, so
that signals and the log are the same as without one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def contained(
    argv: Sequence[str], framework: str, platform: Mapping[str, Any], work: Path, environment: Sequence[str] = ()
) -> list[str]:
    """`argv` as `framework` runs it on `platform`: unchanged without a container, else through its runtime.

    `work` is the server's private folder and its working directory; the folder of the repository is visible too.
    `environment`: names of variables that the server must see; values never stand in the command line.
    """
    how = (platform.get("frameworks") or {}).get(framework) or {}
    image = how.get("container")
    if not image:
        return list(argv)
    seen = list(dict.fromkeys([str(work), str(Path.cwd())]))
    extra = list(how.get("container_args") or ())
    if how.get("runtime", "apptainer") == "pyxis":
        mounts = ",".join(f"{path}:{path}" for path in seen)
        named = [f"--container-env={','.join(environment)}"] if environment else []
        # A step of its own inside the job, beside the one that we are in, on this node only.
        node = [f"--nodelist={os.environ['SLURMD_NODENAME']}"] if "SLURMD_NODENAME" in os.environ else []
        step = ["srun", "--overlap", "--nodes=1", "--ntasks=1", *node, "--cpu-bind=none", "--kill-on-bad-exit=1"]
        where = [f"--container-image={image}", f"--container-mounts={mounts}", f"--container-workdir={work}"]
        return [*step, *where, *named, *extra, *argv]
    gpu = ["--nv"] if platform.get("gpus_per_node") and how.get("device") != "cpu" else []
    bind = [word for path in seen for word in ("--bind", path)]
    return ["apptainer", "exec", *gpu, *bind, "--pwd", str(work), *extra, image, *argv]
