"""A stand-in for torch with one GPU: numpy's numbers, and a made-up device whose times and clock are known.

Time is made up too: `Device.cpu_s` goes on by `dispatch_s` for each call and by `TICK_S` for each reading of the clock;
a kernel begins when it was queued and the one before it has ended, as in a stream. A kernel takes its operations over
`tflops` or its bytes over the memory's (or, for what the L2 still holds, the L2's) bandwidth, whichever is longer, at
the clock of that moment: it rises with the work done since the GPU last idled. Only what the probes call is here.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections import OrderedDict
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

TICK_S = 1e-7
FULL_MHZ, IDLE_MHZ = 1980.0, 345.0


@dataclass
class Device:
    """The GPU, its stream and this process's clock, in seconds."""

    dispatch_s: float = 18e-6
    tflops: float = 800.0
    gb_s: float = 2700.0
    l2_gb_s: float = 9000.0
    l2_bytes: int = 1 << 20
    bus_gb_s: float = 54.0
    launch_s: float = 1e-6  # between two kernels of a stream
    rise_s: float = 0.3  # of work until the clock is full; 0: it always is
    capability: tuple[int, int] = (9, 0)
    cpu_s: float = 0.0
    free_s: float = 0.0
    worked_s: float = 0.0
    kernels: list[str] = field(default_factory=list)
    clocks: list[float] | None = None  # what NVML says, one after the other, instead of the clock
    recorded: list[Any] | None = None  # kernels of a graph that is being captured
    held: OrderedDict[int, int] = field(default_factory=OrderedDict)  # address -> bytes in the L2

    def perf_counter(self) -> float:
        self.cpu_s += TICK_S
        return self.cpu_s

    @property
    def mhz(self) -> float:
        share = 1.0 if not self.rise_s else min(1.0, self.worked_s / self.rise_s)
        return IDLE_MHZ + share * (FULL_MHZ - IDLE_MHZ)

    def launch(self, name: str, seconds: float, replayed: bool = False) -> None:
        if self.recorded is not None:
            self.recorded.append((name, seconds, lambda: None))
            return
        if not replayed:
            self.cpu_s += self.dispatch_s
        seconds = self.launch_s + seconds * FULL_MHZ / self.mhz
        self.free_s = max(self.free_s, self.cpu_s) + seconds
        self.worked_s += seconds
        self.kernels.append(name)

    def read(self, *arrays: np.ndarray) -> float:
        """Seconds that reading or writing `arrays` takes; they are in the L2 afterwards, and others leave it."""
        seconds = 0.0
        for array in arrays:
            place, size = array.__array_interface__["data"][0], array.nbytes
            seconds += size / (self.l2_gb_s if self.held.get(place) == size else self.gb_s) / 1e9
            self.held.pop(place, None)
            self.held[place] = size
            while sum(self.held.values()) > self.l2_bytes:
                self.held.popitem(last=False)
        return seconds

    def wait(self) -> None:
        self.cpu_s = max(self.cpu_s, self.free_s)


class Tensor(np.ndarray):
    """An array that charges the device for the few operations that the probes time."""

    gpu: Device
    place: str

    def __array_finalize__(self, parent: Any) -> None:
        self.gpu = getattr(parent, "gpu", None)
        self.place = getattr(parent, "place", "cpu")

    def charge(self, name: str, operations: float, *arrays: np.ndarray) -> None:
        if self.gpu is not None and self.place == "cuda":
            self.gpu.launch(name, max(operations / self.gpu.tflops / 1e12, self.gpu.read(*arrays)))

    def __matmul__(self, other: Any) -> Any:
        result = np.matmul(self, other)
        self.charge("matmul", 2.0 * self.size * other.shape[-1], self, other)
        return result

    def copy_(self, source: Any, non_blocking: bool = False) -> Any:
        np.copyto(self, source)
        if self.gpu is None:
            return self
        if self.place == getattr(source, "place", "cpu") == "cuda":
            self.charge("copy", 0.0, source, self)
        else:
            self.gpu.launch("bus copy", self.nbytes / self.gpu.bus_gb_s / 1e9)
            if not non_blocking:
                self.gpu.wait()
        return self

    def add_(self, value: float) -> Any:
        if self.gpu.recorded is None:
            self += value
            self.charge("add", 0.0)
        else:
            self.gpu.recorded.append(("add", 1e-6, lambda: self.add_in_graph(value)))
        return self

    def add_in_graph(self, value: float) -> None:
        self += value

    def zero_(self) -> Any:
        self[...] = 0
        return self

    def fill_(self, value: float) -> Any:
        self[...] = value
        return self

    def float(self) -> Any:
        return self.astype(np.float32)

    def __getitem__(self, which: Any) -> Any:
        if isinstance(which, np.ndarray) and which.dtype.kind in "iu" and which.ndim:
            found = np.asarray(self)[np.asarray(which)].view(Tensor)
            found.gpu, found.place = self.gpu, self.place
            self.charge("gather", 0.0, found)
            return found
        return super().__getitem__(which)

    def to(self, kind: Any) -> Any:
        return self.astype(kind) if isinstance(kind, np.dtype | type) else self

    def double(self) -> Any:
        return self.astype(np.float64)

    def cpu(self) -> Any:
        self.gpu and self.gpu.wait()
        copy = self.copy()
        copy.place = "cpu"
        return copy

    def numpy(self) -> np.ndarray:
        return np.asarray(self)

    def clone(self) -> Any:
        return np.copy(self, order="K", subok=True)

    def contiguous(self) -> Any:
        return np.array(self, order="C", subok=True)

    def element_size(self) -> int:
        return self.itemsize

    def numel(self) -> int:
        return self.size

    def abs(self) -> Any:
        return np.abs(self)

    def transpose(self, a: int, b: int) -> Any:
        return np.swapaxes(self, a, b)

    def unsqueeze(self, axis: int) -> Any:
        return np.expand_dims(self, axis)

    def triu(self, k: int) -> Any:
        return np.where(np.triu(np.ones(self.shape, bool), k), self, 0).view(Tensor)


class Event:
    def __init__(self, device: Device) -> None:
        self.device, self.at_s = device, 0.0

    def record(self) -> None:
        self.device.cpu_s += 1e-6
        self.at_s = max(self.device.free_s, self.device.cpu_s)

    def query(self) -> bool:
        return self.device.cpu_s >= self.at_s

    def synchronize(self) -> None:
        self.device.cpu_s = max(self.device.cpu_s, self.at_s)

    def elapsed_time(self, end: Event) -> float:
        return (end.at_s - self.at_s) * 1e3


class Graph:
    def __init__(self, device: Device) -> None:
        self.device, self.kernels = device, []

    @contextlib.contextmanager
    def capture(self) -> Any:
        self.device.recorded = self.kernels
        yield
        self.device.recorded = None

    def replay(self) -> None:
        self.device.cpu_s += self.device.dispatch_s
        for name, seconds, work in self.kernels:
            work()
            self.device.launch(name, seconds, replayed=True)


class Nvml:
    """NVML's library, as far as a clock is asked for; `status` other than 0 is what each clock's call answers."""

    def __init__(self, device: Device, status: int = 0) -> None:
        self.device, self.status = device, status
        self.nvmlErrorString = lambda status: {3: b"Not Supported", 6: b"Not Found"}[status]

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: Any) -> int:
        return 0 if uuid == b"GPU-0-1" else 6

    def nvmlDeviceGetClockInfo(self, handle: Any, kind: Any, value: Any) -> int:
        assert kind.value == 1, "the SM clock's number in nvml.h"
        ctypes.cast(value, ctypes.POINTER(ctypes.c_uint))[0] = round(
            self.device.clocks.pop(0) if self.device.clocks else self.device.mhz
        )
        return self.status


def make(device: Device) -> Any:
    """The module `torch` on `device`."""
    random = np.random.default_rng(3)

    def wrap(array: Any, place: Any = None) -> Tensor:
        made = np.asarray(array).view(Tensor)
        made.gpu, made.place = device, "cuda" if str(place).startswith("cuda") else "cpu"
        return made

    def attention(q: Any, k: Any, v: Any, is_causal: bool = False, enable_gqa: bool = False) -> Any:
        group = q.shape[1] // k.shape[1]
        many = [np.repeat(np.asarray(part), group, axis=1) for part in (k, v)]
        scores = np.asarray(q) @ np.swapaxes(many[0], -1, -2) / q.shape[-1] ** 0.5
        if is_causal:
            scores = scores + np.triu(np.full(scores.shape[-2:], -np.inf), 1)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        result = wrap(weights / weights.sum(-1, keepdims=True) @ many[1], q.place)
        result.charge("sdpa", 4.0 * scores.size * q.shape[-1], k, v)
        return result

    def scaled_mm(left: Any, right: Any, scale_a: Any, scale_b: Any, out_dtype: Any) -> Any:
        return left @ right

    def softmax(array: Any, dim: int) -> Any:
        weights = np.exp(array - array.max(axis=dim, keepdims=True))
        return weights / weights.sum(axis=dim, keepdims=True)

    properties = SimpleNamespace(L2_cache_size=device.l2_bytes, uuid="0-1")
    null = contextlib.nullcontext
    cuda = SimpleNamespace(
        is_available=lambda: True,
        current_device=lambda: 0,
        device_count=lambda: 2,
        can_device_access_peer=lambda a, b: True,
        device=lambda index: null(),
        get_device_properties=lambda index: properties,
        get_device_capability=lambda index=0: device.capability,
        mem_get_info=lambda: (1 << 32, 1 << 33),
        synchronize=device.wait,
        _sleep=lambda cycles: device.launch("hold", cycles / FULL_MHZ / 1e6),
        Event=lambda enable_timing=False: Event(device),
        Stream=lambda: SimpleNamespace(synchronize=device.wait),
        current_stream=lambda: SimpleNamespace(synchronize=device.wait),
        stream=lambda stream: null(),
        set_device=lambda device: None,
        CUDAGraph=lambda: Graph(device),
        graph=lambda graph: graph.capture(),
    )
    float32 = np.dtype(np.float32)
    return SimpleNamespace(
        cuda=cuda,
        backends=SimpleNamespace(cuda=SimpleNamespace(matmul=SimpleNamespace(allow_tf32=True))),
        nn=SimpleNamespace(functional=SimpleNamespace(scaled_dot_product_attention=attention)),
        manual_seed=lambda seed: None,
        inference_mode=null,
        float64=np.dtype(np.float64), float32=float32, bfloat16=float32, float16=float32, float8_e4m3fn=float32,
        int32=np.dtype(np.int32), uint8=np.dtype(np.uint8),
        _scaled_mm=scaled_mm,
        randn=lambda shape, device=None, dtype=float32: wrap(random.standard_normal(shape, dtype=np.float32), device),
        randint=lambda low, high, shape, dtype, device=None, pin_memory=False: wrap(
            random.integers(low, high, shape, dtype=dtype), device
        ),
        randperm=lambda count, device=None: wrap(random.permutation(count), device),
        empty=lambda shape, dtype=float32, device=None: wrap(np.empty(shape, dtype), device),
        zeros=lambda shape, dtype=float32, device=None, pin_memory=False: wrap(np.zeros(shape, dtype), device),
        ones=lambda shape, device=None: wrap(np.ones(shape, float32), device),
        full=lambda shape, value, dtype=float32, device=None: wrap(np.full(shape, value, dtype), device),
        arange=lambda *bounds, dtype=None, device=None: wrap(np.arange(*bounds, dtype=dtype), device),
        cat=lambda parts, dim=0: wrap(np.concatenate(parts, axis=dim)),
        device=lambda kind, index=0: kind,
        zeros_like=lambda array: wrap(np.zeros_like(array), array.place),
        tensor=lambda values, dtype=None, device=None: wrap(np.array(values, dtype), device),
        int64=np.dtype(np.int64),
        softmax=softmax,
        equal=lambda a, b: bool(np.array_equal(a, b)),
    )  # fmt: skip
