"""The sampler on this machine's CPUs, and on an nvidia-smi that is a script of ours."""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from servegauge.base.forkserver import ForkedProcess
from servegauge.contract.cell_tables import GPU_RAW, NODE_RAW
from servegauge.contract.flag_registry.clocks_throttled import THROTTLING
from servegauge.launch.recorders.gpu_sample import NodeReader, Sampler, summary
from servegauge.node import dcgm, nvml, smi_loop
from servegauge.node.reader import Node, Unreadable
from servegauge.node.smi_loop import FIELDS, parse_line, reasons, usable_fields
from tests.unit import made_up_nodes as nodes

COLUMNS = list(FIELDS)
LINE = "0, GPU-1, 1410, 2619, 312.50, 61, 98, 40960, 0x0000000000000024"

# Prints what nvidia-smi is documented to print; like it, knows only some fields, and holds lines back from a pipe
FAKE = """#!{python}
import sys, time
fields = next(word for word in sys.argv if word.startswith("--query-gpu=")).partition("=")[2].split(",")
known = {{"index": "{{}}", "uuid": "GPU-{{}}", "clocks.sm": "1410", "clocks.mem": "2619", "power.draw": "312.50",
         "temperature.gpu": "61", "utilization.gpu": "98", "memory.used": "40960",
         "clocks_throttle_reasons.active": "0x0000000000000020"}}
for field in fields:
    if field not in known:
        print(f'Field "{{field}}" is not a valid field to query.\\n')
        sys.exit(2)
loop = [word for word in sys.argv if word.startswith("--loop-ms=")]
while True:
    for gpu in (0, 1):
        print(", ".join(known[field].format(gpu) for field in fields))
    if not loop:
        break
    time.sleep(int(loop[0].partition("=")[2]) / 1000)
    {then}
"""


@pytest.fixture
def fake_smi(tmp_path, monkeypatch):
    """Put an nvidia-smi of ours on the PATH; `then` is what it does after each round."""

    def make(then: str = "pass") -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        path = folder / "nvidia-smi"
        path.write_text(FAKE.format(python=sys.executable, then=then))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    return make


def test_lines():
    assert parse_line(LINE, COLUMNS) == {
        "gpu": 0, "uuid": "GPU-1", "sm_clock_mhz": 1410.0, "memory_clock_mhz": 2619.0, "power_w": 312.5,
        "temperature_c": 61.0, "utilisation": 0.98, "memory_used_bytes": 40960 * 2**20,
        "throttle_reasons": "sw_power_cap,sw_thermal_slowdown",
    }  # fmt: skip
    # a vGPU guest knows little: null, never 0
    guest = parse_line("0, GPU-1, [N/A], [Not Supported], [N/A], [N/A], 3, 512, [N/A]", COLUMNS)
    assert {name for name, value in guest.items() if value is not None} == {
        "gpu", "uuid", "utilisation", "memory_used_bytes"
    }  # fmt: skip
    for broken in ("", "No devices were found", LINE[:20], LINE + ", 1"):
        assert parse_line(broken, COLUMNS) is None


def test_reasons():
    assert reasons("0x0000000000000000") == ""
    # idle, or at the clock that somebody set: not throttled
    assert reasons("0x0000000000000103") == ""
    assert reasons("0x0000000000000048") == "hw_slowdown,hw_thermal_slowdown"
    assert reasons("0x0000000000000400") == "0x400"
    assert reasons("[N/A]") is None


def test_fields_that_a_driver_does_not_have_are_replaced_or_left_out():
    asked = []

    def ask(argv):
        fields = argv[1].partition("=")[2].split(",")
        asked.append(fields)
        for field in fields:
            if field.startswith("clocks_event") or field.startswith("power"):
                raise Unreadable(f'nvidia-smi ended with status 2: Field "{field}" is not a valid field to query.')
        return ", ".join("0" for _ in fields)

    fields = usable_fields(ask)
    assert fields["throttle_reasons"] == "clocks_throttle_reasons.active"
    assert "power_w" not in fields
    assert len(asked) == 4


@pytest.mark.parametrize("said", ["no nvidia-smi on this node", "status 9: NVIDIA-SMI has failed because it couldn't"])
def test_no_driver_is_said_at_once(said):
    def refuse(argv):
        raise Unreadable(said)

    with pytest.raises(Unreadable, match=said[:20]):
        usable_fields(refuse)
    with pytest.raises(Unreadable, match="No devices"):
        usable_fields(lambda argv: "No devices were found\n")


def test_the_node_is_sampled(tmp_path):
    sampler = Sampler()
    sampler.sample(tmp_path / "gpu.parquet", 20)
    time.sleep(1.0)
    zero_ns = time.monotonic_ns()
    time.sleep(0.5)
    assert sampler.stop(zero_ns) is None or sampler.report["gpus"]
    table = pq.read_table(tmp_path / "node.parquet")
    assert table.schema.equals(NODE_RAW)
    assert table.schema.field("steal_share").metadata[b"unit"] == b"1"
    stamps = table["t_ns"].to_pylist()
    assert stamps == sorted(stamps)
    # before and after the zero, on one clock; how many depends on how busy this machine is
    assert stamps[0] < 0 < stamps[-1] < 5e9
    assert sampler.report["node"]["samples"] == sum(stamp >= 0 for stamp in stamps)
    assert 0 <= sampler.report["node"]["busy_share"] <= 1
    assert sampler.report["gpu_reason"] or sampler.report["gpus"]


def test_gpus_are_sampled_with_what_the_driver_has(tmp_path, fake_smi):
    fake_smi()
    sampler = Sampler()
    sampler.sample(tmp_path / "gpu.parquet", 20)
    time.sleep(1.5)
    assert sampler.stop() == tmp_path / "gpu.parquet", sampler.report
    table = pq.read_table(tmp_path / "gpu.parquet")
    assert table.schema.equals(GPU_RAW)
    rows = table.to_pylist()
    assert {row["gpu"] for row in rows} == {0, 1}
    assert rows[0]["power_w"] == 312.5
    assert rows[0]["source"] == "nvidia-smi"
    assert rows[0]["energy_j"] is None
    assert rows[0]["throttle_reasons"] == "sw_thermal_slowdown"
    assert len({row["t_ns"] for row in rows}) > 2, "lines are held back until the end"
    assert sampler.report["gpus"]["1"]["throttled_share"] == 1.0
    assert sampler.report["gpus"]["1"]["power_cap_share"] == 0.0


def test_an_nvidia_smi_that_ends_is_told_and_what_it_said_is_kept(tmp_path, fake_smi):
    fake_smi("sys.exit(3)")
    sampler = Sampler()
    sampler.sample(tmp_path / "gpu.parquet", 20)
    time.sleep(1.0)
    assert sampler.stop() == tmp_path / "gpu.parquet"
    assert "status 3" in sampler.report["gpu_reason"]


def family(process: ForkedProcess) -> list[psutil.Process]:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = psutil.Process(process.pid).children(recursive=True)
        if found:
            return found
        time.sleep(0.05)
    pytest.fail("nvidia-smi was not started")


@pytest.mark.parametrize("how", ["cancel", "kill", "owner gone"])
def test_nothing_outlives_it_and_nothing_is_written(tmp_path, fake_smi, how):
    fake_smi()
    sampler = Sampler()
    sampler.sample(tmp_path / "gpu.parquet", 20)
    children = family(sampler._process)
    if how == "cancel":
        sampler.cancel()
    elif how == "kill":
        sampler._process.kill()
    else:
        sampler._process.stdin.close()  # what the kernel does when the owner dies
        sampler._process.wait(10)
    _, alive = psutil.wait_procs(children, timeout=5)
    assert alive == []
    assert list(tmp_path.glob("*.parquet")) == []


def nothing_starts(*_):
    raise OSError("no more processes")


def test_failures_of_the_sampler_never_raise(tmp_path, monkeypatch):
    sampler = Sampler()
    assert sampler.stop() is None
    sampler.sample(tmp_path / "gone" / "gpu.parquet", 20)
    sampler._process.kill()
    assert sampler.stop(5) is None
    assert "ended with status" in sampler.report["error"]
    sampler.sample(Path("/proc/none/gpu.parquet"), 20)
    assert sampler.stop() is None
    assert "could not be written" in sampler.report["error"]
    monkeypatch.setattr("servegauge.launch.recorder.ForkedProcess", nothing_starts)
    sampler.sample(tmp_path / "gpu.parquet", 20)
    assert "could not be started" in sampler.report["error"]
    with pytest.raises(ValueError, match="above 0"):
        sampler.sample(tmp_path / "gpu.parquet", 0)


def test_the_reader_of_a_made_up_node(tmp_path):
    nodes.bare_metal(tmp_path)
    nodes.write(tmp_path, {
        "/proc/stat": "cpu 100 0 0 100 0 0 0 0\nctxt 1000\nprocs_running 3",
        "/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "2000000",
        "/sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "3000000",
        "/sys/class/thermal/thermal_zone0/temp": "51000",
    })  # fmt: skip
    reader = NodeReader(Node(tmp_path), servers=[7, 8, 9])  # of which 9 has ended
    nodes.write(tmp_path, {"/proc/7/statm": "900 40 3 1 0 50 0", "/proc/8/statm": "90 2 1 1 0 5 0"})
    nodes.write(tmp_path, {"/proc/stat": "cpu 140 0 0 140 0 0 0 20\nctxt 1500\nprocs_running 3"})
    reader.read()
    assert set(reader.rows[0]) == set(NODE_RAW.names)
    row = {name: value for name, value in reader.rows[0].items() if name != "t_ns"}
    assert row == {
        "cpu_mhz_mean": 2500.0, "cpu_mhz_min": 2000.0, "busy_share": 0.6, "steal_share": 0.2, "load_1min": 0.5,
        "running": 3, "context_switches": 500, "memory_available_bytes": 2**30, "temperature_c": 51.0,
        "server_memory_bytes": 42 * os.sysconf("SC_PAGESIZE"),
    }  # fmt: skip
    # no time passed: shares are null, not 0
    reader.read()
    assert reader.rows[1]["steal_share"] is None


def test_a_node_that_tells_nothing_is_nulls(tmp_path):
    reader = NodeReader(Node(tmp_path))
    reader.read()
    assert {name for name, value in reader.rows[0].items() if value is not None} == {"t_ns"}
    told = summary([], reader.rows)
    assert told["node"] == {
        "samples": 1,
        "steal_share": None,
        "busy_share": None,
        "cpu_mhz_mean": None,
        "cpu_mhz_min": None,
    }
    json.dumps(told, allow_nan=False)


def test_the_summary_is_of_the_window_only():
    row = parse_line(LINE, COLUMNS)
    rows = [
        {**row, "t_ns": -5},
        {**row, "t_ns": 5, "throttle_reasons": ""},
        {**row, "t_ns": 6, "throttle_reasons": None},
    ]
    told = summary(rows, [])["gpus"]["0"]
    assert (told["samples"], told["throttled_share"]) == (2, 0.0)
    assert summary([{**row, "t_ns": 1, "throttle_reasons": None}], [])["gpus"]["0"]["throttled_share"] is None


def test_columns_are_those_of_the_dataset():
    assert ["t_ns", *FIELDS] == GPU_RAW.names[: len(FIELDS) + 1]
    assert {"t_ns", *nvml.COLUMNS, *dcgm.FIELDS} == set(GPU_RAW.names)
    assert set(smi_loop.REASONS.values()) >= THROTTLING
