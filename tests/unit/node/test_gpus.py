"""GPUs that are lost, sliced, shared or AMD's: what is told of them, and that no error word becomes a value."""

from __future__ import annotations

import json
import os
import re

import pytest

from servegauge.cli import doctor
from servegauge.contract.records.order import Order
from servegauge.contract.records.specs import LaunchSpec
from servegauge.contract.spec import Layout
from servegauge.node import amd_smi, expectations, gpus, nvidia_smi
from servegauge.node.reader import Unreadable, run_command
from tests.unit import made_up_nodes as nodes

WORDS = [
    "GPU is lost", "[GPU is lost]", "Unknown Error", "[Unknown Error]", "ERR!", "GPU requires reset",
    "GPU access blocked by the operating system", "[Insufficient Permissions]", "Not Found", "Insufficient Resources",
]  # fmt: skip
NOTHING = [
    "[N/A]",
    "N/A",
    "No data",
    "[Not Supported]",
    "Not Supported",
    "[Requested functionality has been deprecated]",
]


def facts(system, **commands):
    return expectations.facts(system=system, run=nodes.answers(**commands))


def broken(word):
    """A GPU of which the driver says `word` in place of every value."""
    values = r"(<(?:product_name|product_architecture|persistence_mode|addressing_mode|current_mig|pending_mig|uuid|"
    values += r"vbios_version|virtualization_mode|host_vgpu_mode|total|used|free|compute_mode|current_ecc|pending_ecc|"
    values += r"sm_clock|mem_clock|max_link_gen|max_link_width|current_power_limit|state)>)[^<]*"
    return re.sub(values, rf"\g<1>{word}", nodes.gpu_xml(1))


@pytest.mark.parametrize("word", WORDS)
def test_a_gpu_that_fell_off_the_bus_is_named_and_its_words_are_no_values(tmp_path, word):
    query = nodes.smi_xml(nodes.gpu_xml(0), broken(word))
    found = facts(nodes.bare_metal(tmp_path), query=query, virt="none\n")
    assert found["gpu_count"]["value"] == 2
    for name in ("model", "compute_mode", "memory_mib", "ecc", "mig", "persistence", "clock_max_mhz", "pcie_width"):
        one = found[f"gpu_{name}"]
        assert one["value"] is None, name
        assert one["reason"].startswith("GPU 1 (00000001:18:00.0): the driver says"), name
    plain = word.strip("[]")
    assert plain not in json.dumps([one["value"] for one in found.values()])
    assert found["gpu_virtualization"]["value"] in ("bare_metal", None)
    if word in ("GPU is lost", "[GPU is lost]", "ERR!", "GPU requires reset"):
        assert found["gpu_lost"]["value"] == ["00000001:18:00.0"]
        assert plain in found["gpu_lost"]["source"]
        assert found["gpu_virtualization"]["value"] == "bare_metal", "the GPU that answers tells"


@pytest.mark.parametrize(
    ("part", "instead"),
    [
        ("</nvidia_smi_log>\n", "</nvidia_smi_log>\nWARNING: infoROM is corrupted at gpu 0000:18:00.0\n"),
        ("<?xml", "WARNING: the persistence daemon is not running\n<?xml"),
        (
            "</gpu>",
            "<processes><process_info><process_name>a &&<b> \x01</process_name></process_info></processes></gpu>",
        ),
        ("</gpu>", "<supported_clocks></supported_mem_clock><supported_mem_clock>9 MHz</supported_clocks></gpu>"),
    ],
)
def test_warnings_around_the_document_and_parts_that_are_no_xml_hide_no_gpu(part, instead):
    query = nodes.smi_xml(nodes.gpu_xml(0), nodes.gpu_xml(1))
    assert part in query
    assert nvidia_smi.parse_query(query.replace(part, instead)) == nvidia_smi.parse_query(query)


@pytest.mark.parametrize(
    ("message", "address"),
    [
        ("GPU1: 0000:04:00.0: Unknown Error", "0000:04:00.0"),
        ("GPU0000:04:00.0: Unknown Error", "0000:04:00.0"),
        ("gpu 0000:04:00.0: GPU is lost.  Reboot the system to recover this GPU", "0000:04:00.0"),
        ("GPU2: Unknown Error", "index 2"),
    ],
)
@pytest.mark.parametrize("status", [0, 15])
def test_a_gpu_that_is_named_beside_the_answer_alone_is_lost(tmp_path, monkeypatch, message, address, status):
    program = tmp_path / "bin/nvidia-smi"
    said = f"echo 'Unable to determine the device handle for {message}' >&2"
    script = f"#!/bin/sh\ncat {tmp_path}/bin/answer.xml\n{said}\nexit {status}"
    nodes.write(tmp_path, {"bin/answer.xml": nodes.smi_xml(nodes.gpu_xml(0)), "bin/nvidia-smi": script})
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    found = expectations.facts(system=nodes.bare_metal(tmp_path / "system"), run=run_command)
    assert (found["gpu_count"]["value"], found["gpu_devices"]["value"]) == (2, 1)
    assert found["gpu_lost"]["value"] == [address]
    word = "GPU is lost" if "lost" in message else "Unknown Error"
    for name in ("model", "memory_mib", "mig", "ecc"):
        assert found[f"gpu_{name}"]["value"] is None
        assert found[f"gpu_{name}"]["reason"] == f"GPU 1 ({address}): the driver says {word!r}"
    assert found["gpu_details"]["value"][1]["lost"] is True
    json.dumps(found, allow_nan=False)


def test_every_gpu_answers(tmp_path):
    found = facts(nodes.bare_metal(tmp_path), query=nodes.smi_xml(nodes.gpu_xml(0)), virt="none\n")
    assert found["gpu_lost"]["value"] == []
    assert (found["gpu_devices"]["value"], found["gpu_vendor"]["value"]) == (1, "NVIDIA")


@pytest.mark.parametrize("word", NOTHING)
def test_nothing_to_say_is_no_error(word):
    assert (nvidia_smi.known(word), nvidia_smi.error_word(word)) == (None, None)


@pytest.mark.parametrize("text", ["NVIDIA H100 80GB HBM3", "Default", "Enabled", "1980 MHz", "Exclusive_Process"])
def test_values_are_values(text):
    assert (nvidia_smi.known(text), nvidia_smi.error_word(text)) == (text, None)


@pytest.mark.parametrize("word", [*WORDS, None])
def test_a_mig_field_that_cannot_be_read_is_not_false(tmp_path, word):
    gpu = nodes.gpu_xml(mig=word or "Enabled")
    if word is None:
        gpu = re.sub(r"<mig_mode>.*?</mig_mode>", "", gpu, flags=re.DOTALL)
    found = facts(nodes.bare_metal(tmp_path), query=nodes.smi_xml(nodes.gpu_xml(0), gpu), virt="none\n")["gpu_mig"]
    assert found["value"] is None
    assert found["reason"]


@pytest.mark.parametrize(
    ("product", "profile"),
    [
        ("NVIDIA RTX6000-Ada-48Q", "RTX6000-Ada-48Q"),
        ("NVIDIA RTX Pro 6000 Blackwell DC-96Q", "RTX Pro 6000 Blackwell DC-96Q"),
        ("NVIDIA RTX Pro 6000 Blackwell DC-1-24Q", "RTX Pro 6000 Blackwell DC-1-24Q"),
        ("GRID T4-2B4", "T4-2B4"), ("GRID A100D-80C", "A100D-80C"), ("NVIDIA H100XM-1-10CME", "H100XM-1-10CME"),
        ("NVIDIA L40S-48Q", "L40S-48Q"), ("GRID V100DX-32C", "V100DX-32C"), ("NVIDIA A100-1-5CME", "A100-1-5CME"),
        ("NVIDIA H200X-141C", "H200X-141C"), ("GRID RTX8000P-48Q", "RTX8000P-48Q"), ("GRID K120Q", "K120Q"),
        ("NVIDIA RTX A6000-48Q", "RTX A6000-48Q"), ("NVIDIA GRID M60-8Q", "M60-8Q"), ("NVIDIA A40-48A", "A40-48A"),
        ("NVIDIA H100 80GB HBM3", None), ("NVIDIA A100-SXM4-80GB", None), ("Tesla V100-SXM2-32GB", None),
        ("NVIDIA RTX 6000 Ada Generation", None), ("NVIDIA GH200 480GB", None), ("NVIDIA L4", None), ("", None),
        (None, None),
    ],
)  # fmt: skip
def test_names_of_vgpu_profiles(tmp_path, product, profile):
    assert nvidia_smi.vgpu_profile(product) == profile
    if profile:
        query = nodes.smi_xml(nodes.gpu_xml(product=product, mode="VGPU"))
        assert facts(tmp_path, query=query, virt="kvm\n")["gpu_vgpu_profile"]["value"] == profile


# ---------------------------------------------------------------- MIG, as the doctor counts it


def told(**values):
    return {name: {"value": value, "source": "s", "reason": None} for name, value in values.items()}


PLATFORM = {"name": "mig", "gpus_per_node": 2, "nodes": 1}


def order(instances):
    layout = Layout(instances=instances)
    launch = LaunchSpec(id="l", framework="vllm", model={"name": "m"}, platform=PLATFORM, layout=layout)
    return Order(study="s", launch=launch, attempt=0, root="/")


MIG = told(gpu_count=1, gpu_model="NVIDIA H100 80GB HBM3", gpu_mig=True)


@pytest.mark.parametrize(
    ("environment", "found", "ok", "words"),
    [
        ({"SLURM_JOB_ID": "1", "CUDA_VISIBLE_DEVICES": "MIG-a,MIG-b"}, MIG, True, "2 of 2 MIG slices"),
        ({"SLURM_JOB_ID": "1", "CUDA_VISIBLE_DEVICES": "MIG-a"}, MIG, False, "the job got 1 GPUs of 2"),
        ({"SLURM_JOB_ID": "1", "CUDA_VISIBLE_DEVICES": "0,1"}, {**MIG, **told(gpu_devices=2)}, True, "2 of 2 MIG"),
        ({}, {**MIG, **told(gpu_mig_profiles=["3g.40gb", "3g.40gb"])}, True, "2 of 2 MIG slices"),
        ({}, MIG, False, "the driver shows 1 GPUs of 2"),
        ({}, told(gpu_count=2, gpu_model="H", gpu_mig=False, gpu_devices=2), True, "2 of 2 GPUs: H"),
        ({}, told(gpu_count=2, gpu_model=None, gpu_lost=["00:08.0"]), False, "cannot speak to the GPU at 00:08.0"),
        ({"SLURM_JOB_ID": "1", "ROCR_VISIBLE_DEVICES": "0,1"}, told(gpu_count=8, gpu_model="MI300X"), True, "2 of 8"),
        ({"SLURM_JOB_ID": "1", "HIP_VISIBLE_DEVICES": "0"}, told(gpu_count=8), False, "the job got 1 GPUs of 2"),
        ({"SLURM_JOB_ID": "1", "CUDA_VISIBLE_DEVICES": ""}, told(gpu_count=8), False, "the job got 0 GPUs of 2"),
        ({"SLURM_JOB_ID": "1"}, told(gpu_count=4, gpu_model="MI250X"), None, "the driver shows 4, no variable says"),
        ({"SLURM_JOB_ID": "1"}, told(gpu_count=1, gpu_model="MI250X"), False, "the driver shows 1 GPUs of 2"),
    ],
)
def test_the_doctor_counts_what_a_job_is_given(monkeypatch, environment, found, ok, words):
    for name in ("SLURM_JOB_ID", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES",
                 "GPU_DEVICE_ORDINAL"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    answer = doctor.gpus(order(2), found)
    assert (answer[0], words in answer[1]) == (ok, True), answer


def test_the_doctor_says_why_nothing_is_known_and_never_no_gpus(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    unknown = {"gpu_count": {"value": None, "source": "s", "reason": "2 AMD GPUs on the PCI bus, but no amd-smi"}}
    ok, said, _ = doctor.gpus(order(2), unknown)
    assert (ok, said) == (False, "the node's GPUs could not be read: 2 AMD GPUs on the PCI bus, but no amd-smi")


def test_slices_are_devices(tmp_path):
    gpu = nodes.gpu_xml(mig="Enabled", mig_devices=nodes.MIG_DEVICES + nodes.MIG_DEVICES)
    found = facts(tmp_path, query=nodes.smi_xml(gpu, nodes.gpu_xml(1)), virt="none\n")
    assert (found["gpu_count"]["value"], found["gpu_devices"]["value"]) == (2, 3)


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, (None, [])),
        ({"CUDA_VISIBLE_DEVICES": "0,2"}, ("CUDA_VISIBLE_DEVICES", ["0", "2"])),
        ({"CUDA_VISIBLE_DEVICES": ""}, ("CUDA_VISIBLE_DEVICES", [])),
        ({"CUDA_VISIBLE_DEVICES": "1,-1,2"}, ("CUDA_VISIBLE_DEVICES", ["1"])),
        ({"ROCR_VISIBLE_DEVICES": "0,GPU-f00d"}, ("ROCR_VISIBLE_DEVICES", ["0", "GPU-f00d"])),
        ({"ROCR_VISIBLE_DEVICES": "4,5,6", "HIP_VISIBLE_DEVICES": "0,1"}, ("HIP_VISIBLE_DEVICES", ["0", "1"])),
    ],
)
def test_what_the_environment_leaves(environment, found):
    assert gpus.visible(environment) == found


# ---------------------------------------------------------------- AMD, in the forms that others published


def static_gpu(index, **more):
    """One GPU as `amd-smi static --json` of ROCm 6 prints it (numbers of an MI210, addresses made up)."""
    return {
        "gpu": index,
        "asic": {"market_name": "AMD Instinct MI210", "vendor_id": "0x1002", "device_id": "0x740f",
                 "subsystem_id": "0x0c34", "oam_id": "N/A", "num_compute_units": 104,
                 "asic_serial": f"0x6F1F0A2B3C4D5E6{index}", "target_graphics_version": "gfx90a"},
        "bus": {"bdf": f"0000:8{index}:00.0", "max_pcie_width": 16, "max_pcie_speed": {"value": 16, "unit": "GT/s"},
                "pcie_interface_version": "Gen 4", "slot_type": "OAM"},
        "limit": {"max_power": {"value": 310, "unit": "W"}, "socket_power": {"value": 300, "unit": "W"}},
        "driver": {"name": "amdgpu", "version": "6.10.5"},
        "ras": {"ecc_block_state": {"UMC": "ENABLED", "SDMA": "ENABLED"}},
        "partition": {"compute_partition": "SPX", "memory_partition": "NPS1", "partition_id": 0},
        "numa": {"node": 1},
        "vram": {"type": "HBM", "size": {"value": 65520, "unit": "MB"}},
        "clock": {"sys": {"frequency_levels": {"Level 0": "500 MHz", "Level 2": "1700 MHz"}}, "dcef": "N/A"},
        **more,
    }  # fmt: skip


VERSION = json.dumps([{"tool": "AMDSMI Tool", "version": "24.6.2", "rocm_version": "6.1.2"}])
WANTED = {
    "gpu_count": 2, "gpu_vendor": "AMD", "gpu_model": "AMD Instinct MI210", "gpu_memory_mib": 65520, "gpu_ecc": True,
    "gpu_driver": "6.10.5", "gpu_rocm": "6.1.2", "gpu_cuda": None, "gpu_power_limit_w": 300.0,
    "gpu_clock_max_mhz": 1700, "gpu_pcie_generation": 4, "gpu_pcie_width": 16, "gpu_mig": None, "gpu_devices": 2,
    "gpu_partition": {"compute": "SPX", "memory": "NPS1"}, "gpu_virtualization": "bare_metal", "gpu_lost": [],
    "gpu_uuids": ["0x6F1F0A2B3C4D5E60", "0x6F1F0A2B3C4D5E61"], "gpu_persistence": None, "gpu_vgpu_profile": None,
}  # fmt: skip


@pytest.mark.parametrize("form", ["gpu_data", "list", "warning"])
def test_amd_gpus_by_amd_smi(tmp_path, form):
    both = [static_gpu(0), static_gpu(1)]
    text = json.dumps({"gpu_data": both} if form == "gpu_data" else both)
    text = f"WARNING: [fabric] user is not in the render group\n{text}" if form == "warning" else text
    found = facts(nodes.bare_metal(tmp_path), virt="none\n", **{"amd-smi static": text, "amd-smi version": VERSION})
    assert {name: found[name]["value"] for name in WANTED} == WANTED
    assert found["gpu_model"]["source"] == "amd-smi static --json"
    assert found["gpu_details"]["value"][1]["pci_address"] == "0000:81:00.0"
    json.dumps(found, allow_nan=False)


def test_other_forms_of_the_same_fields():
    other = static_gpu(
        3, vram={"size": "192 GB"}, clock="N/A", partition="N/A",
        ras={"ecc_block_state": [{"block": "UMC", "status": "DISABLED"}]},
        limit={"socket_power": {"value": 0, "unit": "W"}, "ppt0": {"socket_power_limit": {"value": 750, "unit": "W"}}},
        driver={"name": "amdgpu", "version": "Linuxversion6.14.0-24-generic(buildd@lcy02)(x86_64-linux-gnu-gcc-13)"},
    )  # fmt: skip
    (gpu,) = amd_smi.parse_static(json.dumps([other]))
    assert (gpu["memory_mib"], gpu["power_limit_w"], gpu["ecc"]) == (196608, 750.0, False)
    assert (gpu["clock_max_mhz"], gpu["compute_partition"], gpu["driver"]) == (None, None, "Linux 6.14.0-24-generic")
    (gpu,) = amd_smi.parse_static('{"gpu": 0, "asic": {"market_name": "N/A"}, "vram": {"size": "N/A"}, "ras": "N/A"}')
    assert (gpu["model"], gpu["memory_mib"], gpu["ecc"], gpu["power_limit_w"]) == (None, None, None, None)


def test_virtual_functions_and_whole_gpus_in_a_virtual_machine(tmp_path):
    function = static_gpu(0, asic={"market_name": "AMD Instinct MI300X VF"})
    system = nodes.virtual_machine(tmp_path)
    for gpu, mode in ((function, "vgpu"), (static_gpu(0), "passthrough")):
        found = facts(system, virt="kvm\n", **{"amd-smi static": json.dumps([gpu])})
        assert found["gpu_virtualization"]["value"] == mode


ROCM_5 = {
    "GPU ID": "0x740c", "Unique ID": "0x719d230578348e8c", "VBIOS version": "113-D65209-073", "PCI Bus": "0000:2F:00.0",
    "Max Graphics Package Power (W)": "560.0", "Card series": "AMD INSTINCT MI250 (MCM) OAM AC MBA",
    "Card model": "0x0b0c", "Valid sclk range": "500Mhz - 1700Mhz", "VRAM Total Memory (B)": "68702699520",
}  # fmt: skip
ROCM_6 = {
    "Device Name": "AMD INSTINCT MI250 (MCM) OAM AC MBA", "Device ID": "0x740c", "Subsystem ID": "0x0b0c",
    "Unique ID": "0x719d230578348e8c", "Max Graphics Package Power (W)": "560.0", "PCI Bus": "0000:2F:00.0",
    "Card Series": "AMD INSTINCT MI250 (MCM) OAM AC MBA", "GFX Version": "gfx9010", "Valid sclk range":
    "500Mhz - 1700Mhz", "VRAM Total Memory (B)": "68702699520", "Compute Partition": "SPX", "Memory Partition": "NPS1",
}  # fmt: skip


@pytest.mark.parametrize("card", [ROCM_5, ROCM_6], ids=["rocm5", "rocm6"])
def test_amd_gpus_by_rocm_smi(tmp_path, card):
    text = json.dumps({"card1": card, "card0": card, "system": {"Driver version": "6.2.4"}})
    nodes.write(nodes.bare_metal(tmp_path), {"/opt/rocm/.info/version": "6.2.4-120"})
    found = facts(tmp_path, virt="none\n", **{"rocm-smi": text})
    wanted = {
        "gpu_count": 2, "gpu_model": "AMD INSTINCT MI250 (MCM) OAM AC MBA", "gpu_memory_mib": 65520,
        "gpu_driver": "6.2.4", "gpu_rocm": "6.2.4-120", "gpu_power_limit_w": 560.0, "gpu_clock_max_mhz": 1700,
        "gpu_partition": {"compute": "SPX", "memory": "NPS1"} if card is ROCM_6 else None,
    }  # fmt: skip
    assert {name: found[name]["value"] for name in wanted} == wanted


def test_a_rocm_smi_that_does_not_know_partitions_is_asked_without_them(tmp_path):
    """As those of ROCm 5 do: argparse ends them with status 2, and says nothing on its first line."""

    def run(argv):
        if argv[0] != "rocm-smi":
            raise LookupError
        if "--showmemorypartition" in argv:
            raise Unreadable("rocm-smi ... ended with status 2: usage: rocm-smi [-h]", "rocm-smi")
        return json.dumps({"card0": {**ROCM_5, "Card series": "0x0b0c"}})

    found = expectations.facts(system=tmp_path, run=run)
    assert (found["gpu_count"]["value"], found["gpu_memory_mib"]["value"]) == (1, 65520)
    assert (found["gpu_model"]["value"], found["gpu_details"]["value"][0]["pci_device"]) == (None, "0x740c")


def test_of_a_partitioned_gpu_the_first_partition_tells(tmp_path):
    first = static_gpu(0, partition={"accelerator_partition": "CPX", "memory_partition": "NPS4", "partition_id": 0})
    others = [
        static_gpu(one, asic="N/A", partition={"accelerator_partition": "N/A", "memory_partition": "N/A"})
        for one in (1, 2, 3)
    ]
    for gpus_, value in (([first, *others], {"compute": "CPX", "memory": "NPS4"}), (others, None)):
        found = facts(nodes.bare_metal(tmp_path), virt="none\n", **{"amd-smi static": json.dumps(gpus_)})
        tmp_path = tmp_path / "again"
        assert found["gpu_partition"]["value"] == value
        assert found["gpu_devices"]["value"] == len(gpus_)
    assert found["gpu_uuids"]["value"] is None


def test_amd_gpus_without_a_tool_are_counted_on_the_bus_and_said(tmp_path):
    nodes.write(tmp_path, {
        "/sys/bus/pci/devices/0000:c1:00.0/vendor": "0x1002", "/sys/bus/pci/devices/0000:c1:00.0/class": "0x120000",
        "/sys/bus/pci/devices/0000:c1:00.0/device": "0x74a1", "/sys/module/amdgpu/version": "6.10.5",
    })  # fmt: skip
    found = facts(tmp_path, virt="none\n")
    assert found["gpu_count"]["value"] is None
    assert found["gpu_count"]["reason"].startswith(
        "1 AMD GPUs on the PCI bus, but no nvidia-smi on this node; no amd-smi"
    )
    assert found["gpu_driver"]["value"] == "6.10.5"
    assert list(found["gpu_pci_devices"]["value"]) == ["0000:c1:00.0"]


@pytest.mark.parametrize("text", ["", "{}", "[]", "[1]", '{"gpu_data": 3}', "no GPUs", '[{"asic": {}}]', "{" * 50])
def test_answers_that_are_none(tmp_path, text):
    with pytest.raises(ValueError, match=r"."):
        amd_smi.parse_rocm_smi(text)
    if text != "[]":
        with pytest.raises(ValueError, match=r"."):
            amd_smi.parse_static(text)
    found = facts(tmp_path, virt="none\n", **{"amd-smi static": text + " ", "rocm-smi": text + " "})
    assert found["gpu_count"]["value"] is None
    assert found["gpu_count"]["reason"]
