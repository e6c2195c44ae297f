"""Collectives on made-up GPUs: each rank a thread with a device of its own, NCCL a stand-in whose times are known."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from servegauge.probes.harness import cuda, stats
from servegauge.probes.harness.base import Context, Wrong
from servegauge.probes.suite import collective_rank, collectives
from servegauge.probes.suite.collective_rank import OPERATIONS, Rank
from tests.unit.probes import pretend_torch
from tests.unit.probes.pretend_torch import FULL_MHZ, Device, Nvml

SPEC = {"backend": "nccl", "dtype": "bf16", "world": 2, "host": "h", "port": 1, "samples": 3, "sample_s": 1e-3}
KERNEL_S, GB_S = 5e-6, 100.0


class Nccl:
    """torch.distributed of one rank; `meeting` is where the ranks leave their buffers for each other."""

    ReduceOp = SimpleNamespace(MAX="max")

    def __init__(self, rank: int, device: Device, meeting: Meeting, refuses: str = "", waits: bool = False) -> None:
        self.rank, self.device, self.meeting, self.refuses, self.waits = rank, device, meeting, refuses, waits
        self.isend, self.irecv = "send", "receive"

    def init_process_group(self, backend: str, **_: Any) -> None:
        assert backend == "nccl"

    def _kernel(self, size: int) -> None:
        if self.refuses:
            raise RuntimeError(self.refuses)
        self.device.launch("nccl", KERNEL_S + size / GB_S / 1e9)
        if self.waits:
            self.device.wait()

    def all_reduce(self, mine: Any, op: str = "sum") -> None:
        self._kernel(mine.nbytes) if op == "sum" and mine.dtype == np.float32 else None
        everybody = self.meeting.exchange(self.rank, np.array(mine))
        mine[...] = np.max(everybody, axis=0) if op == "max" else np.sum(everybody, axis=0)

    def barrier(self) -> None:
        self.meeting.exchange(self.rank, None)

    def broadcast(self, mine: Any, root: int) -> None:
        self._kernel(mine.nbytes)
        mine[...] = self.meeting.exchange(self.rank, np.array(mine))[root]

    def all_gather_into_tensor(self, target: Any, mine: Any) -> None:
        self._kernel(target.nbytes)
        target[...] = np.concatenate(self.meeting.exchange(self.rank, np.array(mine)))

    def reduce_scatter_tensor(self, target: Any, mine: Any) -> None:
        self._kernel(mine.nbytes)
        part = len(target)
        target[...] = np.sum(self.meeting.exchange(self.rank, np.array(mine)), axis=0)[self.rank * part :][:part]

    def all_to_all_single(self, target: Any, mine: Any) -> None:
        self._kernel(mine.nbytes)
        part = len(mine) // 2
        everybody = self.meeting.exchange(self.rank, np.array(mine))
        target[...] = np.concatenate([one[self.rank * part :][:part] for one in everybody])

    @staticmethod
    def P2POp(kind: str, buffer: Any, peer: int) -> tuple:
        return kind, buffer, peer

    def batch_isend_irecv(self, operations: list[tuple]) -> list:
        (_, sent, _), (_, received, of) = operations
        self._kernel(sent.nbytes)
        received[...] = self.meeting.exchange(self.rank, np.array(sent))[of]
        return [SimpleNamespace(wait=lambda: None)]


class Meeting:
    def __init__(self, ranks: int) -> None:
        self.left: list[Any] = [None] * ranks
        self.barrier = threading.Barrier(ranks, timeout=20)

    def exchange(self, rank: int, value: Any) -> list[Any]:
        self.left[rank] = value
        self.barrier.wait()
        everybody = list(self.left)
        self.barrier.wait()
        return everybody


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch):
    """What each of two ranks measured of `name`: `ranks(name, size, devices, **how)`."""
    mine = threading.local()

    def run(name: str, size: int, devices: list[Device] | None = None, **how: Any) -> list[dict]:
        devices = devices or [Device(), Device()]
        meeting, found = Meeting(2), [{}, {}]

        def one(rank: int) -> None:
            mine.device, mine.torch = devices[rank], pretend_torch.make(devices[rank])
            mine.dist = Nccl(rank, devices[rank], meeting, **how)
            mine.clock = cuda.SmClock(mine.torch, Nvml(devices[rank]))
            try:
                found[rank] = Rank(SPEC, rank, rank).measure(name, size)
            except BaseException:
                meeting.barrier.abort()
                raise

        threads = [threading.Thread(target=one, args=(rank,)) for rank in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        return found

    clock = SimpleNamespace(perf_counter=lambda: mine.device.perf_counter())
    for module in (collective_rank, cuda, stats):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(cuda, "sm_clock", lambda torch: mine.clock)
    modules = {"torch": lambda: mine.torch, "torch.distributed": lambda: mine.dist}
    monkeypatch.setattr(collective_rank, "importlib", SimpleNamespace(import_module=lambda name: modules[name]()))
    return run


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_collective_takes_what_its_kernel_takes_whatever_its_launch_costs(ranks, name) -> None:
    for dispatch_us in (1, 60):
        devices = [Device(dispatch_s=dispatch_us * 1e-6, rise_s=0.0) for _ in range(2)]
        found = ranks(name, 4096, devices)
        assert [one["wrong"] for one in found] == [0, 0]
        assert found[0]["seconds"] == found[1]["seconds"], "of the slowest rank"
        kernel_s = KERNEL_S + 8192 / GB_S / 1e9 + devices[0].launch_s  # the pretended bf16 is numpy's float32
        assert found[0]["seconds"] == pytest.approx([kernel_s] * 3, rel=0.05)
        assert found[0]["detail"]["sm_clock_mhz"] == [FULL_MHZ] * 3


def test_the_time_is_the_slowest_ranks(ranks) -> None:
    found = ranks("all_reduce", 4096, [Device(rise_s=0.0), Device(rise_s=0.0, launch_s=9e-6)])
    assert found[0]["seconds"][0] == pytest.approx(KERNEL_S + 8192 / GB_S / 1e9 + 9e-6, rel=0.05)


def test_calls_that_wait_for_the_gpu_are_a_failed_row_on_every_rank(ranks) -> None:
    found = ranks("broadcast", 4096, waits=True)
    assert all("could not be queued" in one["failed"] for one in found)
    spec = {**SPEC, "operations": ["broadcast"], "sizes": [4096]}
    with pytest.raises(Wrong, match="could not be queued"):
        collectives.Collectives._result(spec, Context({"name": "g"}), 2, [found[0]], "broadcast", 4096)


def test_what_the_backend_cannot_do_is_skipped_in_its_words(ranks) -> None:
    found = ranks("all_to_all", 4096, refuses="no all_to_all")
    assert found[0] == {"operation": "all_to_all", "size_bytes": 4096, "skipped": "nccl: no all_to_all"}


def test_a_result_is_checked_on_gpus_too(ranks, monkeypatch) -> None:
    monkeypatch.setattr(Nccl, "broadcast", lambda self, mine, root: self._kernel(mine.nbytes))
    found = ranks("broadcast", 4096)
    assert found[0]["wrong"] == found[1]["wrong"] > 0, "rank 1 kept its own numbers"
    spec = {**SPEC, "operations": ["broadcast"], "sizes": [4096]}
    with pytest.raises(Wrong, match="elements of broadcast"):
        collectives.Collectives._result(spec, Context({"name": "g"}), 2, [found[0]], "broadcast", 4096)


def test_a_job_with_two_gpus_measures_with_nccl(monkeypatch) -> None:
    monkeypatch.setattr(collectives, "importlib", SimpleNamespace(import_module=lambda _: pretend_torch.make(Device())))
    context = Context({"name": "g", "gpus_per_node": 2})
    assert collectives.local_ranks(context) == [2]
    spec = collectives.specification(context, 2, 1)
    assert (spec["backend"], spec["dtype"], spec["world"]) == ("nccl", "bf16", 2)
