"""Virtual machines and containers, told by what cannot be left over from an image."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys

import pytest

from servegauge.node import cpuid, expectations
from tests.unit import made_up_nodes as nodes

CLOCK = "/sys/devices/system/clocksource/clocksource0/available_clocksource"
CPUINFO = "processor : 0\ncpu MHz : 2600.000\nflags : fpu avx hypervisor"


def facts(system, **commands):
    return expectations.facts(system=system, run=nodes.answers(**commands))


@pytest.mark.parametrize(
    ("files", "commands", "name"),
    [
        ({CLOCK: "tsc kvm-clock acpi_pm"}, {}, "kvm"),
        ({CLOCK: "hyperv_clocksource_tsc_page acpi_pm"}, {}, "microsoft"),
        ({CLOCK: "xen tsc"}, {}, "xen"),
        ({CLOCK: "tsc acpi_pm"}, {"cpuid": "VMwareVMware\n"}, "vmware"),
        ({}, {"cpuid": "KVMKVMKVM\n"}, "kvm"),
        ({}, {"cpuid": "Microsoft Hv\nKVMKVMKVM\n"}, "kvm"),  # KVM that imitates Hyper-V for a guest's sake
        ({}, {"cpuid": "Microsoft Hv\n"}, "microsoft"),
        ({"/sys/class/dmi/id/sys_vendor": "QEMU", CLOCK: "kvm-clock"}, {}, "kvm"),
        ({"/sys/class/dmi/id/sys_vendor": "QEMU"}, {}, "qemu"),
        ({}, {"cpuid": "SomethingNew\n"}, None),
        ({}, {}, None),
    ],
)
def test_the_hypervisor_without_systemd_detect_virt(tmp_path, files, commands, name):
    nodes.write(tmp_path, {"/proc/cpuinfo": CPUINFO, **files})
    found = facts(tmp_path, **commands)
    assert (found["machine"]["value"], found["hypervisor"]["value"]) == ("vm", name)
    assert found["machine_evidence"]["value"]["systemd_detect_virt"] is None


DMI = "/sys/class/dmi/id"
METAL = CPUINFO.replace(" hypervisor", "")
ARM = "processor : 0\nFeatures : asimd"


@pytest.mark.parametrize(
    ("cpu", "vendor", "product", "machine", "name"),
    [
        (CPUINFO, "Nutanix", "AHV", "vm", "kvm"),
        (METAL, "Nutanix", "NX-3155-G9", "bare_metal", None),
        (METAL, "XENON Technology Group", "RADON", "bare_metal", None),  # a maker of servers, not Xen
        (CPUINFO, "Xen", "HVM domU", "vm", "xen"),
        (CPUINFO, "VMware, Inc.", "VMware7,1", "vm", "vmware"),
        (CPUINFO, "KubeVirt", "None", "vm", "kvm"),
        (CPUINFO, "Google", "Google Compute Engine", "vm", "google"),
        (METAL, "Google", "Google Compute Engine", "bare_metal", None),
        (CPUINFO, "Amazon EC2", "p5.48xlarge", "vm", "amazon"),
        (METAL, "Amazon EC2", "g4dn.metal", "bare_metal", None),
        (ARM, "Amazon EC2", "c7g.16xlarge", None, None),
        (ARM, "QEMU", "KVM Virtual Machine", "vm", "qemu"),
    ],
)
def test_what_the_firmware_calls_the_machine(tmp_path, cpu, vendor, product, machine, name):
    nodes.write(tmp_path, {"/proc/cpuinfo": cpu, f"{DMI}/sys_vendor": vendor, f"{DMI}/product_name": product})
    found = facts(tmp_path)
    assert (found["machine"]["value"], found["hypervisor"]["value"]) == (machine, name)
    if machine is None:
        assert found["hypervisor"]["reason"] == found["machine"]["reason"]


def test_a_guests_clock_source_alone_makes_a_virtual_machine(tmp_path):
    nodes.write(tmp_path, {"/proc/cpuinfo": "processor : 0\nFeatures : asimd", CLOCK: "arch_sys_counter kvm-clock"})
    assert facts(tmp_path)["machine"]["value"] == "vm"


def test_bare_metal_has_clocks_of_its_own(tmp_path):
    nodes.bare_metal(tmp_path)
    found = facts(tmp_path, virt="none\n", cpuid="\n")
    assert (found["machine"]["value"], found["hypervisor"]["value"]) == ("bare_metal", None)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="CPUID is an instruction of x86")
def test_this_cpu_is_asked_in_a_process_of_its_own():
    done = subprocess.run([sys.executable, "-I", cpuid.__file__], capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()
    assert bool(said) == cpuid.has_hypervisor()
    if shutil.which("lscpu") and said and cpuid.name_of(said):
        listed = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout
        vendor = next((line.split()[-1].lower() for line in listed.splitlines() if "Hypervisor vendor" in line), None)
        assert vendor in (cpuid.name_of(said), None)


@pytest.mark.parametrize(
    ("flags", "value"), [("hypervisor", None), ("hypervisor aperfmperf", {"min": 2600.0, "max": 2600.0})]
)
def test_the_frequency_of_a_virtual_machine_is_no_clock(tmp_path, flags, value):
    nodes.write(tmp_path, {"/proc/cpuinfo": CPUINFO.replace("hypervisor", flags)})
    found = facts(tmp_path)["cpu_mhz"]
    assert found["value"] == value
    assert (found["reason"] or "no clock").endswith("no clock")


# ---------------------------------------------------------------- containers

DISK, LAYERS = "/dev/vda / ext4 rw 0 0", "overlay / overlay rw,lowerdir=/x:/y 0 0"
FIRST, OWN = "pid:[4026531836]", "pid:[4026532301]"
DOCKER_CGROUP = "0::/system.slice/docker-3f2a9c1b7d5e4f60.scope"


def contained(root, marks=(), namespace=None, mounts=None, cgroup=None):
    for name in marks:
        nodes.write(root, {name: ""})
    if namespace:
        (root / "proc/self/ns").mkdir(parents=True, exist_ok=True)
        os.symlink(namespace, root / "proc/self/ns/pid")
    nodes.write(root, {"/proc/self/mounts": mounts} if mounts else {})
    nodes.write(root, {"/proc/self/cgroup": cgroup} if cgroup else {})
    return root


@pytest.mark.parametrize(
    ("system", "said", "value"),
    [
        # a virtual machine that was made of a container's image: systemd-detect-virt believes the mark
        ({"marks": ["/.dockerenv"], "namespace": FIRST, "mounts": DISK}, "docker\n", "none"),
        ({"marks": ["/.singularity.d/runscript"], "namespace": FIRST, "mounts": DISK}, "none\n", "none"),
        ({"marks": ["/.dockerenv"], "namespace": OWN, "mounts": LAYERS}, None, "docker"),
        ({"marks": ["/.dockerenv"], "namespace": FIRST, "mounts": LAYERS}, None, "docker"),  # --pid=host
        ({"marks": ["/.dockerenv"], "namespace": OWN}, "docker\n", "docker"),
        ({"marks": ["/.dockerenv"], "cgroup": DOCKER_CGROUP}, None, "docker"),
        ({"marks": ["/run/.containerenv"], "namespace": OWN, "mounts": LAYERS}, None, "podman"),
        ({"marks": ["/.singularity.d/runscript"], "namespace": FIRST, "mounts": LAYERS}, "none\n", "apptainer"),
        ({"namespace": OWN, "mounts": LAYERS}, None, "container"),
        ({"cgroup": "0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-1.scope"}, None, "kubernetes"),
        ({"namespace": FIRST, "mounts": "overlay / overlay rw,lowerdir=/run/enroot/overlay/a 0 0"}, "none\n", "enroot"),
        # a diskless node: its root is layers, and no mark and no namespace says container
        ({"namespace": FIRST, "mounts": "tmpfs / tmpfs rw 0 0"}, "none\n", "none"),
        ({"namespace": FIRST, "mounts": LAYERS}, "none\n", "none"),
        ({"namespace": FIRST, "mounts": DISK, "cgroup": "0::/system.slice/docker.service"}, "none\n", "none"),
        ({"namespace": FIRST, "mounts": DISK}, None, "none"),
        # the mark alone is not enough, either way
        ({"marks": ["/.dockerenv"]}, None, None),
        ({"marks": ["/.dockerenv"]}, "docker\n", None),
        ({}, None, None),
    ],
)  # fmt: skip
def test_what_tells_a_container(tmp_path, system, said, value):
    found = facts(contained(tmp_path, **system), contained=said)["container"]
    assert found["value"] == value
    assert found["source"]
    assert (found["reason"] is None) == (value is not None)


def test_the_evidence_is_kept(tmp_path):
    contained(tmp_path, ["/.dockerenv"], FIRST, DISK)
    found = facts(tmp_path, contained="docker\n")["container_evidence"]["value"]
    assert found == {
        "marks": ["/.dockerenv"], "detect_virt": "docker", "own_pid_namespace": False, "root": "ext4 on /dev/vda",
        "layered_root": False, "words": None,
    }  # fmt: skip
