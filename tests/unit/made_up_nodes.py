"""Made-up nodes: /proc and /sys trees and nvidia-smi's answers, written by us in the documented formats.

None of them was taken from hardware: names, ids and numbers are invented, the shapes are those of nvidia-smi's
published XML (nvsmi_device v12) and of proc(5) and sysfs.
"""

from __future__ import annotations

from pathlib import Path

from servegauge.node.reader import Unreadable

FLAGS = "fpu vme tsc msr apic sse4_2 avx avx2 f16c fma avx512f avx512_vnni amx_bf16"


def write(root: Path, files: dict[str, str]) -> None:
    """Write files below `root`, making folders."""
    for name, text in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def bare_metal(root: Path, cpus: int = 4) -> Path:
    """Two sockets, two NUMA nodes, SMT on, performance governor, cgroup v2, an NVIDIA device in an IOMMU group."""
    cpuinfo = "\n\n".join(
        f"processor\t: {cpu}\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\n"
        f"model name\t: Xeon 8480 (made up)\nstepping\t: 8\nmicrocode\t: 0x2b\n"
        f"cpu MHz\t\t: {2000 + cpu}.5\nflags\t\t: {FLAGS}"
        for cpu in range(cpus)
    )
    write(root, {
        "/proc/cpuinfo": cpuinfo,
        "/proc/meminfo": "MemTotal: 2097152 kB\nMemAvailable: 1048576 kB\nSwapTotal: 0 kB\n"
        "HugePages_Total: 16\nHugepagesize: 2048 kB",
        "/proc/stat": "cpu 100 0 50 800 10 0 0 40 0 0\ncpu0 50 0 25 400 5 0 0 20 0 0\nintr 1",
        "/proc/uptime": "1234.5 2000.0",
        "/proc/loadavg": "0.50 1.25 2.00 1/200 4242",
        "/proc/cmdline": "BOOT_IMAGE=/vmlinuz iommu=pt",
        "/proc/self/cgroup": "0::/system.slice/slurmstepd.scope/job_7/step_0",
        "/proc/self/status": "Name:\tx\nCpus_allowed_list:\t0-1,3",
        "/proc/sys/kernel/hostname": "n042",
        "/proc/sys/kernel/osrelease": "5.14.0-503.el9",
        "/proc/sys/kernel/version": "#1 SMP PREEMPT_DYNAMIC",
        "/proc/sys/kernel/arch": "x86_64",
        "/proc/sys/kernel/numa_balancing": "1",
        "/etc/os-release": 'NAME="Rocky"\nPRETTY_NAME="Rocky Linux 9.5 (Blue Onyx)"',
        "/sys/devices/system/cpu/online": f"0-{cpus - 1}",
        "/sys/devices/system/cpu/isolated": "2-3",
        "/sys/devices/system/cpu/smt/active": "1",
        "/sys/devices/system/cpu/intel_pstate/no_turbo": "0",
        "/sys/devices/system/cpu/vulnerabilities/meltdown": "Not affected",
        "/sys/devices/system/cpu/cpu0/cache/index3/size": "105M",
        "/sys/devices/system/cpu/cpu0/cache/index0/size": "48K",
        "/sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc",
        "/sys/devices/system/clocksource/clocksource0/available_clocksource": "tsc hpet acpi_pm",
        "/sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never",
        "/sys/class/dmi/id/sys_vendor": "Dell Inc.",
        "/sys/class/dmi/id/product_name": "PowerEdge XE9680",
        "/sys/class/net/eno1/speed": "25000",
        "/sys/class/net/eno1/operstate": "up",
        "/sys/class/net/eno1/mtu": "1500",
        "/sys/class/net/eno2/speed": "-1",
        "/sys/class/net/eno2/operstate": "down",
        "/sys/class/net/eno2/mtu": "1500",
        "/sys/class/infiniband/mlx5_0/fw_ver": "28.39",
        "/sys/class/infiniband/mlx5_0/ports/1/rate": "400 Gb/sec (4X NDR)",
        "/sys/class/infiniband/mlx5_0/ports/1/state": "4: ACTIVE",
        "/sys/class/infiniband/mlx5_0/ports/1/link_layer": "InfiniBand",
        "/sys/fs/cgroup/cgroup.controllers": "cpuset cpu memory",
        "/sys/fs/cgroup/cpuset.cpus.effective": "0-3",
        "/sys/fs/cgroup/system.slice/memory.max": "max",
        "/sys/fs/cgroup/system.slice/slurmstepd.scope/job_7/memory.max": "1073741824",
        "/sys/fs/cgroup/system.slice/slurmstepd.scope/job_7/cpu.max": "150000 100000",
        "/sys/fs/cgroup/system.slice/slurmstepd.scope/job_7/step_0/memory.max": "2147483648",
        "/sys/fs/cgroup/system.slice/slurmstepd.scope/job_7/step_0/cpuset.cpus.effective": "0-1,3",
        "/sys/kernel/iommu_groups/7/type": "DMA",
        "/sys/kernel/iommu_groups/12/type": "DMA",
        "/sys/bus/pci/devices/0000:18:00.0/vendor": "0x10de",
        "/sys/bus/pci/devices/0000:18:00.0/class": "0x030200",
        "/sys/bus/pci/devices/0000:18:00.0/device": "0x2330",
        "/sys/bus/pci/devices/0000:18:00.0/subsystem_device": "0x16c1",
        "/sys/bus/pci/devices/0000:18:00.0/numa_node": "0",
        "/sys/bus/pci/devices/0000:19:00.0/vendor": "0x8086",
        "/sys/bus/pci/devices/0000:19:00.0/class": "0x030000",
    })  # fmt: skip
    for cpu in range(cpus):
        folder = f"/sys/devices/system/cpu/cpu{cpu}"
        pair = cpu % (cpus // 2)
        write(root, {
            f"{folder}/topology/thread_siblings_list": f"{pair},{pair + cpus // 2}",
            f"{folder}/topology/physical_package_id": str(pair),
            f"{folder}/cpufreq/scaling_governor": "performance",
            f"{folder}/cpufreq/scaling_driver": "intel_pstate",
            f"{folder}/cpufreq/cpuinfo_max_freq": "3800000",
        })  # fmt: skip
    for node in range(2):
        write(root, {
            f"/sys/devices/system/node/node{node}/cpulist": f"{node},{node + 2}",
            f"/sys/devices/system/node/node{node}/distance": "10 21" if node == 0 else "21 10",
        })  # fmt: skip
    (root / "sys/bus/pci/devices/0000:18:00.0/iommu_group").symlink_to("../../../../kernel/iommu_groups/12")
    return root


def virtual_machine(root: Path) -> Path:
    """The same machine as a KVM guest: hypervisor flag, DMI of QEMU, no frequency control; cgroup v1."""
    bare_metal(root)
    text = (root / "proc/cpuinfo").read_text().replace(" apic ", " apic hypervisor ")
    for cpu in range(4):
        for name in ("scaling_governor", "scaling_driver", "cpuinfo_max_freq"):
            (root / f"sys/devices/system/cpu/cpu{cpu}/cpufreq/{name}").unlink()
    (root / "sys/fs/cgroup/cgroup.controllers").unlink()
    write(root, {
        "/proc/cpuinfo": text,
        "/sys/class/dmi/id/sys_vendor": "QEMU",
        "/sys/class/dmi/id/product_name": "Standard PC (Q35 + ICH9, 2009)",
        "/proc/self/cgroup": "5:memory:/slurm/uid_7/job_9\n4:cpuset:/slurm/uid_7/job_9\n"
        "3:cpu,cpuacct:/\n1:name=systemd:/x",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
        "/sys/fs/cgroup/memory/slurm/uid_7/job_9/memory.limit_in_bytes": str(512 * 2**20),
        "/sys/fs/cgroup/cpuset/slurm/uid_7/job_9/cpuset.cpus": "0-1",
        "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
    })  # fmt: skip
    return root


def gpu_xml(
    index: int = 0,
    product: str = "NVIDIA H100 80GB HBM3",
    mode: str = "None",
    mig: str = "Disabled",
    mig_devices: str = "None",
    license_lines: str = "",
    memory: str = "81559 MiB",
    clock: str = "1980 MHz",
) -> str:
    """One <gpu> element, as drivers 535 to 580 write it."""
    return f"""
	<gpu id="0000000{index}:18:00.0">
		<product_name>{product}</product_name>
		<product_architecture>Hopper</product_architecture>
		<persistence_mode>Enabled</persistence_mode>
		<addressing_mode>None</addressing_mode>
		<mig_mode>
			<current_mig>{mig}</current_mig>
			<pending_mig>{mig}</pending_mig>
		</mig_mode>
		<mig_devices>
			{mig_devices}
		</mig_devices>
		<serial>1650000000000</serial>
		<uuid>GPU-00000000-0000-0000-0000-00000000000{index}</uuid>
		<vbios_version>96.00.74.00.01</vbios_version>
		<gpu_virtualization_mode>
			<virtualization_mode>{mode}</virtualization_mode>
			<host_vgpu_mode>N/A</host_vgpu_mode>
			<vgpu_heterogeneous_mode>N/A</vgpu_heterogeneous_mode>
		</gpu_virtualization_mode>
		{license_lines}
		<gsp_firmware_version>550.90.07</gsp_firmware_version>
		<pci>
			<pci_device_id>233010DE</pci_device_id>
			<pci_bus_id>0000000{index}:18:00.0</pci_bus_id>
			<pci_sub_system_id>16C110DE</pci_sub_system_id>
			<pci_gpu_link_info>
				<pcie_gen>
					<max_link_gen>5</max_link_gen>
					<current_link_gen>1</current_link_gen>
				</pcie_gen>
				<link_widths>
					<max_link_width>16x</max_link_width>
					<current_link_width>16x</current_link_width>
				</link_widths>
			</pci_gpu_link_info>
		</pci>
		<fb_memory_usage>
			<total>{memory}</total>
			<reserved>551 MiB</reserved>
			<used>0 MiB</used>
			<free>81007 MiB</free>
		</fb_memory_usage>
		<compute_mode>Default</compute_mode>
		<ecc_mode>
			<current_ecc>Enabled</current_ecc>
			<pending_ecc>Enabled</pending_ecc>
		</ecc_mode>
		<gpu_power_readings>
			<current_power_limit>700.00 W</current_power_limit>
			<default_power_limit>700.00 W</default_power_limit>
		</gpu_power_readings>
		<applications_clocks>
			<graphics_clock>N/A</graphics_clock>
		</applications_clocks>
		<max_clocks>
			<sm_clock>{clock}</sm_clock>
			<mem_clock>2619 MHz</mem_clock>
		</max_clocks>
		<fabric>
			<state>Completed</state>
		</fabric>
	</gpu>"""


def smi_xml(*gpus: str, driver: str = "550.90.07", cuda: str = "12.4") -> str:
    """The whole document of `nvidia-smi -q -x`."""
    return f"""<?xml version="1.0" ?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">
<nvidia_smi_log>
	<timestamp>Sat Nov 21 12:00:00 2026</timestamp>
	<driver_version>{driver}</driver_version>
	<cuda_version>{cuda}</cuda_version>
	<attached_gpus>{len(gpus)}</attached_gpus>{"".join(gpus)}
</nvidia_smi_log>
"""


LICENSED = """<vgpu_software_licensed_product>
			<licensed_product_name>NVIDIA Virtual Compute Server</licensed_product_name>
			<license_status>Licensed (Expiry: 2026-12-1 7:29:4 GMT)</license_status>
		</vgpu_software_licensed_product>"""
UNLICENSED = LICENSED.replace("Licensed (Expiry: 2026-12-1 7:29:4 GMT)", "Unlicensed (Unrestricted)")

MIG_DEVICES = """<mig_device>
				<index>0</index>
				<gpu_instance_id>1</gpu_instance_id>
				<compute_instance_id>0</compute_instance_id>
				<device_attributes>
					<shared>
						<multiprocessor_count>60</multiprocessor_count>
					</shared>
				</device_attributes>
				<fb_memory_usage>
					<total>40448 MiB</total>
				</fb_memory_usage>
			</mig_device>"""
MIG_LIST = """GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-00000000-0000-0000-0000-000000000000)
  MIG 3g.40gb     Device  0: (UUID: MIG-11111111-1111-1111-1111-111111111111)
"""

LEGEND = "\nLegend:\n\n  X    = Self\n  NV#  = Connection traversing a bonded set of # NVLinks\n"
# Some drivers underline the header with terminal codes, even into a pipe
TOPOLOGY = (
    "\t\x1b[4mGPU0\tGPU1\tNIC0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\x1b[0m\n"
    "GPU0\t X \tNV18\tPIX\t0-31,64-95\t0\t\tN/A\n"
    "GPU1\tNV18\t X \tSYS\t32-63,96-127\t1\t\tN/A\n"
    "NIC0\tPIX\tSYS\t X \t\t\t\t\n" + LEGEND + "\nNIC Legend:\n\n  NIC0: mlx5_0\n\n"
)
# In a guest the affinity columns are often empty, and the links go through the virtual host bridge
GUEST_TOPOLOGY = (
    "\tGPU0\tGPU1\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\n"
    "GPU0\t X \tPHB\t\t\t\tN/A\n"
    "GPU1\tPHB\t X \t\t\t\tN/A\n" + LEGEND
)
PEERS = " \tGPU0\tGPU1\t\n GPU0\tX\tOK\t\n GPU1\tOK\tX\t\n\nLegend:\n\n  X    = Self\n  OK   = Status Ok\n"
NO_PEERS = PEERS.replace("\tOK\t", "\tCNS\t")


def answers(**given: str | None):
    """A `run` for platform.facts: nvidia-smi's query, topology, peers and listed; systemd-detect-virt's virt.

    Further answers by the command's own name: `cpuid`, `contained` (systemd-detect-virt --container), `amd-smi static`,
    `amd-smi version`, `rocm-smi`.
    """
    commands = {
        ("nvidia-smi", "-q", "-x"): given.get("query"),
        ("nvidia-smi", "topo", "-m"): given.get("topology"),
        ("nvidia-smi", "topo", "-p2p", "r"): given.get("peers"),
        ("nvidia-smi", "-L"): given.get("listed"),
        ("systemd-detect-virt", "--vm"): given.get("virt"),
        ("systemd-detect-virt", "--container"): given.get("contained") or ("none\n" if given.get("virt") else None),
    }

    def run(argv: list[str]) -> str:
        if argv[-1].endswith("cpuid.py"):
            answer = given.get("cpuid")
        elif argv[0] in ("amd-smi", "rocm-smi"):
            answer = given.get(f"{argv[0]} {argv[1]}" if argv[0] == "amd-smi" else argv[0])
        else:
            answer = commands[tuple(argv)]
        if answer is None:
            raise Unreadable(f"no {argv[0]} on this node", argv[0])
        if answer == "none\n":  # what the real command does, as run_command reports it
            raise Unreadable(f"{' '.join(argv)} ended with status 1: none", argv[0])
        return answer

    return run
