"""NVML's answers, as recorded and as documented, from a module that stands in for pynvml."""

from __future__ import annotations

import os
from io import FileIO
from types import SimpleNamespace

import pyarrow as pa
import pytest

from servegauge.contract.cell_tables import GPU_RAW
from servegauge.contract.flag import CellCase
from servegauge.contract.flag_registry import gpu_shared
from servegauge.contract.flags import thresholds_of
from servegauge.launch.recorders import gpu_sample
from servegauge.node import nvml, process_tree
from servegauge.node.nvml import NvmlReader

# An H100 of a virtual machine under load; by the documented units: mW, mJ, per cent, bytes, KiB of NVLink
H100 = {
    "UUID": b"GPU-0", "Clock": {1: 1980, 2: 2619}, "Temperature": 41, "Utilization": (45, 12), "Used": 79 * 2**30,
    "Reasons": 0x4, "Energy": 8_301_123, "PowerUsage": 301_000, "Ecc": {0: 2, 1: 0}, "pids": [os.getpid()],
    "fields": {185: (1, 298_500), 186: (1, 310_250), 197: (3, 5 * 10**12), 198: (3, 7 * 10**11), 138: 3, 139: 3},
}  # fmt: skip


class Fake:
    """The functions of pynvml on one GPU each of `gpus`; an answer that is a text is an error with these words."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU, NVML_VOLATILE_ECC = 1, 2, 0, 0
    NVML_MEMORY_ERROR_TYPE_CORRECTED, NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 0, 1

    class NVMLError(Exception):
        def __str__(self) -> str:
            return {3: "Not Supported", 4: "Insufficient Permissions"}.get(self.args[0], str(self.args[0]))

    def __init__(self, *gpus: dict) -> None:
        self.gpus, self.asked, self.ended = gpus, [], False

    def answer(self, handle: int, name: str, key: int | None = None):
        self.asked.append(name)
        value = self.gpus[handle][name]
        value = value[key] if isinstance(value, dict) else value
        if isinstance(value, str):
            raise self.NVMLError(value)
        return value

    def nvmlInit(self) -> None:
        pass

    def nvmlShutdown(self) -> None:
        self.ended = True

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUUID(self, handle: int):
        return self.answer(handle, "UUID")

    def nvmlDeviceGetClockInfo(self, handle: int, kind: int):
        return self.answer(handle, "Clock", kind)

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int):
        return self.answer(handle, "Temperature")

    def nvmlDeviceGetUtilizationRates(self, handle: int):
        gpu, memory = self.answer(handle, "Utilization")
        return SimpleNamespace(gpu=gpu, memory=memory)

    def nvmlDeviceGetMemoryInfo(self, handle: int):
        return SimpleNamespace(used=self.answer(handle, "Used"))

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: int):
        return self.answer(handle, "Reasons")

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int):
        return self.answer(handle, "Energy")

    def nvmlDeviceGetPowerUsage(self, handle: int):
        return self.answer(handle, "PowerUsage")

    def nvmlDeviceGetTotalEccErrors(self, handle: int, kind: int, counter: int):
        return self.answer(handle, "Ecc", kind)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int):
        return [SimpleNamespace(pid=pid) for pid in self.answer(handle, "pids")]

    def nvmlDeviceGetFieldValues(self, handle: int, fields: list):
        if isinstance(self.gpus[handle]["fields"], str):
            raise self.NVMLError(self.gpus[handle]["fields"])
        told = []
        for number, scope in fields:
            assert scope == (nvml.ALL_LINKS if number in (138, 139) else 0)
            value = self.gpus[handle]["fields"][number]
            if isinstance(value, int):
                told.append(SimpleNamespace(nvmlReturn=value, valueType=0, value=None))
            else:
                kind, amount = value
                values = SimpleNamespace(**{nvml.VALUES[kind]: amount})
                told.append(SimpleNamespace(nvmlReturn=0, valueType=kind, value=values))
        return told


def test_a_gpu_under_load():
    reader = NvmlReader(os.getpid(), Fake(H100))
    reader.read()
    (row,) = reader.rows
    assert row.pop("t_ns") > 0
    assert row == {
        "gpu": 0, "uuid": "GPU-0", "sm_clock_mhz": 1980.0, "memory_clock_mhz": 2619.0, "power_w": 310.25,
        "power_average_w": 298.5, "temperature_c": 41.0, "utilisation": 0.45, "memory_utilisation": 0.12,
        "memory_used_bytes": 79 * 2**30, "throttle_reasons": "sw_power_cap", "energy_j": 8301.123,
        "pcie_tx_bytes": 5 * 10**12, "pcie_rx_bytes": 7 * 10**11, "nvlink_tx_bytes": None, "nvlink_rx_bytes": None,
        "ecc_corrected": 2, "ecc_uncorrected": 0, "other_processes": 0, "source": "nvml",
    }  # fmt: skip
    assert reader.missing == {"nvlink_tx_bytes": "Not Supported", "nvlink_rx_bytes": "Not Supported"}
    assert pa.Table.from_pylist([{"t_ns": 1, **row}], schema=GPU_RAW).num_rows == 1


def test_a_lost_gpu_hides_no_other(monkeypatch):
    def handle(self, index):
        if index == 0:
            raise self.NVMLError("GPU is lost")
        return index

    monkeypatch.setattr(Fake, "nvmlDeviceGetHandleByIndex", handle)
    reader = NvmlReader(None, Fake(H100, H100))
    reader.read()
    assert ([row["gpu"] for row in reader.rows], reader.reason) == ([1], None)
    assert reader.missing["gpu"] == "GPU 0: GPU is lost"
    assert NvmlReader(None, Fake(H100)).reason == "NVML: GPU 0: GPU is lost"


def test_nvlink_is_told_in_kib():
    reader = NvmlReader(None, Fake(H100 | {"fields": H100["fields"] | {138: (3, 10), 139: (3, 20)}}))
    reader.read()
    assert (reader.rows[0]["nvlink_tx_bytes"], reader.rows[0]["nvlink_rx_bytes"]) == (10240, 20480)


NO = "Not Supported"
GUEST = {
    "UUID": b"GPU-9", "Clock": {1: NO, 2: NO}, "Temperature": NO, "Utilization": (7, 3), "Used": 2**30, "Reasons": NO,
    "Energy": NO, "PowerUsage": NO, "Ecc": {0: NO, 1: NO}, "pids": "Insufficient Permissions", "fields": NO,
}  # fmt: skip


def test_what_a_vgpu_guest_does_not_tell_is_none_with_nvmls_words_and_is_asked_once():
    fake = Fake(GUEST)
    reader = NvmlReader(os.getpid(), fake)
    reader.read()
    reader.read()
    row = reader.rows[1]
    told = {name for name, value in row.items() if value is not None}
    assert told == {"t_ns", "gpu", "uuid", "utilisation", "memory_utilisation", "memory_used_bytes", "source"}
    assert reader.missing["energy_j"] == "Not Supported"
    assert reader.missing["other_processes"] == "Insufficient Permissions"
    assert reader.missing["pcie_tx_bytes"] == "Not Supported"
    assert fake.asked.count("Energy") == 1


def test_a_parent_of_mig_slices_tells_no_utilisation_and_its_neighbour_does():
    reader = NvmlReader(None, Fake(H100 | {"Utilization": NO}, H100 | {"UUID": b"GPU-1"}))
    reader.read()
    reader.read()
    assert [row["utilisation"] for row in reader.rows] == [None, 0.45, None, 0.45]
    assert reader.missing["memory_utilisation"] == NO


def test_an_answer_that_fails_once_is_asked_again():
    fake = Fake(dict(H100, Energy="GPU is lost"))
    reader = NvmlReader(None, fake)
    reader.read()
    fake.gpus[0]["Energy"] = 5000
    reader.read()
    assert [row["energy_j"] for row in reader.rows] == [None, 5.0]
    assert reader.missing["energy_j"] == "GPU is lost"


def test_power_comes_from_the_older_function_where_there_is_no_field():
    reader = NvmlReader(None, Fake(H100 | {"fields": NO}))
    reader.read()
    assert reader.rows[0]["power_w"] == 301.0
    assert reader.rows[0]["power_average_w"] is None


def test_throttle_reasons_of_a_driver_before_535():
    class Old(Fake):
        def nvmlDeviceGetCurrentClocksEventReasons(self, handle):
            raise self.NVMLError("Function Not Found")

        def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle):
            return 0x28

    reader = NvmlReader(None, Old(H100))
    reader.read()
    assert reader.rows[0]["throttle_reasons"] == "hw_slowdown,sw_thermal_slowdown"


@pytest.mark.parametrize(
    ("pids", "owner", "others"),
    [
        (["this", 999_999_999], "this", 1),
        (["this"], "this", 0),
        ([999_999_999], "this", None),  # numbers of another PID namespace: cannot be told
        ([], "this", None),
        (["this", 1], None, None),  # a server that ran before
    ],
)
def test_processes_of_others(pids, owner, others):
    # A number of this run in a test's name would give it another name in each process that collects it.
    pids = [os.getpid() if pid == "this" else pid for pid in pids]
    reader = NvmlReader(owner and os.getpid(), Fake(H100 | {"pids": pids}))
    reader.read()
    assert reader.rows[0]["other_processes"] == others


def test_a_family_holds_what_a_process_started():
    child = os.fork()
    if not child:
        os.read(os.pipe()[0], 1)
    try:
        assert {os.getpid(), child} <= process_tree.family(os.getpid())
        assert child not in process_tree.family(999_999_999)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_without_nvml_nvidia_smi_is_asked_and_both_reasons_are_kept(monkeypatch):
    class Gone(Fake):
        def nvmlInit(self):
            raise self.NVMLError("NVML Shared Library Not Found")

    assert NvmlReader(None, Gone()).reason == "NVML: NVML Shared Library Not Found"
    assert NvmlReader(None, Fake()).reason == "NVML shows no GPU"
    made = NvmlReader
    monkeypatch.setattr(nvml, "NvmlReader", lambda owner: made(owner, Gone()))
    monkeypatch.setattr(gpu_sample, "GpuReader", lambda hz: SimpleNamespace(reason="no nvidia-smi"))
    looped = gpu_sample.gpu_reader(2, None)
    assert looped.reason == "no nvidia-smi; NVML: NVML Shared Library Not Found"
    monkeypatch.setattr(nvml, "NvmlReader", lambda owner: made(owner, Fake(H100)))
    assert gpu_sample.gpu_reader(2, None).reason is None


def test_a_missing_package_is_a_reason(monkeypatch):
    def absent(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(nvml.importlib, "import_module", absent)
    assert NvmlReader().reason == "NVML's Python package is not installed: No module named 'pynvml'"


def test_gpus_are_read_ten_times_a_second_and_the_node_twice():
    reads, ends = os.pipe()
    orders = FileIO(reads)
    node = SimpleNamespace(rows=[], read=lambda: node.rows.append(1))
    reader = NvmlReader(None, Fake(H100))
    started = gpu_sample.time.monotonic()

    def read(plain=reader.read):
        plain()
        if len(reader.rows) == 15:
            os.write(ends, b"17\n")

    reader.read = read
    assert gpu_sample._sample(orders, node, reader, 2)[0] == 17
    took = gpu_sample.time.monotonic() - started
    assert took >= 1.4, "fifteen readings at 10 Hz"
    assert 2 <= len(node.rows) <= 5
    reader.close()
    assert reader._nvml.ended
    os.close(ends)


def test_a_neighbour_on_the_gpu_raises_a_flag():
    def raised(*others):
        gpu = pa.table({"t_ns": [-1, 1, 2], "gpu": [0, 0, 0], "other_processes": pa.array(others, pa.int64())})
        case = CellCase(None, None, {}, {"other_gpu_processes": 0}, gpu)
        return [doubt.detail for doubt in gpu_shared.check(case)]

    assert raised(3, 0, 0) == [], "before the window"
    assert raised(0, None, None) == []
    assert raised(0, 1, 2) == ["2 processes that this launch did not start were on GPU 0 at once"]
    assert list(gpu_shared.check(CellCase(None, None, {}, {}, pa.table({"t_ns": [1]})))) == [], "older samples"
    assert thresholds_of()["other_gpu_processes"] == 0


@pytest.mark.parametrize(("nodes", "told"), [(1, ["0", "3"]), (2, None)])
def test_the_sampler_says_which_gpus_are_the_launchs(tmp_path, nodes, told):
    servers = [SimpleNamespace(context=SimpleNamespace(nodes=nodes, gpus=gpus)) for gpus in (("3",), ("0", "3"))]
    sampler = gpu_sample.Sampler()
    live = SimpleNamespace(
        framework=SimpleNamespace(weights="none"), servers=servers, launch=SimpleNamespace(trace=None)
    )
    sampler.start(live, tmp_path, ())
    sampler.stop(0)
    assert sampler.report.get("launch_gpus") == told
