"""Facts of a node's memory, and of the limits that this process runs under: NUMA, huge pages, cgroups, ulimits.

Sizes in MiB (2^20 bytes) where the name ends in `_mib`, in KiB where it ends in `_kib`.
"""

from __future__ import annotations

import re
import resource
import shutil
from functools import partial

from servegauge.node.reader import Node, Read, Unreadable, enter, fact


@fact("NUMA nodes")
def numa_nodes(node: Node) -> Read:
    return len(node.glob("/sys/devices/system/node/node[0-9]*")) or None, "/sys/devices/system/node"


@fact("CPUs of each NUMA node: {node: list}")
def numa_cpus(node: Node) -> Read:
    paths = node.glob("/sys/devices/system/node/node[0-9]*")
    found = {path.name[4:]: node.read_or(f"{node.name_of(path)}/cpulist", "") for path in paths}
    return found or None, "/sys/devices/system/node/node*/cpulist"


@fact("distances between NUMA nodes: one list per node")
def numa_distances(node: Node) -> Read:
    paths = node.glob("/sys/devices/system/node/node[0-9]*")
    found = [[int(word) for word in node.read(f"{node.name_of(path)}/distance").split()] for path in paths]
    return found or None, "/sys/devices/system/node/node*/distance"


def _number(name: str, node: Node) -> Read:
    return node.number(name), name


enter(
    "numa_balancing", "automatic NUMA balancing: 0 off, 1 on, 2 for tiered memory",
    partial(_number, "/proc/sys/kernel/numa_balancing"),
)  # fmt: skip


def _meminfo(name: str, unit: int, node: Node) -> Read:
    if name not in node.meminfo:
        raise Unreadable(f"/proc/meminfo has no {name}", "/proc/meminfo")
    return node.meminfo[name] // unit, f"/proc/meminfo {name}"


for _name, _meaning, _field, _unit in (
    ("memory_mib", "memory of the node, MiB", "MemTotal", 1024),
    ("memory_available_mib", "memory available when the facts were read, MiB", "MemAvailable", 1024),
    ("swap_mib", "swap space, MiB", "SwapTotal", 1024),
    ("huge_pages", "huge pages reserved", "HugePages_Total", 1),
    ("huge_page_kib", "size of a huge page, KiB", "Hugepagesize", 1),
):
    enter(_name, _meaning, partial(_meminfo, _field, _unit))


@fact("transparent huge pages: always, madvise or never")
def transparent_huge_pages(node: Node) -> Read:
    name = "/sys/kernel/mm/transparent_hugepage/enabled"
    chosen = re.search(r"\[(\w+)\]", node.read(name))
    return chosen and chosen[1], name


@fact("size of /dev/shm, MiB (NCCL and tensor parallel workers use it)")
def shared_memory_mib(node: Node) -> Read:
    if not node.real:
        raise Unreadable("statvfs answers for this machine only", "/dev/shm")
    return shutil.disk_usage("/dev/shm").total // 2**20, "statvfs /dev/shm"


@fact("file system of the workflow's folder: {type, mount, free_mib}; a network file system makes saving slower")
def file_system(node: Node) -> Read:
    found = ("", "")
    if not node.real:
        raise Unreadable("mounts are those of this process", "/proc/self/mounts")
    place = str(node.folder.resolve())
    for line in node.read("/proc/self/mounts").splitlines():
        _, mount, kind, *_ = line.split()
        mount = mount.replace("\\040", " ")
        # the last mount wins: it lies over the earlier ones
        if (place + "/").startswith(mount.rstrip("/") + "/") and len(mount) >= len(found[0]):
            found = (mount, kind)
    free = shutil.disk_usage(place).free // 2**20
    return {"type": found[1], "mount": found[0], "free_mib": free}, "/proc/self/mounts, statvfs"


def _limit(which: int, unit: int, node: Node) -> Read:
    if not node.real:
        raise Unreadable("limits are those of this process", "getrlimit")
    soft = resource.getrlimit(which)[0]
    if soft == resource.RLIM_INFINITY:
        raise Unreadable("no limit is set", "getrlimit")
    return soft // unit, "getrlimit"


enter(
    "open_files_limit", "most open files of a process (soft limit)", partial(_limit, resource.RLIMIT_NOFILE, 1)
)  # fmt: skip
enter(
    "locked_memory_kib", "most locked memory of a process, KiB (pinned memory and InfiniBand need it)",
    partial(_limit, resource.RLIMIT_MEMLOCK, 1024),
)  # fmt: skip


# ---------------------------------------------------------------- cgroup limits


def _cgroups(node: Node) -> dict[str, str]:
    """Controller -> this process's folder, looked for in both hierarchies; v2's is under the name ``."""
    found = {}
    for line in node.read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            found[name] = path
    return found


def _cgroup_files(node: Node, name: str, controller: str, v1: str) -> list[str]:
    """Files that limit this process, its own group first, then each parent: a limit above binds as well.

    In a container the path in /proc/self/cgroup may be the host's and not exist below the mount; the mount's own root
    is then the group, and it is always the last one looked at.
    """
    groups = _cgroups(node)
    hierarchies = [("/sys/fs/cgroup", groups.get(""), name), ("/sys/fs/cgroup/unified", groups.get(""), name)]
    mounts = [f"/sys/fs/cgroup/{controller}", f"/sys/fs/cgroup/{controller},{controller}acct"]
    hierarchies += [(mount, groups.get(controller), v1) for mount in mounts]
    files = []
    for mount, path, file in hierarchies:
        if path is None:
            continue
        parts = [part for part in path.split("/") if part and part != ".."]
        for depth in range(len(parts), -1, -1):
            files.append("/".join([mount, *parts[:depth], file]))
    return [name for name in files if node.path(name).is_file()]


@fact("cgroup version: 1, 2, or hybrid")
def cgroup_version(node: Node) -> Read:
    if node.path("/sys/fs/cgroup/cgroup.controllers").is_file():
        return "2", "/sys/fs/cgroup/cgroup.controllers"
    unified = node.path("/sys/fs/cgroup/unified").is_dir()
    if any(name and not name.startswith("name=") for name in _cgroups(node)):
        return "hybrid" if unified else "1", "/proc/self/cgroup"
    raise Unreadable("no cgroup hierarchy is mounted", "/sys/fs/cgroup")


@fact("CPUs' worth of time that the cgroup allows")
def cgroup_cpus(node: Node) -> Read:
    limits = []
    for name in _cgroup_files(node, "cpu.max", "cpu", "cpu.cfs_quota_us"):
        if name.endswith("cpu.max"):
            quota, period = node.read(name).split()
        else:
            quota = node.read(name)
            period = node.read_or(name.replace("quota", "period")) or "100000"
        if quota not in ("max", "-1"):
            limits.append((int(quota) / int(period), name))
    if not limits:
        raise Unreadable("no limit is set", "cpu.max, cpu.cfs_quota_us")
    return min(limits)


@fact("memory that the cgroup allows, MiB")
def cgroup_memory_mib(node: Node) -> Read:
    limits = []
    for name in _cgroup_files(node, "memory.max", "memory", "memory.limit_in_bytes"):
        text = node.read(name)
        if text.isdigit() and int(text) < 2**60:  # v1 writes a huge number for no limit
            limits.append((int(text) // 2**20, name))
    if not limits:
        raise Unreadable("no limit is set", "memory.max, memory.limit_in_bytes")
    return min(limits)


@fact("CPUs that the cgroup allows, in the kernel's list notation")
def cgroup_cpuset(node: Node) -> Read:
    for file, v1 in (("cpuset.cpus.effective", "cpuset.effective_cpus"), ("cpuset.cpus", "cpuset.cpus")):
        for name in _cgroup_files(node, file, "cpuset", v1):
            if text := node.read_or(name):
                return text, name
    raise Unreadable("no cpuset is set", "cpuset.cpus.effective")
