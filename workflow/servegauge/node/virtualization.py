"""Whether this is a virtual machine: the decision, and each piece of evidence for it."""

from __future__ import annotations

import re
import sys
from typing import Any

from servegauge.node import cpuid
from servegauge.node.reader import Node, Read, Unreadable, fact

DMI = "/sys/class/dmi/id"
# Words in the DMI fields of hypervisors and clouds (systemd's src/basic/virt.c and the vendors' own documents)
DMI_HYPERVISORS = {
    "KVM": "kvm",
    "QEMU": "qemu",
    "OpenStack": "kvm",
    "VMware": "vmware",
    "VirtualBox": "oracle",
    "Xen": "xen",
    "Bochs": "bochs",
    "Parallels": "parallels",
    "Virtual Machine": "microsoft",  # Hyper-V's product name; Microsoft alone is also its laptops
    "AHV": "kvm",  # Nutanix' product name; Nutanix alone is also its servers
    "KubeVirt": "kvm",
    "Apple Virtualization": "apple",
}
# Words that stand on a cloud's virtual machines and on its metal alike: a name for what another source found
DMI_CLOUDS = {"Google Compute Engine": "google", "Amazon EC2": "amazon"}

# The kernel's clock sources that only a guest of this hypervisor has
CLOCKS = {
    "kvm-clock": "kvm",
    "hyperv_clocksource_tsc_page": "microsoft",
    "hyperv_clocksource_msr": "microsoft",
    "hyperv_clocksource": "microsoft",
    "xen": "xen",
    "vmware-clock": "vmware",
}
UNDECIDED = "neither the CPU's flags nor systemd-detect-virt nor DMI tell whether there is one"
CLOCK_SOURCES = "/sys/devices/system/clocksource/clocksource0/available_clocksource"


def evidence(node: Node) -> dict[str, Any]:
    """What each source reports about virtualization; None where it reports nothing.

    `cpu_flag`: the hypervisor bit of CPUID leaf 1, which a hypervisor sets (and may hide). `systemd_detect_virt`: its
    answer for the machine, containers left out. `cpuid`: the signature in CPUID leaf 0x40000000. `clock_sources`: those
    that only guests have. `dmi`: the firmware's names. `hypervisor_type`: Xen and others that put a folder in /sys.
    `device_tree`: the same on ARM and POWER.
    """
    found: dict[str, Any] = {"cpu_flag": None, "systemd_detect_virt": None}
    try:
        flags = [flags for block in node.cpuinfo if (flags := block.get("flags")) is not None]
        found["cpu_flag"] = "hypervisor" in flags[0].split() if flags else None
    except Unreadable as refused:
        found["cpu_flag_reason"] = str(refused)
    found["systemd_detect_virt"], reason = detect_virt(node, "--vm")
    if reason:
        found["systemd_detect_virt_reason"] = reason
    try:
        found["cpuid"] = node.command(sys.executable, "-I", cpuid.__file__).split("\n")[0].strip("\0\r") or None
        found["cpuid_hypervisor"] = cpuid.name_of(node.command(sys.executable, "-I", cpuid.__file__).splitlines())
    except Unreadable as refused:
        found["cpuid"], found["cpuid_hypervisor"] = None, None
        found["cpuid_reason"] = str(refused)
    sources = (node.read_or(CLOCK_SOURCES) or "").split()
    found["clock_sources"] = [name for name in sources if name in CLOCKS] or None
    names = ("sys_vendor", "product_name", "product_version", "board_name", "bios_vendor", "chassis_vendor")
    found["dmi"] = {name: text for name in names if (text := node.read_or(f"{DMI}/{name}"))} or None
    found["hypervisor_type"] = node.read_or("/sys/hypervisor/type")
    found["device_tree"] = node.read_or("/proc/device-tree/hypervisor/compatible")
    return found


def detect_virt(node: Node, kind: str) -> tuple[str | None, str | None]:
    """(`none`, `kvm`, ...; None) or (None, reason). It ends with status 1 when it finds nothing, and prints `none`."""
    try:
        return node.command("systemd-detect-virt", kind).strip() or None, None
    except Unreadable as refused:
        if "status 1: none" in str(refused):
            return "none", None
        return None, str(refused)


def decide(found: dict[str, Any]) -> tuple[str | None, str | None, list[str]]:
    """(`bare_metal` | `vm` | None, hypervisor or None, the grounds in words), from `evidence`.

    One positive sign makes it a virtual machine: a hypervisor can hide itself from some sources, none of them invents
    one. Bare metal needs a source that looks at the CPU and found nothing: DMI alone cannot tell, a cloud's names stand
    on its virtual machines and on its metal alike.
    """
    positive: list[tuple[str, str | None]] = []
    negative: list[str] = []
    detected = found["systemd_detect_virt"]
    if detected not in (None, "none"):
        positive.append((f"systemd-detect-virt says {detected}", detected))
    elif detected == "none":
        negative.append("systemd-detect-virt says none")
    for name in ("hypervisor_type", "device_tree"):
        if found.get(name):
            positive.append((f"{name.replace('_', ' ')} is {found[name]}", found[name]))
    if found.get("cpuid"):
        positive.append((f"CPUID says {found['cpuid']!r}", found.get("cpuid_hypervisor")))
    positive += [(f"the clock source {name} is there", CLOCKS[name]) for name in found.get("clock_sources") or ()]
    positive += _named(found["dmi"], DMI_HYPERVISORS)
    if found["cpu_flag"]:
        positive.append(("the CPU has the hypervisor flag", None))
    elif found["cpu_flag"] is False:
        negative.append("the CPU has no hypervisor flag")
    if positive:
        positive += _named(found["dmi"], DMI_CLOUDS)
        return "vm", next((kind for _, kind in positive if kind), None), [words for words, _ in positive] + negative
    if negative:
        return "bare_metal", None, negative
    return None, None, []


def _named(dmi: dict[str, str] | None, words: dict[str, str]) -> list[tuple[str, str]]:
    """(ground, hypervisor) of each DMI field with one of `words` as a whole word: XENON makes servers."""
    patterns = [(re.compile(rf"(?<![A-Za-z]){word}(?![A-Za-z])", re.IGNORECASE), kind) for word, kind in words.items()]
    found = [
        (f"DMI {name} is {text!r}", next((kind for pattern, kind in patterns if pattern.search(text)), None))
        for name, text in (dmi or {}).items()
    ]
    return [(ground, kind) for ground, kind in found if kind]


@fact("bare_metal or vm: whether a hypervisor runs below this operating system")
def machine(node: Node) -> Read:
    decided, _, grounds = decide(evidence(node))
    if decided is None:
        raise Unreadable(UNDECIDED, "/proc/cpuinfo")
    return decided, "; ".join(grounds)


@fact("hypervisor of a virtual machine: kvm, vmware, xen, microsoft, ...")
def hypervisor(node: Node) -> Read:
    decided, name, grounds = decide(evidence(node))
    if decided == "bare_metal":
        raise Unreadable("bare metal has none", "; ".join(grounds))
    if decided is None:
        raise Unreadable(UNDECIDED, "/proc/cpuinfo")
    if name is None:
        raise Unreadable("a hypervisor is there, but no source names it", "; ".join(grounds))
    return name, "; ".join(grounds)


@fact(
    "what each source says of virtualization: CPU flag, CPUID, systemd-detect-virt, clock sources, DMI, /sys/hypervisor"
)
def machine_evidence(node: Node) -> Read:
    found = evidence(node)
    if all(value is None for name, value in found.items() if not name.endswith("_reason")):
        raise Unreadable("no source says anything", "/proc/cpuinfo")
    return found, "/proc/cpuinfo, CPUID, systemd-detect-virt, clock sources, /sys/class/dmi, /sys/hypervisor"
