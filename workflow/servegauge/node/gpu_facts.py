"""Facts of a node's GPUs: what they are, how they are virtualized and how they are wired."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from servegauge.node import gpus, nvidia_smi, virtualization
from servegauge.node.gpus import NVIDIA_QUERY as QUERY
from servegauge.node.reader import Node, Read, Unreadable, enter, fact


def _each(field: str, node: Node) -> Read:
    """One value where all GPUs agree, else the list of them in the order of the GPUs.

    Unreadable where the driver could not read it on one of them: its error message is no value, and a list
    without it would not show which GPU each value belongs to.
    """
    found = gpus.find(node)
    if reason := gpus.unreadable(found.gpus, field):
        raise Unreadable(reason, found.source)
    values = [gpu[field] for gpu in found.gpus]
    if all(value is None for value in values):
        raise Unreadable(f"{found.source.split()[0]} says nothing of {field}", found.source)
    return (values[0] if all(value == values[0] for value in values) else values), found.source


for _name, _meaning, _field in (
    ("gpu_model", "GPU model; one name where all agree, else a list (so for every gpu_ fact of one value)", "model"),
    ("gpu_memory_mib", "memory of one GPU, MiB", "memory_mib"),
    ("gpu_ecc", "ECC memory in use: true or false", "ecc"),
    ("gpu_power_limit_w", "power limit of a GPU, W", "power_limit_w"),
    ("gpu_clock_max_mhz", "highest SM clock of a GPU, MHz", "clock_max_mhz"),
    ("gpu_pcie_generation", "PCIe generation that the GPU and its slot allow", "pcie_generation_max"),
    ("gpu_pcie_width", "PCIe lanes of a GPU", "pcie_width_max"),
    ("gpu_persistence", "persistence mode: true or false", "persistence"),
    ("gpu_compute_mode", "compute mode: Default, Exclusive_Process, Prohibited", "compute_mode"),
    ("gpu_vgpu_product", "product that the vGPU is licensed for", "license_product"),
):
    enter(_name, _meaning, partial(_each, _field))


@fact("GPUs that the node shows to this process; with MIG the whole ones, see gpu_devices")
def gpu_count(node: Node) -> Read:
    found = gpus.find(node)
    return len(found.gpus), found.source


@fact("devices that jobs can be given: GPUs, or the MIG slices of those that are partitioned")
def gpu_devices(node: Node) -> Read:
    found = gpus.find(node)
    return gpus.devices(found.gpus), found.source


@fact("PCI addresses of GPUs that the driver counts and cannot speak to (fallen off the bus, in need of a reset)")
def gpu_lost(node: Node) -> Read:
    found = gpus.find(node)
    gone = gpus.lost(found.gpus)
    messages = ", ".join(f"{address}: {word}" for address, word in gone.items())
    return list(gone), f"{found.source} ({messages})" if messages else found.source


@fact("maker of the GPUs: NVIDIA or AMD")
def gpu_vendor(node: Node) -> Read:
    found = gpus.find(node)
    return found.vendor, found.source


@fact("devices that the environment leaves to this process, as CUDA_, HIP_ or ROCR_VISIBLE_DEVICES names them")
def gpu_visible(node: Node) -> Read:
    if not node.real:
        raise Unreadable("the environment is that of this process", "CUDA_VISIBLE_DEVICES")
    name, found = gpus.visible()
    if name is None:
        raise Unreadable("no variable limits them", "CUDA_VISIBLE_DEVICES, HIP_VISIBLE_DEVICES, ROCR_VISIBLE_DEVICES")
    return found, name


@fact("UUIDs of the GPUs, in the driver's order")
def gpu_uuids(node: Node) -> Read:
    found = gpus.find(node)
    values = [gpu["uuid"] for gpu in found.gpus]
    return (values if any(values) else None), found.source


@fact("version of the GPUs' driver: NVIDIA's, or amdgpu")
def gpu_driver(node: Node) -> Read:
    try:
        found = gpus.find(node)
        return found.driver, found.source
    except Unreadable as refused:
        for name, pattern in (
            ("/proc/driver/nvidia/version", r"Kernel Module(?: for \S+)?\s+([\d.]+)"),
            ("/sys/module/amdgpu/version", r"(\S+)"),
        ):
            if match := re.search(pattern, node.read_or(name) or ""):
                return match[1], name
        raise Unreadable(str(refused), refused.source) from None


def _made_by(vendor: str, node: Node, see: str = "") -> gpus.Found:
    """The GPUs, where `vendor` made them; Unreadable, with the fact to `see` instead, where another did."""
    found = gpus.find(node)
    if found.vendor != vendor:
        raise Unreadable(f"the GPUs are {found.vendor}'s{see}", found.source)
    return found


@fact("highest CUDA version that the driver offers")
def gpu_cuda(node: Node) -> Read:
    found = _made_by("NVIDIA", node)
    return found.cuda, found.source


@fact("ROCm version of AMD's tools on this node")
def gpu_rocm(node: Node) -> Read:
    found = _made_by("AMD", node)
    return found.rocm, found.source


@fact("how AMD GPUs are partitioned: {compute: SPX | DPX | QPX | CPX, memory: NPS1 | NPS4 | ...}")
def gpu_partition(node: Node) -> Read:
    found = _made_by("AMD", node, "; see gpu_mig")
    # Of a GPU that is partitioned, the first partition alone tells; the others say N/A.
    kinds = {
        name: {str(kind) for gpu in found.gpus if (kind := gpu.get(f"{name}_partition"))}
        for name in ("compute", "memory")
    }
    if not any(kinds.values()):
        raise Unreadable(f"{found.source.split()[0]} says nothing of partitions", found.source)
    return {name: "/".join(sorted(kind)) or None for name, kind in kinds.items()}, found.source


@fact("Multi-Instance GPU mode on: true or false; false for a GPU that has none")
def gpu_mig(node: Node) -> Read:
    found = _made_by("NVIDIA", node, "; see gpu_partition")
    for gpu in found.gpus:
        if not gpu["mig_reported"]:
            reason = gpus.unreadable([gpu], "mig") or f"the driver says nothing of MIG for GPU {gpu['index']}"
            raise Unreadable(reason, found.source)
    # a GPU without the feature says N/A: it is not partitioned, which is what is asked
    values = [bool(gpu["mig"]) for gpu in found.gpus]
    return (values[0] if len(set(values)) == 1 else values), found.source


@fact("profiles of the MIG devices of this node, such as 3g.40gb")
def gpu_mig_profiles(node: Node) -> Read:
    found = [
        device["profile"] for gpu in nvidia_smi.parse_list(node.command("nvidia-smi", "-L")) for device in gpu["mig"]
    ]
    if not found:
        raise Unreadable("no MIG device", "nvidia-smi -L")
    return found, "nvidia-smi -L"


@fact("vGPU profile, such as A100X-40C: the end of the product name inside a guest")
def gpu_vgpu_profile(node: Node) -> Read:
    if gpu_virtualization(node)[0] != "vgpu":
        raise Unreadable("not a vGPU", QUERY)
    return _each("vgpu_profile", node)


@fact("vGPU licence in force: true or false (an unlicensed vGPU is throttled after some minutes)")
def gpu_vgpu_licensed(node: Node) -> Read:
    values = [gpu["license_status"] for gpu in gpus.find(node).gpus]
    if not any(values):
        raise Unreadable("nvidia-smi names no licence (usual outside a vGPU guest)", QUERY)
    return all((value or "").lower().startswith("licensed") for value in values), f"{QUERY}: {values[0]}"


# nvidia-smi's names (NVML's nvmlGpuVirtualizationMode_t) -> ours
MODES = {
    "none": "bare_metal",
    "pass-through": "passthrough",
    "passthrough": "passthrough",
    "vgpu": "vgpu",
    "host vgpu": "vgpu_host",
    "host vsga": "vsga_host",
}


def gpu_evidence(node: Node) -> dict[str, Any]:
    """What tells how the GPUs are virtualized: the driver's mode, the machine's kind, PCI ids; lost GPUs left out."""
    found = gpus.find(node)
    return {
        "nvidia_smi_mode": [gpu["virtualization_mode"] for gpu in found.gpus if not gpu.get("lost")],
        "product": [gpu["model"] for gpu in found.gpus if not gpu.get("lost")],
        "pci": {gpu["pci_address"]: [gpu["pci_device"], gpu["pci_subsystem"]] for gpu in found.gpus},
        "pci_sys": gpus.pci_devices(node, gpus.AMD_VENDOR if found.vendor == "AMD" else gpus.NVIDIA_VENDOR) or None,
        "vendor": found.vendor,
        "machine": virtualization.decide(virtualization.evidence(node))[0],
    }


@fact("how the GPUs reach this system: bare_metal, passthrough, vgpu, or vgpu_host and vsga_host for a hypervisor")
def gpu_virtualization(node: Node) -> Read:
    found = gpu_evidence(node)
    if found["vendor"] == "AMD":
        return _amd_virtualization(found)
    modes = {(mode or "").lower() for mode in found["nvidia_smi_mode"]}
    if len(modes) > 1:
        raise Unreadable(f"the GPUs differ: {', '.join(sorted(modes))}", QUERY)
    if not modes:
        raise Unreadable("the driver can speak to no GPU", QUERY)
    mode, reported = MODES.get(modes.pop()), found["nvidia_smi_mode"][0]
    grounds = [f"nvidia-smi's virtualization mode is {reported}"]
    if mode in ("bare_metal", None) and all(map(nvidia_smi.vgpu_profile, found["product"])):
        mode = "vgpu"
        grounds.append(f"the product name {found['product'][0]!r} ends with a vGPU profile")
    elif mode in ("bare_metal", None) and found["machine"] == "vm":
        # A hypervisor that hides itself from the driver, or a driver that does not tell: a whole GPU in a virtual
        # machine can only have been passed through.
        mode = "passthrough"
        grounds.append("the system is a virtual machine and the GPU is a whole one")
    elif mode is None and found["machine"] == "bare_metal":
        mode = "bare_metal"
        grounds.append("no source knows of a hypervisor")
    elif mode in ("passthrough", "vgpu") and found["machine"] == "bare_metal":
        grounds.append("although the other sources know of no hypervisor: it hides itself")
    if mode is None:
        raise Unreadable(f"{grounds[0]}, which is not known, and nothing else tells", QUERY)
    return mode, "; ".join(grounds)


def _amd_virtualization(found: dict[str, Any]) -> Read:
    """AMD's tools name a virtual function (SR-IOV) by the end of its product; the rest follows from the machine."""
    functions = [name for name in found["product"] if re.search(r"\bVF\b|\bMxGPU\b", name or "")]
    if functions and len(functions) == len(found["product"]):
        return "vgpu", f"the product {functions[0]!r} is a virtual function (SR-IOV)"
    if found["machine"] == "vm":
        return "passthrough", "the system is a virtual machine and the GPU is a whole one"
    if found["machine"] == "bare_metal":
        return "bare_metal", "no source knows of a hypervisor"
    raise Unreadable("AMD's tools do not say, and nothing tells whether this is a virtual machine", "amd-smi, rocm-smi")


@fact("evidence for gpu_virtualization: nvidia-smi's mode, product names, PCI ids, the machine's own kind")
def gpu_virtualization_evidence(node: Node) -> Read:
    return gpu_evidence(node), f"{QUERY}, /sys/bus/pci/devices"


@fact("NVIDIA's and AMD's GPUs on the PCI bus, also those hidden from this process")
def gpu_pci_devices(node: Node) -> Read:
    found = gpus.pci_devices(node, gpus.NVIDIA_VENDOR) | gpus.amd_devices(node)
    if not found:
        raise Unreadable("no display controller or accelerator of NVIDIA or AMD", "/sys/bus/pci/devices")
    return found, "/sys/bus/pci/devices"


@fact("all that the maker's tool tells of each GPU: list of {index, model, uuid, pci_address, clocks, limits, ...}")
def gpu_details(node: Node) -> Read:
    found = gpus.find(node)
    hidden = ("errors", "mig_reported")  # the driver's error words are reasons, not values
    kept = [{key: value for key, value in gpu.items() if key not in hidden} for gpu in found.gpus]
    return [{**gpu, "lost": bool(gpu.get("lost"))} for gpu in kept], found.source


def _topology(node: Node, *options: str) -> dict[str, Any]:
    try:
        return nvidia_smi.parse_matrix(node.command("nvidia-smi", "topo", *options))
    except ValueError as error:
        raise Unreadable(str(error), " ".join(["nvidia-smi topo", *options])) from None


def _between_gpus(matrix: dict[str, Any]) -> list[str]:
    """Links between two different GPUs, each pair once."""
    gpus = [name for name in matrix["rows"] if name.startswith("GPU")]
    return [matrix["rows"][a][b] for i, a in enumerate(gpus) for b in gpus[i + 1 :]]


@fact("wiring: {device: {device: NV18 | PIX | PXB | PHB | NODE | SYS}} for GPUs and network cards")
def gpu_topology(node: Node) -> Read:
    found = _topology(node, "-m")
    return {"links": found["rows"], "network_cards": found["nics"]}, "nvidia-smi topo -m"


@fact("slowest link between two GPUs: NV18, PIX, PXB, PHB, NODE or SYS")
def gpu_slowest_link(node: Node) -> Read:
    links = _between_gpus(_topology(node, "-m"))
    if not links:
        raise Unreadable("one GPU: no link between two", "nvidia-smi topo -m")
    return min(links, key=nvidia_smi.link_rank), "nvidia-smi topo -m"


@fact("every GPU can read every other's memory (peer to peer): true or false")
def gpu_peer_access(node: Node) -> Read:
    links = _between_gpus(_topology(node, "-p2p", "r"))
    if not links:
        raise Unreadable("one GPU: no peer", "nvidia-smi topo -p2p r")
    return all(link == "OK" for link in links), "nvidia-smi topo -p2p r"


@fact("peer to peer matrix: OK, NS (not supported), CNS (chipset), GNS (GPU), TNS (topology), DR (disabled)")
def gpu_peer_matrix(node: Node) -> Read:
    return _topology(node, "-p2p", "r")["rows"], "nvidia-smi topo -p2p r"


@fact("CPUs nearest to each GPU: {GPU0: list}")
def gpu_cpu_affinity(node: Node) -> Read:
    return _known_of(_topology(node, "-m")["cpus"])


@fact("NUMA node of each GPU: {GPU0: node}")
def gpu_numa(node: Node) -> Read:
    return _known_of(_topology(node, "-m")["numa"])


def _known_of(values: dict[str, str | None]) -> Read:
    if not any(values.values()):
        raise Unreadable("the columns are empty (usual in a virtual machine)", "nvidia-smi topo -m")
    return values, "nvidia-smi topo -m"
