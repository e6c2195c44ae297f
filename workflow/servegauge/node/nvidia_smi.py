"""Parsers of nvidia-smi's output: `-q -x` (XML), `topo -m` and `topo -p2p r` (text matrices). Pure functions.

Written to the published format (nvsmi_device v10 to v12, drivers 450 to 580) and to outputs that others published; not
exercised on hardware of ours. A field that a driver does not have is None, never 0.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any

# Texts that stand for "nothing to say"; in [brackets] or not, in any case
EMPTY = ("n/a", "none", "", "not supported", "not available", "deprecated", "not active", "no data",
         "requested functionality")  # fmt: skip
# Texts that stand for "could not be read": NVML's errors (nvmlErrorString) and nvidia-smi's own words for them
ERRORS = (
    "gpu is lost", "gpu requires reset", "gpu requires restart", "gpu access blocked by the operating system",
    "the operating system has blocked the request", "unknown error", "err!", "insufficient permissions",
    "insufficient external power", "driver not loaded", "timeout", "interrupt request issue", "uninitialized",
    "invalid argument", "not found", "gpu not found", "insufficient size", "corrupted inforom", "not ready",
    "function not found", "nvml shared library not found", "in use by another client", "insufficient memory",
    "insufficient resources", "freq not supported",
    "rm has detected an nvml/rm version mismatch", "argument version mismatch", "invalid state", "internal error",
    "gpu is not accessible", "unable to determine", "unknown",
)  # fmt: skip
LOST = ("gpu is lost", "gpu requires reset", "gpu requires restart", "gpu access blocked", "gpu not found", "err!")
# What stands before a vGPU's profile in its product name, and how a profile ends: A40-48Q, A100-1-5CME, T4-2B4, K120Q,
# RTX6000-Ada-48Q, RTX Pro 6000 Blackwell DC-1-24Q
_BRANDS = re.compile(r"(?:(?:NVIDIA|GRID|Tesla|Quadro)\s+)*")
_PROFILE = re.compile(r"[A-Z]\S*(?:[ ][\w-]+)*?-(?:\d+-)?\d+[ABCQ]\d?(?:ME)?|K\d{3}Q")
# Parts that are not read: names of other processes are not always escaped, some drivers write the clocks unbalanced
UNREAD = re.compile(r"<(processes|accounted_processes|supported_clocks)>.*?</\1>", re.DOTALL)
DOCUMENT = re.compile(r"<nvidia_smi_log>.*</nvidia_smi_log>", re.DOTALL)  # warnings stand before or after it
# Of a GPU that has fallen off the bus the document says nothing: GPU3: 0000:04:00.0: Unknown Error, in several forms
NO_HANDLE = re.compile(r"Unable to determine the device handle for GPU *([\da-f:. ]*?) *: *([a-z].*)", re.IGNORECASE)
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def _plain(text: str | None) -> str:
    return (text or "").strip().strip("[]").strip().rstrip(".").lower()


def known(text: str | None) -> str | None:
    """`text`, or None where nvidia-smi writes that there is nothing to say, or could not read it."""
    plain = _plain(text)
    nothing = plain in EMPTY or plain.startswith("requested functionality") or error_word(text) is not None
    return None if nothing else (text or "").strip()


def error_word(text: str | None) -> str | None:
    """The driver's word for a value that it could not read, such as `GPU is lost`; None for a value, and for none."""
    plain = _plain(text)
    return (text or "").strip().strip("[]") if plain in ERRORS or (plain.startswith(ERRORS[:-1]) and plain) else None


def vgpu_profile(product: str | None) -> str | None:
    """The profile in a vGPU's product name, such as `A100X-40C`; None where the name ends with none."""
    name = (product or "").strip()
    name = name[_BRANDS.match(name).end() :]  # type: ignore[union-attr]
    return name if _PROFILE.fullmatch(name) else None


def quantity(text: str | None) -> float | None:
    """The number before the unit: `81559 MiB` is 81559.0; None where there is none."""
    plain = known(text)
    match = plain and re.match(r"-?\d+(?:\.\d+)?", plain)
    return float(match[0]) if match else None


def whole(text: str | None) -> int | None:
    """As `quantity`, as a whole number."""
    value = quantity(text)
    return None if value is None else int(value)


def _switch(text: str | None) -> bool | None:
    return {"enabled": True, "disabled": False}.get((text or "").lower())


def _mode(text: str | None) -> str | None:
    """As `known`, but the driver's `None` is an answer."""
    return None if error_word(text) else (text or "").strip() or None


_LINK = "pci/pci_gpu_link_info"
_LICENSED = ("vgpu_software_licensed_product", "grid_licensed_product")  # the element, newest first
# How an element's text is read -> field of a GPU -> the elements that drivers have had for it, newest first
FIELDS: dict[Callable[[str | None], Any], dict[str, tuple[str, ...]]] = {
    known: {
        "model": ("product_name",), "architecture": ("product_architecture",), "uuid": ("uuid",),
        "pci_address": ("pci/pci_bus_id",), "pci_device": ("pci/pci_device_id",),
        "pci_subsystem": ("pci/pci_sub_system_id",), "host_vgpu_mode": ("gpu_virtualization_mode/host_vgpu_mode",),
        "license_product": tuple(f"{one}/licensed_product_name" for one in _LICENSED),
        "license_status": tuple(f"{one}/license_status" for one in _LICENSED),
        "compute_mode": ("compute_mode",), "addressing_mode": ("addressing_mode",), "vbios": ("vbios_version",),
        "gsp_firmware": ("gsp_firmware_version",), "fabric_state": ("fabric/state",),
    },
    _mode: {"virtualization_mode": ("gpu_virtualization_mode/virtualization_mode",)},
    whole: {
        "memory_mib": ("fb_memory_usage/total",), "clock_max_mhz": ("max_clocks/sm_clock",),
        "memory_clock_max_mhz": ("max_clocks/mem_clock",),
        "application_clock_mhz": ("applications_clocks/graphics_clock",),
        "pcie_generation_max": (f"{_LINK}/pcie_gen/max_link_gen",),
        "pcie_generation": (f"{_LINK}/pcie_gen/current_link_gen",),
        "pcie_width_max": (f"{_LINK}/link_widths/max_link_width",),
        "pcie_width": (f"{_LINK}/link_widths/current_link_width",),
    },
    quantity: {  # power_readings before driver 530
        "power_limit_w": ("gpu_power_readings/current_power_limit", "power_readings/power_limit"),
        "power_limit_default_w": ("gpu_power_readings/default_power_limit", "power_readings/default_power_limit"),
    },
    _switch: {"ecc": ("ecc_mode/current_ecc",), "mig": ("mig_mode/current_mig",), "persistence": ("persistence_mode",)},
}  # fmt: skip
OTHER_FIELDS = ("mig_reported", "mig_devices", "vgpu_profile")


def no_fields() -> dict[str, Any]:
    """Every field of a GPU, None; its list of MIG devices is empty."""
    names = [field for fields in FIELDS.values() for field in fields]
    return {**dict.fromkeys((*names, *OTHER_FIELDS)), "mig_devices": []}


def parse_query(xml: str) -> dict[str, Any]:
    """`nvidia-smi -q -x` as {"driver", "cuda", "gpus": [...]}; ValueError where it is not such a document.

    A value that the driver could not read is None, and `errors` has its word for the field; `lost` is the word of a GPU
    that the driver counts and cannot speak to, else None. Such a GPU may be named beside the document alone.

    Each GPU has the fields of FIELDS (pci_subsystem: hex, vendor last; virtualization_mode and host_vgpu_mode as the
    driver words them), index, mig_reported (whether it says anything of MIG), mig_devices and vgpu_profile.
    """
    try:
        found = DOCUMENT.search(xml)
        root = ElementTree.fromstring(UNREAD.sub("", found[0]) if found else xml)
    except ElementTree.ParseError as error:
        raise ValueError(f"nvidia-smi -q -x gave no XML, but {xml.strip()[:120]!r} ({error})") from None
    if root.tag != "nvidia_smi_log":
        raise ValueError(f"nvidia-smi -q -x gave a {root.tag!r} document, not nvidia_smi_log")

    cuda = known(root.findtext("cuda_version"))
    if cuda is None or not cuda[0].isdigit():  # newer drivers: deprecated in favour of the user-mode driver's version
        cuda = known(root.findtext("cuda_umd_version"))
    gpus = [_gpu(index, element) for index, element in enumerate(root.findall("gpu"))]
    gpus += [_without_handle(len(gpus) + more, *match) for more, match in enumerate(NO_HANDLE.findall(xml))]
    return {"driver": known(root.findtext("driver_version")), "cuda": cuda, "gpus": gpus}


def _without_handle(index: int, name: str, message: str) -> dict[str, Any]:
    """A GPU of which there is an error message alone: no field of it can be read."""
    address = re.search(r"(?:[\da-f]+:){2}[\da-f]{2}\.\d", name, re.IGNORECASE)
    word = message.partition(".")[0].strip()
    fields = dict.fromkeys((*no_fields(), "uuid"), word)
    where = address[0] if address else f"index {name}" if name else None
    return {**no_fields(), "index": index, "pci_address": where, "mig_reported": False, "errors": fields, "lost": word}


def _gpu(index: int, gpu: ElementTree.Element) -> dict[str, Any]:
    found: dict[str, Any] = {"index": index}
    errors: dict[str, str] = {}
    for read, fields in FIELDS.items():
        for field, paths in fields.items():
            texts = [gpu.findtext(path) for path in paths]
            found[field] = next((value for text in texts if (value := read(text)) is not None), None)
            if word := next(filter(None, map(error_word, texts)), None):
                errors[field] = word
    gone = [word for word in errors.values() if _plain(word).startswith(LOST)]
    guest = (found["virtualization_mode"] or "").lower() == "vgpu"
    return found | {
        "pci_address": found["pci_address"] or gpu.get("id"),
        "mig_reported": gpu.find("mig_mode/current_mig") is not None and "mig" not in errors,
        "mig_devices": [_mig_device(device) for device in gpu.findall("mig_devices/mig_device")],
        "vgpu_profile": vgpu_profile(found["model"]) if guest else None,
        "errors": errors,
        "lost": gone[0] if gone and "model" in errors else None,
    }


def _mig_device(device: ElementTree.Element) -> dict[str, Any]:
    """One MIG device. The XML names no profile, and its UUID only with newer drivers: see `parse_list`."""
    return {
        "index": whole(device.findtext("index")),
        "gpu_instance": whole(device.findtext("gpu_instance_id")),
        "compute_instance": whole(device.findtext("compute_instance_id")),
        "multiprocessors": whole(device.findtext("device_attributes/shared/multiprocessor_count")),
        "memory_mib": whole(device.findtext("fb_memory_usage/total")),
        "uuid": known(device.findtext("uuid")),
    }


def parse_list(text: str) -> list[dict[str, Any]]:
    """`nvidia-smi -L`: [{"model", "uuid", "mig": [{"profile", "uuid"}]}], the only place that names MIG profiles."""
    gpus: list[dict[str, Any]] = []
    for line in text.splitlines():
        if match := re.match(r"GPU \d+: (.+) \(UUID: (\S+)\)", line.strip()):
            gpus.append({"model": match[1], "uuid": match[2], "mig": []})
        elif (match := re.match(r"MIG (\S+)\s+Device\s+\d+: \(UUID: (\S+)\)", line.strip())) and gpus:
            gpus[-1]["mig"].append({"profile": match[1], "uuid": match[2]})
    return gpus


def parse_matrix(text: str) -> dict[str, Any]:
    """`nvidia-smi topo -m` or `topo -p2p r` as {"rows": {device: {device: link}}, "cpus", "numa", "nics"}.

    Links as nvidia-smi writes them: X, NV18, PIX, PXB, PHB, NODE, SYS; for p2p OK, NS, CNS, GNS, TNS, DR, U.
    `cpus` and `numa` hold each GPU's affinity, None where the column is empty (usual in a virtual machine). ValueError
    where a line is not understood.
    """
    lines = [ANSI.sub("", line).rstrip() for line in text.splitlines()]
    start = next((i for i, line in enumerate(lines) if re.match(r"\s+(GPU|NIC|mlx)\S*", line)), None)
    if start is None:
        raise ValueError("nvidia-smi topo gave no matrix")
    header = lines[start].replace("CPU Affinity", "CPU_Affinity").replace("NUMA Affinity", "NUMA_Affinity")
    header = header.replace("GPU NUMA ID", "GPU_NUMA_ID")
    columns = [name for name in header.split() if "_Affinity" not in name and name != "GPU_NUMA_ID"]
    found: dict[str, Any] = {"rows": {}, "cpus": {}, "numa": {}, "nics": {}}
    rest = iter(lines[start + 1 :])
    for line in rest:
        words = line.split()
        if not words:
            if found["rows"]:
                break
            continue
        name, cells = words[0], words[1:]
        if len(cells) < len(columns) or name not in columns:
            raise ValueError(f"nvidia-smi topo: {line.strip()!r} does not fit the columns {' '.join(columns)}")
        found["rows"][name] = dict(zip(columns, cells, strict=False))
        if name.startswith("GPU") and "CPU_Affinity" in header:
            found["cpus"][name], found["numa"][name] = _affinity(line, header, cells[len(columns) :])
    for line in rest:
        if match := re.match(r"\s*(NIC\d+): (\S+)", line):
            found["nics"][match[1]] = match[2]
    return found


def _affinity(line: str, header: str, cells: list[str]) -> tuple[str | None, str | None]:
    """(CPUs, NUMA node) of one row. With one of the two missing, its place under the header tells which it is."""
    has_id = "GPU_NUMA_ID" in header
    if has_id and cells:
        cells = cells[:-1]
    if len(cells) >= 2:
        return known(cells[0]), known(cells[1])
    if len(cells) == 1 and "NUMA_Affinity" in header:
        # tabs make columns move; a CPU list has a dash or comma in practice, a NUMA node has not
        return (known(cells[0]), None) if re.search(r"[-,]", cells[0]) and known(cells[0]) else (None, known(cells[0]))
    return (known(cells[0]) if cells else None), None


def link_rank(link: str) -> int:
    """Order of links from the slowest: unknown, SYS, NODE, PHB, PXB, PIX, then NVLinks by their number."""
    if match := re.fullmatch(r"NV(\d+)", link):
        return 100 + int(match[1])
    order = ("SYS", "NODE", "PHB", "PXB", "PIX")
    return order.index(link) + 1 if link in order else 0
