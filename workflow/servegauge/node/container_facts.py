"""Whether this process runs in a container: a file that an image carries is not enough evidence.

`/.dockerenv` and `/.singularity.d` are in the image: a virtual machine that was made from one carries them, too, and
systemd-detect-virt trusts them. So a mark counts only where something that a container cannot do without agrees: a
PID namespace of its own, a root that is put together from layers, or the runtime's own name in the environment, the
cgroup or the mounts. Apptainer and enroot share the PID namespace of the node; their root identifies them.
"""

from __future__ import annotations

import os
import re
from typing import Any

from servegauge.node.reader import Node, Read, Unreadable, fact
from servegauge.node.virtualization import detect_virt

INITIAL_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO, linux/proc_ns.h
MARKS = {"/.singularity.d": "apptainer", "/run/.containerenv": "podman", "/.dockerenv": "docker"}
LAYERED = (
    "overlay",
    "aufs",
    "fuse.fuse-overlayfs",
    "fuse-overlayfs",
    "fuse.squashfuse",
    "squashfs",
    "fuse.squashfuse_ll",
)
# Names of runtimes in the cgroup's path and in the options of the root's mount -> the runtime
WORDS = tuple(
    (re.compile(pattern), runtime)
    for pattern, runtime in (
        (r"libpod|containers/storage", "podman"),
        (r"/docker/[0-9a-f]{12}|docker-[0-9a-f]{12}|/docker/overlay2", "docker"),  # not /system.slice/docker.service
        (r"kubepods|cri-containerd|crio-", "kubernetes"),
        (r"io\.containerd", "containerd"),
        (r"/lxc/|lxc\.payload", "lxc"),
        (r"apptainer|singularity", "apptainer"),
        (r"enroot", "enroot"),
        (r"charliecloud|/var/tmp/[^/]+\.ch/", "charliecloud"),
    )
)
# Variables that a runtime sets for the processes inside -> the runtime
VARIABLES = (
    ("APPTAINER_CONTAINER", "apptainer"), ("SINGULARITY_CONTAINER", "apptainer"), ("CH_RUNNING", "charliecloud"),
    ("KUBERNETES_SERVICE_HOST", "kubernetes"),
)  # fmt: skip


def evidence(node: Node) -> dict[str, Any]:
    """What each source reports; None where it reports nothing.

    `marks`: files that images or runtimes leave. `detect_virt`: systemd-detect-virt's answer, which trusts the marks.
    `own_pid_namespace`: this process's is not the first one. `root`: type and device of the root file system.
    `layered_root`: it is put together from an image's layers. `words`: the runtime that the cgroup's path, the root's
    mount or the environment names.
    """
    try:
        own: bool | None = os.readlink(node.path("/proc/self/ns/pid")) != INITIAL_PID_NAMESPACE
    except OSError:
        own = None
    kind, device, options = _root(node)
    text = f"{node.read_or('/proc/self/cgroup', '')} {options if kind in LAYERED else ''}".lower()
    words = next((runtime for pattern, runtime in WORDS if pattern.search(text)), None)
    if words is None and node.real:
        words = next((runtime for name, runtime in VARIABLES if os.environ.get(name)), None)
    return {
        "marks": [name for name in MARKS if node.path(name).exists()],
        "detect_virt": detect_virt(node, "--container")[0],
        "own_pid_namespace": own,
        "root": f"{kind} on {device}" if kind else None,
        "layered_root": kind in LAYERED if kind else None,
        "words": words,
    }


def _root(node: Node) -> tuple[str | None, str | None, str]:
    """(type, device, options) of the mount of `/`; the last one covers the others."""
    found: tuple[str | None, str | None, str] = (None, None, "")
    for line in (node.read_or("/proc/self/mounts") or "").splitlines():
        parts = line.split()
        if len(parts) >= 4 and parts[1] == "/" and parts[2] != "rootfs":
            found = (parts[2], parts[0], parts[3])
    return found


def decide(found: dict[str, Any]) -> tuple[str | None, list[str]]:
    """(runtime | `none` | None where it is unknown, the grounds as texts), from `evidence`."""
    agrees = [
        words for words, holds in (
            ("a PID namespace of its own", found["own_pid_namespace"]),
            (f"the root is {found['root']}", found["layered_root"]),
            (f"the cgroup, the root's mount or the environment name {found['words']}", found["words"]),
        ) if holds
    ]  # fmt: skip
    marks = [(f"{name} is there", MARKS[name]) for name in found["marks"]]
    if found["detect_virt"] not in (None, "none"):
        marks.insert(0, (f"systemd-detect-virt says {found['detect_virt']}", found["detect_virt"]))
    grounds = [*(words for words, _ in marks), *agrees]
    against = []
    if found["own_pid_namespace"] is False:
        against.append("the PID namespace is the first one")
    if found["layered_root"] is False:
        against.append(f"the root is {found['root']}")
    if marks and agrees:
        return found["words"] or marks[0][1], grounds
    if found["words"] or len(agrees) == 2:
        return found["words"] or "container", grounds
    if marks and len(against) == 2:  # left over from the image that this system was made of
        return "none", [*against, *grounds]
    if marks:
        return None, [*grounds, *against]
    if against or found["detect_virt"] == "none":
        return "none", [*against, *(["systemd-detect-virt says none"] if found["detect_virt"] == "none" else [])]
    return None, grounds


@fact("container that this process runs in: docker, podman, apptainer, ...; none where there is none")
def container(node: Node) -> Read:
    decided, grounds = decide(evidence(node))
    if decided is None:
        if grounds:
            raise Unreadable(f"{grounds[0]}, and nothing else tells", "; ".join(grounds))
        raise Unreadable("no source could be read", "systemd-detect-virt --container, /proc/self")
    return decided, "; ".join(grounds)


@fact("what each source says of a container: marks, systemd-detect-virt, PID namespace, root file system, cgroup")
def container_evidence(node: Node) -> Read:
    found = evidence(node)
    if not any(found.values()) and found["own_pid_namespace"] is None and found["layered_root"] is None:
        raise Unreadable("no source says anything", "/proc/self")
    return found, "/proc/self/ns/pid, /proc/self/mounts, /proc/self/cgroup, systemd-detect-virt, marks"
