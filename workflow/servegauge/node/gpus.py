"""The GPUs of a node, read from NVIDIA's tool, else from AMD's, with the reason for each value that is missing.

A driver that lost a GPU still counts it, and answers with words such as "GPU is lost" in place of values. Such a field
is None with that reason; the GPU is named in the fact `gpu_lost`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from servegauge.node import amd_smi, nvidia_smi
from servegauge.node.reader import Node, Unreadable

NVIDIA_QUERY = "nvidia-smi -q -x"
AMD_VENDOR, NVIDIA_VENDOR = "0x1002", "0x10de"
# Classes of PCI devices that compute: display controllers and processing accelerators (AMD's Instinct are either)
CLASSES = ("0x03", "0x12")


@dataclass(frozen=True)
class Found:
    """`gpus` as `nvidia_smi.parse_query` words them, where they were read, and their maker."""

    gpus: list[dict[str, Any]]
    source: str
    vendor: str
    driver: str | None
    cuda: str | None = None
    rocm: str | None = None


def query_nvidia(node: Node) -> dict[str, Any]:
    """What nvidia-smi tells; Unreadable where it is absent, fails, or is not understood."""
    try:
        return nvidia_smi.parse_query(node.command("nvidia-smi", "-q", "-x"))
    except ValueError as error:
        raise Unreadable(str(error), NVIDIA_QUERY) from None


def find(node: Node) -> Found:
    """All GPUs that the node shows; Unreadable with each tool's message where there are none."""
    reasons = []
    try:
        answer = query_nvidia(node)
        if answer["gpus"]:
            return Found(answer["gpus"], NVIDIA_QUERY, "NVIDIA", answer["driver"], answer["cuda"])
        reasons.append("nvidia-smi finds no GPU")
    except Unreadable as refused:
        reasons.append(str(refused))
    for ask in (_amd_smi, _rocm_smi):
        try:
            return ask(node)
        except Unreadable as refused:
            reasons.append(str(refused))
        except ValueError as error:
            reasons.append(f"not understood: {error}")
    # On a node without AMD's GPUs, missing tools of AMD are not reported.
    hardware = amd_devices(node)
    if not hardware and all(reason.startswith("no ") for reason in reasons[1:]):
        raise Unreadable(reasons[0], NVIDIA_QUERY)
    seen = f"{len(hardware)} AMD GPUs on the PCI bus, but " if hardware else ""
    raise Unreadable(seen + "; ".join(reasons), "nvidia-smi, amd-smi, rocm-smi")


def _amd_smi(node: Node) -> Found:
    gpus = amd_smi.parse_static(node.command("amd-smi", "static", "--json"))
    if not gpus:
        raise Unreadable("amd-smi finds no GPU", "amd-smi static --json")
    versions: Mapping[str, str | None] = {}
    with contextlib.suppress(Unreadable, ValueError):
        versions = amd_smi.parse_versions(node.command("amd-smi", "version", "--json"))
    driver = gpus[0]["driver"] or versions.get("driver")
    return Found(gpus, "amd-smi static --json", "AMD", driver, rocm=versions.get("rocm") or _rocm(node))


def _rocm_smi(node: Node) -> Found:
    try:
        text = node.command(*amd_smi.ROCM_SMI)
    except Unreadable as refused:
        if "ended with status 2" not in str(refused):
            raise
        text = node.command(*(option for option in amd_smi.ROCM_SMI if option not in amd_smi.SINCE_ROCM_6))
    gpus = amd_smi.parse_rocm_smi(text)
    return Found(gpus, "rocm-smi --json", "AMD", gpus[0]["driver"], rocm=_rocm(node))


def _rocm(node: Node) -> str | None:
    return node.read_or("/opt/rocm/.info/version")


def pci_devices(node: Node, vendor: str) -> dict[str, dict[str, Any]]:
    """A maker's GPUs in /sys: {address: {device, subsystem, virtual_function, numa_node}}."""
    found = {}
    for path in node.glob("/sys/bus/pci/devices/*"):
        name = node.name_of(path)
        if node.read_or(f"{name}/vendor") == vendor and (node.read_or(f"{name}/class") or "").startswith(CLASSES):
            found[path.name] = {
                "device": node.read_or(f"{name}/device"),
                "subsystem": node.read_or(f"{name}/subsystem_device"),
                "virtual_function": node.path(f"{name}/physfn").exists(),
                "numa_node": node.read_or(f"{name}/numa_node"),
            }
    return found


def amd_devices(node: Node) -> dict[str, dict[str, Any]]:
    """AMD's GPUs in /sys."""
    return pci_devices(node, AMD_VENDOR)


def lost(gpus: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """PCI address -> what the driver says, of the GPUs that it counts and cannot speak to."""
    return {str(gpu["pci_address"] or gpu["index"]): gpu["lost"] for gpu in gpus if gpu.get("lost")}


def unreadable(gpus: Sequence[Mapping[str, Any]], field: str) -> str | None:
    """The GPU whose `field` the driver could not read, with the driver's message; None where there is none."""
    for gpu in gpus:
        if word := gpu.get("errors", {}).get(field):
            return f"GPU {gpu['index']} ({gpu['pci_address']}): the driver says {word!r}"
    return None


def devices(gpus: Sequence[Mapping[str, Any]]) -> int:
    """What a job can be given: a MIG slice is one where a GPU is partitioned, else the GPU is; a lost one is none."""
    return sum(max(1, len(gpu["mig_devices"])) if gpu.get("mig") else 1 for gpu in gpus if not gpu.get("lost"))


def visible(environment: Mapping[str, str] | None = None) -> tuple[str | None, list[str]]:
    """(variable, devices) that the environment leaves to this process; (None, []) where it says nothing of them.

    CUDA's variable counts first, then HIP's (which names some of what ROCR's leaves), then ROCR's. As the runtimes read
    them, a list ends at the first entry that names no device.
    """
    environment = os.environ if environment is None else environment
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"):
        if environment.get(name) is None:
            continue
        names = []
        for word in environment[name].split(","):
            if not word.strip() or word.strip() in ("-1", "NoDevFiles", "none", "void"):
                break
            names.append(word.strip())
        return name, names
    return None, []
