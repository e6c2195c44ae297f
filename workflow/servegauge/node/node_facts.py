"""Facts of a node: CPU, kernel, clocks, network, IOMMU.

Each function reads one fact and returns (value, where it was read); its name is the fact's name. Frequencies
in MHz, speeds in Mbit/s, times in seconds.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from functools import partial

from servegauge.node import virtualization
from servegauge.node.reader import Node, Read, Unreadable, colon_fields, enter, expand_list, fact, short_list

CPU = "/sys/devices/system/cpu"
CLOCKS = "/sys/devices/system/clocksource/clocksource0"


@fact("name of the node")
def hostname(node: Node) -> Read:
    if node.real:
        return socket.gethostname(), "gethostname"
    return node.read("/proc/sys/kernel/hostname"), "/proc/sys/kernel/hostname"


@fact("operating system, as its os-release names it")
def os_name(node: Node) -> Read:
    for name in ("/etc/os-release", "/usr/lib/os-release"):
        text = node.read_or(name)
        found = text and re.search(r'^PRETTY_NAME="?([^"\n]*)', text, re.MULTILINE)
        if found:
            return found[1], name
    raise Unreadable("no os-release with a PRETTY_NAME", "/etc/os-release")


def _text(name: str, node: Node) -> Read:
    return node.read(name), name


def _words(name: str, node: Node) -> Read:
    return node.read(name).split(), name


# Facts that one file holds
for _name, _meaning, _file, _how in (
    ("kernel", "kernel release", "/proc/sys/kernel/osrelease", _text),
    ("kernel_build", "kernel build: version line with configuration words such as PREEMPT", "/proc/sys/kernel/version",
     _text),
    ("kernel_command_line", "kernel command line", "/proc/cmdline", _text),
    ("clock_source", "the kernel's clock source: tsc, kvm-clock, hyperv_clocksource_tsc_page, ...",
     f"{CLOCKS}/current_clocksource", _text),
    ("clock_sources", "clock sources that the kernel could use", f"{CLOCKS}/available_clocksource", _words),
):  # fmt: skip
    enter(_name, _meaning, partial(_how, _file))


@fact("instruction set: x86_64, aarch64, ...")
def architecture(node: Node) -> Read:
    if node.real:
        return os.uname().machine, "uname"
    return node.read("/proc/sys/kernel/arch"), "/proc/sys/kernel/arch"


@fact("C library and its version")
def libc(node: Node) -> Read:
    if not node.real:
        raise Unreadable("the C library is that of this process", "confstr")
    return os.confstr("CS_GNU_LIBC_VERSION"), "confstr"


@fact("seconds since the node was started")
def uptime_s(node: Node) -> Read:
    return float(node.read("/proc/uptime").split()[0]), "/proc/uptime"


@fact("load average over 1, 5 and 15 minutes when the facts were read")
def load_average(node: Node) -> Read:
    return [float(word) for word in node.read("/proc/loadavg").split()[:3]], "/proc/loadavg"


# ---------------------------------------------------------------- CPU


@fact("CPU model, as the kernel names it")
def cpu_model(node: Node) -> Read:
    for block in node.cpuinfo:
        if block.get("model name"):
            return block["model name"], "/proc/cpuinfo"
    raise Unreadable("/proc/cpuinfo has no model name (usual on ARM)", "/proc/cpuinfo")


@fact("CPU vendor, family, model and stepping")
def cpu_family(node: Node) -> Read:
    first = node.cpuinfo[0]
    names = ("vendor_id", "cpu family", "model", "stepping", "CPU implementer", "CPU part")
    return " ".join(first[name] for name in names if name in first) or None, "/proc/cpuinfo"


@fact("microcode revision")
def cpu_microcode(node: Node) -> Read:
    return node.cpuinfo[0].get("microcode"), "/proc/cpuinfo"


@fact("logical CPUs that are online")
def cpu_count(node: Node) -> Read:
    return len(expand_list(node.read(f"{CPU}/online"))), f"{CPU}/online"


@fact("CPUs that this process may use, in the kernel's list notation")
def cpu_allowed(node: Node) -> Read:
    if node.real:
        return short_list(os.sched_getaffinity(0)), "sched_getaffinity"
    return colon_fields(node.read("/proc/self/status"))["Cpus_allowed_list"], "/proc/self/status"


def _siblings(node: Node) -> dict[str, list[int]]:
    """Physical core, named by its sibling list -> its online logical CPUs."""
    found: dict[str, list[int]] = {}
    for cpu in expand_list(node.read(f"{CPU}/online")):
        siblings = node.read(f"{CPU}/cpu{cpu}/topology/thread_siblings_list")
        found.setdefault(siblings, []).append(cpu)
    return found


@fact("physical cores that are online")
def cpu_cores(node: Node) -> Read:
    return len(_siblings(node)), f"{CPU}/cpu*/topology/thread_siblings_list"


@fact("CPU sockets, as the node shows them (a virtual machine shows what it was given)")
def cpu_sockets(node: Node) -> Read:
    packages = {node.read(node.name_of(path)) for path in node.glob(f"{CPU}/cpu[0-9]*/topology/physical_package_id")}
    return len(packages) or None, f"{CPU}/cpu*/topology/physical_package_id"


@fact("simultaneous multithreading in use: true or false")
def cpu_smt(node: Node) -> Read:
    active = node.read_or(f"{CPU}/smt/active")
    if active in ("0", "1"):
        return active == "1", f"{CPU}/smt/active"
    return max(map(len, _siblings(node).values())) > 1, f"{CPU}/cpu*/topology/thread_siblings_list"


def _cpufreq(name: str, node: Node) -> Read:
    source = f"{CPU}/cpu*/cpufreq/{name}"
    found = sorted({node.read(node.name_of(path)) for path in node.glob(f"{CPU}/cpu[0-9]*/cpufreq/{name}")})
    if not found:
        raise Unreadable("the node shows no frequency control (usual in a virtual machine)", source)
    return found[0] if len(found) == 1 else found, source


for _name, _meaning, _file in (
    ("cpu_governor", "frequency governor of the CPUs: one name where all agree, else the list of names",
     "scaling_governor"),
    ("cpu_frequency_driver", "frequency driver of the CPUs: intel_pstate, amd-pstate, acpi-cpufreq, ...",
     "scaling_driver"),
    ("cpu_energy_preference", "energy preference of the CPUs (energy_performance_preference)",
     "energy_performance_preference"),
):  # fmt: skip
    enter(_name, _meaning, partial(_cpufreq, _file))


@fact("highest frequency the CPUs may take, MHz")
def cpu_mhz_max(node: Node) -> Read:
    paths = node.glob(f"{CPU}/cpu[0-9]*/cpufreq/cpuinfo_max_freq")
    if not paths:
        raise Unreadable("the node shows no frequency control (usual in a virtual machine)", f"{CPU}/cpu*/cpufreq")
    return max(node.number(node.name_of(path)) for path in paths) / 1000, f"{CPU}/cpu*/cpufreq/cpuinfo_max_freq"


@fact("frequency of the CPUs when the facts were read: {min, max}, MHz; not of a virtual machine")
def cpu_mhz(node: Node) -> Read:
    # Without the counters APERF and MPERF a guest's kernel writes the same nominal frequency, whatever the CPU does.
    measured = "aperfmperf" in (node.cpuinfo[0].get("flags") or "").split()
    if virtualization.decide(virtualization.evidence(node))[0] == "vm" and not measured:
        raise Unreadable("a virtual machine shows a nominal frequency, which is no clock", "/proc/cpuinfo")
    found = [float(block["cpu MHz"]) for block in node.cpuinfo if "cpu MHz" in block]
    if not found:
        raise Unreadable("/proc/cpuinfo gives no frequency", "/proc/cpuinfo")
    return {"min": min(found), "max": max(found)}, "/proc/cpuinfo"


@fact("turbo or boost allowed: true or false")
def cpu_boost(node: Node) -> Read:
    no_turbo = node.read_or(f"{CPU}/intel_pstate/no_turbo")
    if no_turbo is not None:
        return no_turbo == "0", f"{CPU}/intel_pstate/no_turbo"
    return node.number(f"{CPU}/cpufreq/boost") == 1, f"{CPU}/cpufreq/boost"


@fact("vector and matrix instruction sets of the CPU that engines look for")
def cpu_features(node: Node) -> Read:
    first = node.cpuinfo[0]
    flags = (first.get("flags") or first.get("Features") or "").split()
    wanted = re.compile(r"(avx|fma|f16c|amx|vnni|bf16|sve|asimd|i8mm|sse4_2)")
    return sorted(flag for flag in flags if wanted.search(flag)) or None, "/proc/cpuinfo"


@fact("size of one last-level cache, KiB")
def cpu_cache_kib(node: Node) -> Read:
    found = []
    for index in node.glob(f"{CPU}/cpu0/cache/index*"):
        size = node.read_or(f"{node.name_of(index)}/size") or ""
        if match := re.fullmatch(r"(\d+)([KM])", size):
            found.append(int(match[1]) * (1024 if match[2] == "M" else 1))
    return max(found, default=None), f"{CPU}/cpu0/cache/index*/size"


@fact("CPUs kept away from the scheduler (isolcpus), in the kernel's list notation")
def cpu_isolated(node: Node) -> Read:
    text = node.read(f"{CPU}/isolated")
    if not text:
        raise Unreadable("no CPU is isolated", f"{CPU}/isolated")
    return text, f"{CPU}/isolated"


@fact("CPU vulnerabilities and what the kernel does about each: mitigations cost system calls and exits")
def cpu_mitigations(node: Node) -> Read:
    paths = node.glob(f"{CPU}/vulnerabilities/*")
    return {path.name: node.read_or(node.name_of(path)) for path in paths} or None, f"{CPU}/vulnerabilities"


@fact("share of all CPU time since the start of the node that the hypervisor took away, 0 to 1")
def steal_since_boot(node: Node) -> Read:
    times = cpu_times(node.read("/proc/stat"))["cpu"]
    total = sum(times.values())
    return (times["steal"] / total if total else None), "/proc/stat"


# guest and guest_nice follow in the file; they are counted in user and nice already
STAT_FIELDS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")


def cpu_shares(before: Mapping[str, int], after: Mapping[str, int]) -> tuple[float | None, float | None]:
    """(steal, busy) between two entries of `cpu_times`, 0 to 1; None where no tick passed.

    A counter may fall on a CPU that went offline and came back; such a time has no shares.
    """
    ticks = {kind: count - before[kind] for kind, count in after.items() if kind in before}
    total = sum(ticks.values())
    if total <= 0 or ticks["steal"] < 0:
        return None, None
    return ticks["steal"] / total, 1 - (ticks["idle"] + ticks["iowait"]) / total


def cpu_times(stat: str) -> dict[str, dict[str, int]]:
    """/proc/stat: `cpu` (all) and `cpu0`, ... -> ticks by kind since the start of the node (proc(5))."""
    found = {}
    for line in stat.splitlines():
        name, *words = line.split()
        if name.startswith("cpu"):
            ticks = [int(word) for word in words[: len(STAT_FIELDS)]]
            found[name] = dict(zip(STAT_FIELDS, [*ticks, *[0] * (len(STAT_FIELDS) - len(ticks))], strict=True))
    if "cpu" not in found:
        raise Unreadable("/proc/stat has no line for all CPUs", "/proc/stat")
    return found


# ---------------------------------------------------------------- network and IOMMU


@fact("network interfaces: {name: {state, speed_mbit, mtu, driver}}; speed null where the driver does not tell")
def network_interfaces(node: Node) -> Read:
    found = {}
    for path in node.glob("/sys/class/net/*"):
        name = node.name_of(path)
        speed = node.read_or(f"{name}/speed") or ""
        found[path.name] = {
            "state": node.read_or(f"{name}/operstate"),
            "speed_mbit": int(speed) if speed.isdigit() and int(speed) > 0 else None,  # -1: the link is down
            "mtu": int(node.read_or(f"{name}/mtu") or "0") or None,
            "driver": _link_name(node, f"{name}/device/driver"),
        }
    return found or None, "/sys/class/net"


@fact("InfiniBand and RoCE ports: {device/port: {state, rate, link_layer, firmware}}")
def infiniband(node: Node) -> Read:
    found = {}
    for path in node.glob("/sys/class/infiniband/*/ports/*"):
        device, port = path.parts[-3], path.parts[-1]
        name = node.name_of(path)
        found[f"{device}/{port}"] = {
            "state": node.read_or(f"{name}/state"),
            "rate": node.read_or(f"{name}/rate"),
            "link_layer": node.read_or(f"{name}/link_layer"),
            "firmware": node.read_or(f"/sys/class/infiniband/{device}/fw_ver"),
        }
    if not found:
        raise Unreadable("no InfiniBand device", "/sys/class/infiniband")
    return found, "/sys/class/infiniband"


def _link_name(node: Node, name: str) -> str | None:
    try:
        return os.path.basename(os.readlink(node.path(name)))
    except OSError:
        return None


@fact("IOMMU groups of the node")
def iommu_groups(node: Node) -> Read:
    groups = node.glob("/sys/kernel/iommu_groups/[0-9]*")
    if not groups:
        raise Unreadable("no IOMMU group (off in the firmware or the kernel, or a virtual machine)", "/sys/kernel")
    return len(groups), "/sys/kernel/iommu_groups"


@fact("IOMMU group of each NVIDIA device: {PCI address: group}")
def iommu_gpu_groups(node: Node) -> Read:
    found = {}
    for path in node.glob("/sys/bus/pci/devices/*"):
        name = node.name_of(path)
        if node.read_or(f"{name}/vendor") == "0x10de" and (group := _link_name(node, f"{name}/iommu_group")):
            found[path.name] = int(group)
    if not found:
        raise Unreadable("no NVIDIA device in an IOMMU group", "/sys/bus/pci/devices/*/iommu_group")
    return found, "/sys/bus/pci/devices/*/iommu_group"
