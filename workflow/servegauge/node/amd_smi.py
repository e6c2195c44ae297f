"""Parsers of what AMD's tools print as JSON: `amd-smi static`, `amd-smi version` and `rocm-smi`. Pure functions.

Written to outputs that others published (amd-smi of ROCm 6.1 to 7.2, rocm-smi of ROCm 5 and 6) and to the tools' own
documentation; not exercised on hardware of ours. A field that a version does not have is None, never 0. The keys are
those of `nvidia_smi.parse_query`, so that a fact is read the same way for both makers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from servegauge.node.nvidia_smi import no_fields

ROCM_SMI = (
    "rocm-smi", "--showproductname", "--showuniqueid", "--showbus", "--showmeminfo", "vram", "--showmaxpower",
    "--showclkfrq", "--showdriverversion", "--showcomputepartition", "--showmemorypartition", "--json",
)  # fmt: skip
SINCE_ROCM_6 = ("--showcomputepartition", "--showmemorypartition")  # an older rocm-smi refuses them, with status 2
EMPTY = ("", "n/a", "none", "unknown", "not supported", "n/a mhz")
# Units of amd-smi -> MiB. Its MB are 2^20 bytes: an MI300X of 192 GB has "196592 MB".
MIB = {"b": 2**-20, "kb": 2**-10, "kib": 2**-10, "mb": 1.0, "mib": 1.0, "gb": 2.0**10, "gib": 2.0**10}


def _json(text: str) -> Any:
    """The JSON document in `text`, which warnings may precede; ValueError where there is none."""
    start = min((at for at in (text.find("{"), text.find("[")) if at >= 0), default=-1)
    while start >= 0:
        try:
            return json.JSONDecoder().raw_decode(text, start)[0]
        except json.JSONDecodeError:
            later = [at for at in (text.find("{", start + 1), text.find("[", start + 1)) if at >= 0]
            start = min(later, default=-1)
    raise ValueError(f"no JSON in {text.strip()[:80]!r}")


def known(value: Any) -> Any:
    """`value`, or None where the tool writes that there is nothing to say."""
    return None if isinstance(value, str) and value.strip().lower() in EMPTY else value


def amount(value: Any) -> float | None:
    """A number, as a number, `{"value": 300, "unit": "W"}`, or `"300 W"`; None where there is none."""
    if isinstance(value, Mapping):
        value = value.get("value")
    if isinstance(value, bool) or value is None:
        return None
    match = re.match(r"\s*(-?\d+(?:\.\d+)?)", str(value))
    return float(match[1]) if match else None


def _at(data: Any, *path: str) -> Any:
    for key in path:
        data = data.get(key) if isinstance(data, Mapping) else None
    return known(data)


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def parse_static(text: str) -> list[dict[str, Any]]:
    """`amd-smi static --json`: one dict for each GPU; ValueError where it is no such document."""
    data = _json(text)
    if isinstance(data, Mapping):
        data = data.get("gpu_data", [data] if "gpu" in data else None)
    if not isinstance(data, list) or not all(isinstance(gpu, Mapping) and "gpu" in gpu for gpu in data):
        raise ValueError("amd-smi static --json gave no list of GPUs")
    return [_static(gpu) for gpu in data]


def _static(gpu: Mapping[str, Any]) -> dict[str, Any]:
    limits = gpu.get("limit") if isinstance(gpu.get("limit"), Mapping) else {}
    power = _first(
        *(amount(_at(limits, *path)) or None for path in (  # 0 W stands for no limit of this kind
            ("socket_power",), ("ppt0", "socket_power_limit"), ("max_power",), ("ppt0", "max_power_limit"), ("power",),
        ))
    )  # fmt: skip
    size = _at(gpu, "vram", "size")
    unit = str(size.get("unit") if isinstance(size, Mapping) else (re.sub(r"[\d.\s]", "", str(size or "")) or "MB"))
    memory = amount(size)
    generation = re.search(r"\d+", str(_at(gpu, "bus", "pcie_interface_version") or ""))
    return {
        **no_fields(),
        "index": gpu["gpu"],
        "model": _first(_at(gpu, "asic", "market_name"), _at(gpu, "board", "product_name")),
        "architecture": _at(gpu, "asic", "target_graphics_version"),
        "uuid": _first(_at(gpu, "uuid"), _at(gpu, "asic", "asic_serial")),
        "pci_address": _at(gpu, "bus", "bdf"),
        "pci_device": _at(gpu, "asic", "device_id"),
        "pci_subsystem": _first(_at(gpu, "asic", "subsystem_id"), _at(gpu, "asic", "subvendor_id")),
        "memory_mib": None if memory is None else int(memory * MIB.get(unit.strip().lower(), 1.0)),
        "ecc": _ecc(_at(gpu, "ras", "ecc_block_state")),
        "pcie_generation_max": int(generation[0]) if generation else None,
        "pcie_width_max": _whole(amount(_at(gpu, "bus", "max_pcie_width"))),
        "clock_max_mhz": _whole(_highest(_at(gpu, "clock", "sys", "frequency_levels"))),
        "memory_clock_max_mhz": _whole(_highest(_at(gpu, "clock", "mem", "frequency_levels"))),
        "power_limit_w": power,
        "vbios": _first(_at(gpu, "vbios", "version"), _at(gpu, "vbios", "name")),
        "compute_partition": _first(
            _at(gpu, "partition", "compute_partition"), _at(gpu, "partition", "accelerator_partition")
        ),
        "memory_partition": _at(gpu, "partition", "memory_partition"),
        "numa_node": _at(gpu, "numa", "node"),
        "driver": _driver(_at(gpu, "driver", "version")),
        "virtualization_mode": _at(gpu, "virtualization", "mode"),
    }


def _driver(version: Any) -> str | None:
    """The driver's version; the kernel's own driver calls itself by the kernel's whole build line."""
    text = str(version or "")
    match = re.match(r"Linux\s*version\s*([\w.-]*?\d[\w.-]*?)(?:\(|\s|$)", text)
    return (f"Linux {match[1]}" if match else text) or None


def _ecc(state: Any) -> bool | None:
    """Whether the memory controllers (UMC) correct errors, in the two forms that versions print."""
    if isinstance(state, Mapping):
        word = state.get("UMC")
    elif isinstance(state, list):
        word = next(
            (one.get("status") for one in state if isinstance(one, Mapping) and one.get("block") == "UMC"), None
        )
    else:
        word = None
    return {"enabled": True, "disabled": False}.get(str(word).lower())


def _highest(levels: Any) -> float | None:
    values: Iterable[Any] = (
        levels.values() if isinstance(levels, Mapping) else levels if isinstance(levels, list) else ()
    )
    return max((number for value in values if (number := amount(value)) is not None), default=None)


def parse_versions(text: str) -> dict[str, str | None]:
    """`amd-smi version --json` as {"rocm", "driver"}."""
    data = _json(text)
    first = data[0] if isinstance(data, list) and data else data
    driver = _first(_at(first, "amdgpu_version"), _at(first, "amdgpu_driver_version"))
    return {"rocm": _at(first, "rocm_version"), "driver": _driver(driver)}


def parse_rocm_smi(text: str) -> list[dict[str, Any]]:
    """`rocm-smi ... --json` (see ROCM_SMI): one dict for each card; ValueError where it is no such document."""
    data = _json(text)
    if not isinstance(data, Mapping) or not any(re.fullmatch(r"card\d+", name) for name in data):
        raise ValueError("rocm-smi --json gave no cards")
    system = {key.lower(): value for key, value in (data.get("system") or {}).items()}
    cards = sorted((int(name[4:]), card) for name, card in data.items() if re.fullmatch(r"card\d+", name))
    return [_card(index, {key.lower(): known(value) for key, value in card.items()}, system) for index, card in cards]


def _card(index: int, card: Mapping[str, Any], system: Mapping[str, Any]) -> dict[str, Any]:
    """One card; its keys in lower case, because versions differ in that (`Card series`, `Card Series`)."""
    memory = amount(card.get("vram total memory (b)"))
    names = (card.get("card series"), card.get("device name"), card.get("card model"))  # some have the PCI id instead
    sclk = re.findall(r"(\d+)\s*mhz", str(card.get("valid sclk range") or ""), re.IGNORECASE)
    return {
        **no_fields(),
        "index": index,
        "model": next((name for name in names if name and not re.fullmatch(r"0x[0-9a-fA-F]+", str(name))), None),
        "architecture": card.get("gfx version"),
        "uuid": card.get("unique id"),
        "pci_address": card.get("pci bus"),
        "pci_device": _first(card.get("device id"), card.get("gpu id")),
        "pci_subsystem": card.get("subsystem id"),
        "memory_mib": None if memory is None else int(memory / 2**20),
        "clock_max_mhz": int(sclk[-1]) if sclk else None,
        "power_limit_w": amount(card.get("max graphics package power (w)")),
        "vbios": card.get("vbios version"),
        "compute_partition": card.get("compute partition"),
        "memory_partition": card.get("memory partition"),
        "numa_node": _whole(amount(card.get("(topology) numa node"))),
        "driver": _driver(system.get("driver version")),
    }
