"""Facts of made-up nodes, and `expect:` held against them."""

from __future__ import annotations

import fnmatch
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servegauge.base.errors import UserError
from servegauge.node import expectations, nvidia_smi
from servegauge.node.reader import expand_list, run_command, short_list
from tests.unit import made_up_nodes as nodes


def values(system, **commands):
    """Fact -> value of a made-up node."""
    found = expectations.facts(system=system, run=nodes.answers(**commands))
    return {name: one["value"] for name, one in found.items()}


def test_this_machine_never_fails_and_says_why_for_each_null():
    found = expectations.facts()
    assert set(found) == set(expectations.FACT_NAMES)
    for name, one in found.items():
        assert set(one) == {"value", "source", "reason"}
        assert (one["value"] is None) == bool(one["reason"]), name
    assert found["cpu_count"]["value"] >= 1
    assert found["memory_mib"]["value"] > 100
    json.dumps(found, allow_nan=False)


def test_an_empty_node_is_all_nulls_with_reasons(tmp_path):
    found = expectations.facts(system=tmp_path)
    assert [name for name, one in found.items() if one["value"] is not None] == []
    assert all(one["reason"] for one in found.values())


@pytest.mark.parametrize("text", ["", "\0\0", "nonsense", "-1", "cpu x y", "processor : a\n\nprocessor : ", "é" * 50])
def test_garbage_in_every_file_makes_no_fact_fail(tmp_path, text):
    nodes.bare_metal(tmp_path)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            path.write_text(text)
    garbage = dict.fromkeys(("query", "topology", "peers", "listed", "virt"), text + "x")
    found = expectations.facts(system=tmp_path, run=nodes.answers(**garbage))
    assert all((one["value"] is None) == bool(one["reason"]) for one in found.values())
    json.dumps(found, allow_nan=False)


def test_bare_metal(tmp_path):
    found = values(
        nodes.bare_metal(tmp_path),
        query=nodes.smi_xml(nodes.gpu_xml(0), nodes.gpu_xml(1)),
        topology=nodes.TOPOLOGY,
        peers=nodes.PEERS,
        listed="GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-0)\n",
        virt="none\n",
    )
    wanted = {
        "machine": "bare_metal", "hypervisor": None, "container": "none", "hostname": "n042",
        "kernel": "5.14.0-503.el9",
        "os_name": "Rocky Linux 9.5 (Blue Onyx)", "architecture": "x86_64", "cpu_model": "Xeon 8480 (made up)",
        "cpu_family": "GenuineIntel 6 143 8", "cpu_count": 4, "cpu_cores": 2, "cpu_sockets": 2, "cpu_smt": True,
        "cpu_allowed": "0-1,3", "cpu_governor": "performance", "cpu_frequency_driver": "intel_pstate",
        "cpu_mhz_max": 3800.0, "cpu_mhz": {"min": 2000.5, "max": 2003.5}, "cpu_boost": True, "cpu_cache_kib": 107520,
        "cpu_isolated": "2-3", "cpu_mitigations": {"meltdown": "Not affected"}, "steal_since_boot": 0.04,
        "numa_nodes": 2, "numa_cpus": {"0": "0,2", "1": "1,3"}, "numa_distances": [[10, 21], [21, 10]],
        "numa_balancing": 1, "memory_mib": 2048, "memory_available_mib": 1024, "swap_mib": 0, "huge_pages": 16,
        "huge_page_kib": 2048, "transparent_huge_pages": "madvise", "cgroup_version": "2", "cgroup_cpus": 1.5,
        "cgroup_memory_mib": 1024, "cgroup_cpuset": "0-1,3", "clock_source": "tsc", "load_average": [0.5, 1.25, 2.0],
        "uptime_s": 1234.5, "iommu_groups": 2, "iommu_gpu_groups": {"0000:18:00.0": 12},
        "gpu_count": 2, "gpu_model": "NVIDIA H100 80GB HBM3", "gpu_memory_mib": 81559, "gpu_driver": "550.90.07",
        "gpu_cuda": "12.4", "gpu_ecc": True, "gpu_power_limit_w": 700.0, "gpu_clock_max_mhz": 1980,
        "gpu_pcie_generation": 5, "gpu_pcie_width": 16, "gpu_persistence": True, "gpu_compute_mode": "Default",
        "gpu_mig": False, "gpu_mig_profiles": None, "gpu_vgpu_profile": None, "gpu_vgpu_licensed": None,
        "gpu_virtualization": "bare_metal", "gpu_slowest_link": "NV18", "gpu_peer_access": True,
        "gpu_cpu_affinity": {"GPU0": "0-31,64-95", "GPU1": "32-63,96-127"}, "gpu_numa": {"GPU0": "0", "GPU1": "1"},
    }  # fmt: skip
    assert {name: found[name] for name in wanted} == wanted
    assert found["network_interfaces"]["eno1"] == {"state": "up", "speed_mbit": 25000, "mtu": 1500, "driver": None}
    assert found["network_interfaces"]["eno2"]["speed_mbit"] is None
    assert found["infiniband"]["mlx5_0/1"]["rate"] == "400 Gb/sec (4X NDR)"
    assert found["gpu_topology"]["links"]["GPU0"] == {"GPU0": "X", "GPU1": "NV18", "NIC0": "PIX"}
    assert found["gpu_topology"]["network_cards"] == {"NIC0": "mlx5_0"}
    assert list(found["gpu_pci_devices"]) == ["0000:18:00.0"]
    assert found["gpu_uuids"] == [f"GPU-00000000-0000-0000-0000-00000000000{index}" for index in (0, 1)]


def test_vgpu_guest(tmp_path):
    gpu = nodes.gpu_xml(product="NVIDIA H100XM-80C", mode="VGPU", license_lines=nodes.LICENSED, mig="N/A")
    system = nodes.virtual_machine(tmp_path)
    found = values(
        system, query=nodes.smi_xml(gpu, gpu), topology=nodes.GUEST_TOPOLOGY, peers=nodes.NO_PEERS, virt="kvm\n"
    )
    wanted = {
        "machine": "vm", "hypervisor": "kvm", "gpu_virtualization": "vgpu", "gpu_vgpu_profile": "H100XM-80C",
        "gpu_vgpu_licensed": True, "gpu_vgpu_product": "NVIDIA Virtual Compute Server", "gpu_mig": False,
        "gpu_slowest_link": "PHB", "gpu_peer_access": False, "gpu_cpu_affinity": None, "gpu_numa": None,
        "cpu_governor": None, "cpu_mhz_max": None, "cgroup_version": "1", "cgroup_memory_mib": 512,
        "cgroup_cpuset": "0-1", "cgroup_cpus": None,
    }  # fmt: skip
    assert {name: found[name] for name in wanted} == wanted
    whole = expectations.facts(system=system, run=nodes.answers(query=nodes.smi_xml(gpu), virt="kvm\n"))
    assert "VGPU" in whole["gpu_virtualization"]["source"]
    assert whole["gpu_virtualization_evidence"]["value"]["machine"] == "vm"
    assert whole["gpu_virtualization_evidence"]["value"]["pci"] == {"00000000:18:00.0": ["233010DE", "16C110DE"]}
    assert whole["gpu_topology"]["reason"] == "no nvidia-smi on this node"


@pytest.mark.parametrize(
    ("machine", "mode", "product", "virt", "decided"),
    [
        ("bare", "None", "NVIDIA H100 80GB HBM3", "none\n", "bare_metal"),
        ("bare", "N/A", "NVIDIA H100 80GB HBM3", "none\n", "bare_metal"),
        ("vm", "Pass-Through", "NVIDIA H100 80GB HBM3", "kvm\n", "passthrough"),
        ("vm", "None", "NVIDIA H100 80GB HBM3", "kvm\n", "passthrough"),  # the driver was not told
        ("bare", "Pass-Through", "NVIDIA H100 80GB HBM3", "none\n", "passthrough"),  # a hypervisor that hides itself
        ("vm", "N/A", "GRID A100X-40C", None, "vgpu"),
        ("vm", "VGPU", "NVIDIA A100-1-5CME", "vmware\n", "vgpu"),
        ("bare", "Host VGPU", "NVIDIA A40", "none\n", "vgpu_host"),
        ("bare", "Quantum", "NVIDIA A40", None, "bare_metal"),  # unknown word, and no sign of a hypervisor
    ],
)
def test_how_gpus_are_virtualized(tmp_path, machine, mode, product, virt, decided):
    system = nodes.virtual_machine(tmp_path) if machine == "vm" else nodes.bare_metal(tmp_path)
    gpu = nodes.gpu_xml(product=product, mode=mode)
    assert values(system, query=nodes.smi_xml(gpu), virt=virt)["gpu_virtualization"] == decided


def test_mig(tmp_path):
    gpu = nodes.gpu_xml(mig="Enabled", mig_devices=nodes.MIG_DEVICES)
    found = values(nodes.bare_metal(tmp_path), query=nodes.smi_xml(gpu), listed=nodes.MIG_LIST, virt="none\n")
    assert found["gpu_mig"] is True
    assert found["gpu_mig_profiles"] == ["3g.40gb"]
    assert found["gpu_details"][0]["mig_devices"] == [
        {"index": 0, "gpu_instance": 1, "compute_instance": 0, "multiprocessors": 60, "memory_mib": 40448, "uuid": None}
    ]


def test_gpus_that_differ_are_a_list(tmp_path):
    gpus = nodes.smi_xml(nodes.gpu_xml(0), nodes.gpu_xml(1, product="NVIDIA A40", clock="N/A"))
    found = values(nodes.bare_metal(tmp_path), query=gpus, virt="none\n")
    assert found["gpu_model"] == ["NVIDIA H100 80GB HBM3", "NVIDIA A40"]
    assert found["gpu_clock_max_mhz"] == [1980, None]


def test_one_gpu_has_no_link_and_an_unlicensed_vgpu_says_so(tmp_path):
    gpu = nodes.gpu_xml(product="GRID V100D-16Q", mode="VGPU", license_lines=nodes.UNLICENSED)
    topology = "\tGPU0\tCPU Affinity\tNUMA Affinity\nGPU0\t X \t\t0\n"
    found = values(nodes.virtual_machine(tmp_path), query=nodes.smi_xml(gpu), topology=topology, virt="kvm\n")
    assert found["gpu_slowest_link"] is None
    assert found["gpu_vgpu_licensed"] is False
    assert found["gpu_numa"] == {"GPU0": "0"}


def test_the_driver_is_found_without_nvidia_smi_and_newer_drivers_move_cuda(tmp_path):
    nodes.write(nodes.bare_metal(tmp_path), {
        "/proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.82.07  Release"
    })  # fmt: skip
    assert values(tmp_path)["gpu_driver"] == "580.82.07"
    moved = nodes.smi_xml(nodes.gpu_xml(), cuda='Deprecated, see "cuda_umd_version" instead')
    moved = moved.replace("<attached_gpus>", "<cuda_umd_version>13.1</cuda_umd_version><attached_gpus>")
    assert values(tmp_path, query=moved)["gpu_cuda"] == "13.1"


@pytest.mark.parametrize(
    ("flag", "virt", "vendor", "decided"),
    [
        (True, None, None, "vm"),
        (False, "none\n", None, "bare_metal"),
        (False, None, "Amazon EC2", "bare_metal"),
        (False, "microsoft\n", None, "vm"),
        (False, "none\n", "VMware, Inc.", "vm"),
        (None, None, "Amazon EC2", None),  # an ARM guest: DMI alone does not decide
        (None, None, "QEMU", "vm"),
    ],
)
def test_machine_or_virtual(tmp_path, flag, virt, vendor, decided):
    words = {True: "flags : fpu hypervisor avx", False: "flags : fpu avx", None: "Features : asimd"}[flag]
    nodes.write(tmp_path, {"/proc/cpuinfo": f"processor : 0\n{words}"})
    if vendor:
        nodes.write(tmp_path, {"/sys/class/dmi/id/sys_vendor": vendor})
    found = expectations.facts(system=tmp_path, run=nodes.answers(virt=virt))["machine"]
    assert found["value"] == decided
    assert found["source"]


def test_topology_without_affinity_columns_and_broken_ones():
    assert nvidia_smi.parse_matrix(nodes.PEERS)["rows"]["GPU1"] == {"GPU0": "OK", "GPU1": "X"}
    with pytest.raises(ValueError, match="does not fit the columns"):
        nvidia_smi.parse_matrix("\tGPU0\tGPU1\nGPU0\tX\n")
    with pytest.raises(ValueError, match="no matrix"):
        nvidia_smi.parse_matrix("No devices were found\n")


def test_a_command_that_fails_hangs_or_is_absent():
    for argv, said in ((["no-such-command-here"], "no no-such-command-here"), (["false"], "status 1"),
                       (["sleep", "5"], "no answer in 0.1 s")):  # fmt: skip
        with pytest.raises(expectations.Unreadable, match=said):
            run_command(argv, timeout_s=0.1)


@given(st.sets(st.integers(0, 300)))
@settings(max_examples=50, deadline=None)
def test_list_notation_round_trip(numbers):
    assert set(expand_list(short_list(numbers))) == numbers


def test_the_documentation_names_every_fact(repository):
    text = (repository / "docs" / "provenance.md").read_text(encoding="utf-8")
    patterns = re.findall(r"`([a-z][a-z0-9_*]+)`", text)
    assert [name for name in expectations.FACT_NAMES if not any(fnmatch.fnmatch(name, one) for one in patterns)] == []


# ---------------------------------------------------------------- expect

FOUND = {
    "gpu_count": {"value": 4, "source": "s", "reason": None},
    "gpu_model": {"value": "NVIDIA H100 80GB HBM3", "source": "s", "reason": None},
    "gpu_cuda": {"value": "12.4", "source": "s", "reason": None},
    "gpu_mig": {"value": False, "source": "s", "reason": None},
    "gpu_uuids": {"value": ["GPU-1", "GPU-2"], "source": "s", "reason": None},
    "cpu_governor": {"value": None, "source": "s", "reason": "no frequency control"},
}


@pytest.mark.parametrize(
    "expect",
    [{}, None, {"gpu_count": 4}, {"gpu_count": 4.0}, {"gpu_count": [2, 4]}, {"gpu_count": {"min": 4, "max": 4}},
     {"gpu_model": {"matches": "H100"}}, {"gpu_model": ["A", "NVIDIA H100 80GB HBM3"]}, {"gpu_cuda": 12.4},
     {"gpu_mig": False}, {"gpu_uuids": ["GPU-1", "GPU-2"]}, {"gpu_uuids": {"matches": "^GPU-"}},
     {"cpu_governor": None}],
)  # fmt: skip
def test_as_expected(expect):
    assert expectations.mismatches(expect, FOUND) == []


@pytest.mark.parametrize(
    ("expect", "said"),
    [
        ({"gpu_count": 8}, "gpu_count: expected 8, found 4 (read from s)"),
        ({"gpu_count": [1, 2]}, "gpu_count: expected one of 1, 2, found 4 (read from s)"),
        ({"gpu_count": {"min": 5}}, "gpu_count: expected at least 5, found 4 (read from s)"),
        ({"gpu_count": {"min": 1, "max": 3}}, "gpu_count: expected at least 1 and at most 3, found 4 (read from s)"),
        ({"gpu_count": True}, "gpu_count: expected True, found 4 (read from s)"),
        ({"gpu_mig": 0}, "gpu_mig: expected 0, found False (read from s)"),
        ({"gpu_model": {"matches": "A100"}},
         "gpu_model: expected a text that matches 'A100', found 'NVIDIA H100 80GB HBM3' (read from s)"),
        ({"gpu_model": {"min": 3}}, "gpu_model: expected at least 3, found 'NVIDIA H100 80GB HBM3' (read from s)"),
        ({"gpu_model": None}, "gpu_model: expected none, found 'NVIDIA H100 80GB HBM3' (read from s)"),
        ({"gpu_uuids": {"matches": "1$"}},
         "gpu_uuids: expected a text that matches '1$', found ['GPU-1', 'GPU-2'] (read from s)"),
        ({"cpu_governor": "performance"},
         "cpu_governor: expected 'performance', but it could not be read: no frequency control"),
        ({"cpu_governor": {"matches": "perf"}},
         "cpu_governor: expected a text that matches 'perf', but it could not be read: no frequency control"),
        ({"cpu_count": 2}, "cpu_count: expected 2, but it could not be read: was not read"),
    ],
)  # fmt: skip
def test_not_as_expected(expect, said):
    assert expectations.mismatches(expect, FOUND) == [said]


@pytest.mark.parametrize(
    ("expect", "said"),
    [
        ({"gpu_cuont": 4}, "Did you mean 'gpu_count'"),
        ({"gpu_count": {"minimum": 4}}, "unknown condition 'minimum'. Did you mean 'min'"),
        ({"gpu_count": {"min": "4"}}, "expected a number, found '4'"),
        ({"gpu_count": {"min": 4, "max": 2}}, "min 4 is above max 2"),
        ({"gpu_count": {}}, "no condition given"),
        ({"gpu_model": {"matches": "("}}, "no regular expression"),
        ([1], "expected a mapping"),
    ],
)
def test_what_expect_may_say(expect, said):
    with pytest.raises(UserError, match=r".*") as raised:
        expectations.check_expect(expect, "config/platforms/x.yaml: expect")
    assert said in str(raised.value)
    assert "config/platforms/x.yaml: expect" in str(raised.value)


# ---------------------------------------------------------------- steal

STAT = "cpu {} 0 0 {} 0 0 0 {} 0 0\ncpu0 {} 0 0 {} 0 0 0 {} 0 0\n"


def test_steal_between_two_samples(tmp_path):
    nodes.write(tmp_path, {"/proc/stat": STAT.format(100, 100, 0, 100, 100, 0)})
    before = expectations.cpu_sample(tmp_path)
    nodes.write(tmp_path, {"/proc/stat": STAT.format(150, 130, 20, 150, 130, 20)})
    found = expectations.steal_between(before, expectations.cpu_sample(tmp_path))
    assert found == {"steal": 0.2, "busy": pytest.approx(0.7), "by_cpu": {"cpu0": 0.2}, "reason": None}


def test_steal_is_null_without_samples_or_time(tmp_path):
    nodes.write(tmp_path, {"/proc/stat": STAT.format(1, 1, 1, 1, 1, 1)})
    one = expectations.cpu_sample(tmp_path)
    assert expectations.steal_between(one, one)["steal"] is None
    assert expectations.steal_between(None, one)["reason"]
    assert expectations.cpu_sample(tmp_path / "none") is None
