"""Is this a machine or a virtual one, and how do we know: each piece of evidence kept beside the decision."""

from __future__ import annotations

import re
from typing import Any

from servegauge.node.reader import Node, Unreadable, fact

Read = tuple[Any, str]

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
    "Google Compute Engine": "google",
    "Apple Virtualization": "apple",
}


def evidence(node: Node) -> dict[str, Any]:
    """What each source says of virtualization; null where it says nothing.

    `cpu_flag`: the hypervisor bit of CPUID leaf 1, which a hypervisor sets (and may hide). `systemd_detect_virt`: its
    answer for the machine, containers left out. `dmi`: the firmware's names. `hypervisor_type`: Xen and others that
    put a folder in /sys. `device_tree`: the same on ARM and POWER.
    """
    found: dict[str, Any] = {"cpu_flag": None, "systemd_detect_virt": None}
    try:
        flags = [block.get("flags") for block in node.cpuinfo if block.get("flags") is not None]
        found["cpu_flag"] = "hypervisor" in flags[0].split() if flags else None
    except Unreadable as refused:
        found["cpu_flag_reason"] = str(refused)
    found["systemd_detect_virt"], reason = _detect_virt(node, "--vm")
    if reason:
        found["systemd_detect_virt_reason"] = reason
    names = ("sys_vendor", "product_name", "product_version", "board_name", "bios_vendor", "chassis_vendor")
    found["dmi"] = {name: text for name in names if (text := node.read_or(f"{DMI}/{name}"))} or None
    found["hypervisor_type"] = node.read_or("/sys/hypervisor/type")
    found["device_tree"] = node.read_or("/proc/device-tree/hypervisor/compatible")
    return found


def _detect_virt(node: Node, kind: str) -> tuple[str | None, str | None]:
    """(`none`, `kvm`, ...; null) or (null, reason). It ends with status 1 when it finds nothing, and prints `none`."""
    try:
        return node.command("systemd-detect-virt", kind).strip() or None, None
    except Unreadable as refused:
        if "status 1: none" in str(refused):
            return "none", None
        return None, str(refused)


def decide(found: dict[str, Any]) -> tuple[str | None, str | None, list[str]]:
    """(`bare_metal` | `vm` | null, hypervisor or null, the grounds in words), from `evidence`.

    One positive sign makes it a virtual machine: a hypervisor can hide itself from some sources, none of them invents
    one. Bare metal needs a source that looks at the CPU and found nothing: DMI alone cannot tell, a cloud's names stand
    on its virtual machines and on its metal alike.
    """
    positive: list[tuple[str, str | None]] = []
    negative: list[str] = []
    said = found["systemd_detect_virt"]
    if said not in (None, "none"):
        positive.append((f"systemd-detect-virt says {said}", said))
    elif said == "none":
        negative.append("systemd-detect-virt says none")
    for name, text in (found["dmi"] or {}).items():
        kind = next((kind for word, kind in DMI_HYPERVISORS.items() if word.lower() in text.lower()), None)
        if kind:
            positive.append((f"DMI {name} is {text!r}", kind))
    for name in ("hypervisor_type", "device_tree"):
        if found[name]:
            positive.append((f"{name.replace('_', ' ')} is {found[name]}", found[name]))
    if found["cpu_flag"]:
        positive.append(("the CPU has the hypervisor flag", None))
    elif found["cpu_flag"] is False:
        negative.append("the CPU has no hypervisor flag")
    if positive:
        return "vm", next((kind for _, kind in positive if kind), None), [words for words, _ in positive] + negative
    if negative:
        return "bare_metal", None, negative
    return None, None, []


@fact("bare_metal or vm: whether a hypervisor lies below this operating system")
def machine(node: Node) -> Read:
    decided, _, grounds = decide(evidence(node))
    if decided is None:
        raise Unreadable("neither the CPU's flags nor systemd-detect-virt nor DMI could be read", "/proc/cpuinfo")
    return decided, "; ".join(grounds)


@fact("hypervisor of a virtual machine: kvm, vmware, xen, microsoft, ...")
def hypervisor(node: Node) -> Read:
    decided, name, grounds = decide(evidence(node))
    if decided == "bare_metal":
        raise Unreadable("bare metal has none", "; ".join(grounds))
    if name is None:
        raise Unreadable("a hypervisor is there, but no source names it", "; ".join(grounds))
    return name, "; ".join(grounds)


@fact("what each source says of virtualization: CPU flag, systemd-detect-virt, DMI, /sys/hypervisor")
def machine_evidence(node: Node) -> Read:
    found = evidence(node)
    if all(value is None for name, value in found.items() if not name.endswith("_reason")):
        raise Unreadable("no source says anything", "/proc/cpuinfo")
    return found, "/proc/cpuinfo, systemd-detect-virt, /sys/class/dmi, /sys/hypervisor"


@fact("container that this process runs in: docker, podman, apptainer, ...; none where there is none")
def container(node: Node) -> Read:
    said, _ = _detect_virt(node, "--container")
    if said not in (None, "none"):
        return said, "systemd-detect-virt --container"
    # Apptainer and Singularity are unknown to systemd-detect-virt; they leave this folder in the image
    for name, kind in (("/.singularity.d", "apptainer"), ("/run/.containerenv", "podman"), ("/.dockerenv", "docker")):
        if node.path(name).exists():
            return kind, name
    if node.path("/proc/self/cgroup").exists() and re.search(r"(docker|kubepods|lxc)", node.read("/proc/self/cgroup")):
        return "container", "/proc/self/cgroup"
    if said == "none" or node.path("/proc/self").exists():
        return "none", "systemd-detect-virt --container, /.singularity.d, /run/.containerenv, /.dockerenv"
    raise Unreadable("no source could be read", "systemd-detect-virt --container")
