"""The environment that a launch gets: the user's, without what Snakemake changed, and past proxies to itself.

Snakemake sets the thread variables of numerical libraries for each rule, to 1 for a rule of one thread. A server that
inherited them would be another one than the same server started by hand.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path

THREADS = (
    "OMP_NUM_THREADS", "GOTO_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)  # fmt: skip
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
KEPT = "SERVEGAUGE_USER_ENVIRONMENT"
OF_JOB = "SERVEGAUGE_JOB_PYTHONPATH"  # what a job's modules and `setup:` made of PYTHONPATH, for its servers


def remember(environment: MutableMapping[str, str]) -> None:
    """Note, in the workflow's own process, what the user has set, for `restore` in its rules.

    PYTHONPATH loses the folders that do not hold this package: what `module load` adds shadows pinned packages.
    """
    environment.setdefault(KEPT, json.dumps({name: environment[name] for name in THREADS if name in environment}))
    if ours := own_path(environment):
        environment["PYTHONPATH"] = ours
    else:
        environment.pop("PYTHONPATH", None)


def own_path(environment: Mapping[str, str]) -> str:
    """PYTHONPATH without what would shadow packages of an environment that has its own: folders of this package."""
    paths = environment.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(path for path in paths if (Path(path) / "servegauge").is_dir())


def around_setup(lines: Sequence[str]) -> list[str]:
    """`lines` of a job's shell, whose PYTHONPATH its servers get by `take_setup`: our process starts without it."""
    after = f'export {OF_JOB}="${{PYTHONPATH-}}" PYTHONPATH="$servegauge_path"'
    return ['servegauge_path="${PYTHONPATH-}"', *lines, after]


def take_setup(environment: MutableMapping[str, str]) -> None:
    """Hand on the PYTHONPATH of a job's setup, if it had one."""
    if (path := environment.pop(OF_JOB, None)) is not None:
        environment["PYTHONPATH"] = path


def restore(environment: MutableMapping[str, str]) -> None:
    """Put back what `remember` noted; nothing where no workflow started this process."""
    if (kept := environment.pop(KEPT, None)) is None:
        return
    for name in THREADS:
        environment.pop(name, None)
    environment.update(json.loads(kept))


def past_proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """What to set beside `environment` so that requests of servers to their own machine go past a site's proxy.

    Some ask themselves over HTTP or gRPC before they are ready, and a proxy cannot reach their loopback.
    """
    proxies = [value for name, value in environment.items() if name.lower() in PROXIES]
    kept = (environment.get("no_proxy") or environment.get("NO_PROXY") or "").strip()
    if kept == "*" or not any(proxies):
        return {}
    value = ",".join(filter(None, (kept, "localhost", "127.0.0.1", "::1")))
    return {"no_proxy": value, "NO_PROXY": value}
