"""DCGM's counters, from a `dcgmi` that prints what people published of the real one."""

from __future__ import annotations

import os
import selectors
import stat
from io import FileIO
from types import SimpleNamespace

import pyarrow as pa
import pytest

from servegauge.contract import activity
from servegauge.contract.cell_tables import GPU_RAW
from servegauge.launch.recorders import gpu_sample
from servegauge.node import dcgm
from servegauge.node.dcgm import DcgmReader, numbers
from servegauge.node.nvml import NvmlReader
from servegauge.node.reader import Unreadable
from servegauge.report.limits import Evidence, limit
from tests.unit.node.test_nvml import H100, Fake

# The form of NVIDIA/DCGM's issue 229: a host engine that sees four GPUs, of which a job may have two.
DISCOVERY = """\
4 GPUs found.
+--------+----------------------------------------------------------------------+
| GPU ID | Device Information                                                   |
+--------+----------------------------------------------------------------------+
| 0      | Name: NVIDIA H100 80GB HBM3                                          |
|        | PCI Bus ID: 00000000:4C:00.0                                         |
|        | Device UUID: GPU-d6a2c177-0000                                       |
+--------+----------------------------------------------------------------------+
| 1      | Name: <<<NULL>>>                                                     |
|        | PCI Bus ID: 00000000:5D:00.0                                         |
|        | Device UUID: GPU-75c4ee16-0000                                       |
+--------+----------------------------------------------------------------------+
| 10     | Name: NVIDIA H100 80GB HBM3                                          |
|        | PCI Bus ID: 00000000:CB:00.0                                         |
|        | Device UUID: GPU-0                                                   |
+--------+----------------------------------------------------------------------+
0 NvSwitches found.
+-----------+
| Switch ID |
+-----------+
+-----------+
"""
# The form of issue 244: blanks at first, then values, GPUs of others between them.
DMON = """\
#Entity    SMACT        TENSO        DRAMA
ID
GPU 10     N/A          N/A          N/A
GPU 1      0.999        0.888        0.777
GPU 10     0.940        0.178        N/A
GPU-I 1    0.500        0.500        0.500
"""
OLDER = "# Entity  SMACT  TENSO  DRAMA\n      Id\n    GPU 10  0.940  0.178  0.301\n"  # issue 3
REFUSED = """\
# Entity  TENSO
      Id
Error setting watches. Result: The third-party Profiling module returned an unrecoverable error
"""
UUIDS = ["GPU-0", None, "GPU-not-dcgms"]


@pytest.fixture
def dcgmi(tmp_path, monkeypatch):
    """Put a dcgmi on the PATH whose dmon prints `text` and then does `then`; returns where its arguments are kept."""

    monkeypatch.setattr(dcgm, "FRESH_S", 60.0)

    def make(text: str, then: str = "exec sleep 60"):
        (tmp_path / "discovery").write_text(DISCOVERY)
        (tmp_path / "dmon").write_text(text)
        path = tmp_path / "dcgmi"
        path.write_text(
            f'#!/bin/sh\n[ "$1" = dmon ] && echo "$*" > {tmp_path}/asked\ncat {tmp_path}/$1\n'
            f'[ "$1" = discovery ] || {then}\n'
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        return tmp_path / "asked"

    return make


def taken(reader: DcgmReader) -> dict:
    """What it has of GPU-0 when it has read until nothing came for a moment, or it ended."""
    with selectors.DefaultSelector() as selector:
        if reader.handle is not None:
            selector.register(reader.handle, selectors.EVENT_READ)
            while selector.select(0.5) and reader.read():
                pass
    row = {"uuid": "GPU-0"}
    reader.fill([row])
    reader.close()
    return {name: value for name, value in row.items() if name != "uuid"}


def test_gpus_are_found_by_uuid_whatever_the_host_engine_calls_them():
    assert numbers(DISCOVERY) == {"GPU-d6a2c177-0000": 0, "GPU-75c4ee16-0000": 1, "GPU-0": 10}
    assert numbers("0 GPUs found.\n") == {}


def test_the_newest_values_of_our_gpus_are_taken_and_no_others_are_asked(dcgmi):
    asked = dcgmi(DMON)
    reader = DcgmReader(UUIDS)
    assert taken(reader) == {"sm_active": 0.94, "tensor_active": 0.178, "dram_active": None}
    assert asked.read_text().split() == ["dmon", "-e", "1002,1004,1005", "-i", "10", "-d", "100"]
    assert reader.missing == {"dram_active": "DCGM: dcgmi gave N/A"}


def test_the_form_of_older_versions_is_read(dcgmi):
    dcgmi(OLDER)
    assert taken(DcgmReader(UUIDS)) == {"sm_active": 0.94, "tensor_active": 0.178, "dram_active": 0.301}


def test_a_value_of_another_time_is_none(dcgmi, monkeypatch):
    dcgmi(DMON)
    reader = DcgmReader(UUIDS)
    monkeypatch.setattr(dcgm, "FRESH_S", -1.0)
    assert set(taken(reader).values()) == {None}


@pytest.mark.parametrize(
    ("text", "then", "reason"),
    [
        (REFUSED, "exit 1", "DCGM: Error setting watches. Result: The third-party Profiling module returned"),
        (
            "Error: unable to establish a connection to the specified host: localhost\n",
            "exit 255",
            "unable to establish",
        ),
        ("", "{ echo 'Error: of standard error' >&2; exit 1; }", "DCGM: Error: of standard error"),
        ("", "exit 3", "dcgmi ended with status 3 while it was read"),
        (DMON.replace("0.940        0.178 ", "N/A          N/A   "), "exec sleep 60", "DCGM: dcgmi gave N/A"),
    ],
)
def test_why_there_are_none_is_kept(dcgmi, text, then, reason):
    dcgmi(text, then)
    reader = DcgmReader(UUIDS)
    assert set(taken(reader).values()) == {None}
    assert set(reader.missing) == set(dcgm.FIELDS)
    assert reason in reader.missing["dram_active"]


def test_without_dcgm_or_our_gpus_in_it_the_reason_is_one_line():
    def absent(argv):
        raise Unreadable("no dcgmi on this node", "dcgmi")

    reader = DcgmReader(UUIDS, absent)
    assert reader.missing == dict.fromkeys(dcgm.FIELDS, "DCGM: no dcgmi on this node")
    assert set(taken(reader).values()) == {None}
    reader = DcgmReader(["GPU-elsewhere"], lambda argv: DISCOVERY)
    assert reader.missing["sm_active"] == "DCGM: dcgmi discovery lists none of these GPUs"


def test_the_samples_of_nvml_have_dcgms_beside_them(dcgmi):
    dcgmi(DMON)
    gpus = NvmlReader(None, Fake(H100))
    parts = gpu_sample.part_reader(gpus)
    reads, ends = os.pipe()

    def read(plain=gpus.read):
        plain()
        if len(gpus.rows) == 4:
            os.write(ends, b"0\n")

    gpus.read = read
    gpu_sample._sample(FileIO(reads), SimpleNamespace(read=lambda: None), gpus, 2, parts)
    parts.close()
    os.close(ends)
    table = pa.Table.from_pylist(gpus.rows, schema=GPU_RAW)
    assert "sm_active" in gpus.rows[-1], "the last sample too"
    assert 0.94 in table["sm_active"].to_pylist()
    assert gpu_sample.part_reader(NvmlReader(None, Fake())) is None


def test_a_cell_has_their_means_and_what_limits_it_is_read_from_them():
    rows = [{"t_ns": t, "gpu": 0, "dram_active": v, "tensor_active": 0.1} for t, v in ((-5, 0.0), (5, 0.6), (6, 0.8))]
    found = activity.during(10.0, None, pa.Table.from_pylist(rows, schema=GPU_RAW), None)
    assert (found["gpu_dram_active_mean"], found["gpu_sm_active_mean"]) == (pytest.approx(0.7), None)
    known = Evidence(gpu=True, closed=True, utilisation=0.95)
    for more, said in (({"dram": 0.7}, "memory moved data in 70%"), ({"tensor": 0.55}, "tensor cores worked in 55%")):
        assert said in limit(Evidence(**{**vars(known), **more})).words
