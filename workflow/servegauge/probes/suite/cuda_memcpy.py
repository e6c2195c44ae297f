"""Copies between host and GPU, inside a GPU and between peers. Cases of the memcpy probe; torch only."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from servegauge.probes.harness.base import Case, Context, Measured, Skip, Wrong, per_second
from servegauge.probes.harness.cuda import cuda_timed, wall_timed
from servegauge.probes.harness.numeric import cuda_torch
from servegauge.probes.harness.stats import Effort

KiB, MiB = 1 << 10, 1 << 20


def cuda_cases(context: Context) -> Iterator[Case]:
    """Every copy that involves a GPU; one skipped case where there is none."""
    about = {"operation": "copy", "device": "cuda"}
    try:
        torch = cuda_torch()
    except Skip as skip:
        yield Case.without(about, "bandwidth_gb_s", skip)
        return
    for size in context.sizes(
        (64 * KiB,), (64 * KiB, 64 * MiB), (4 * KiB, 64 * KiB, MiB, 16 * MiB, 256 * MiB, 1 << 30)
    ):
        for memory in ("pinned", "pageable"):
            for direction in ("host-to-device", "device-to-host"):
                which = {**about, "size_bytes": size, "direction": direction, "memory": memory}
                measure = partial(_host, torch, size, direction, memory == "pinned", context.effort)
                yield Case(which, "bandwidth_gb_s", measure)
        which = {**about, "size_bytes": size, "direction": "device-to-device"}
        yield Case(which, "bandwidth_gb_s", partial(_inside, torch, size, context.effort))
    for direction in ("host-to-device", "device-to-host"):
        which = {**about, "size_bytes": 4, "direction": direction, "memory": "pinned"}
        yield Case(which, "latency_us", partial(_latency, torch, direction, context.effort))
    yield from _peer_cases(torch, context)


def _peer_cases(torch: Any, context: Context) -> Iterator[Case]:
    count = torch.cuda.device_count()
    about = {"operation": "copy", "device": "cuda", "direction": "peer-to-peer"}
    if count < 2:
        yield Case.without(about, "bandwidth_gb_s", Skip(f"{count} GPU visible, a peer copy needs two"))
        return
    size = context.sizes(64 * KiB, 64 * MiB, 256 * MiB)
    pairs = [(a, b) for a in range(count) for b in range(count) if a != b]
    for a, b in pairs if not context.quick else pairs[:2]:
        which = {**about, "size_bytes": size, "path": f"{a}-{b}"}
        yield Case(which, "bandwidth_gb_s", partial(_peer, torch, a, b, size, context.effort))


def _parts(size: int, cache: int, make: Callable[[int], Any]) -> list[Any]:
    """Buffers of `size` bytes that together are twice the L2, so that none is still there when its turn comes again."""
    count = max(2, math.ceil(2 * cache / size))
    pool = make(count * size)
    return [pool[part * size : (part + 1) * size] for part in range(count)]


def _cache(torch: Any) -> int:
    return int(torch.cuda.get_device_properties(0).L2_cache_size)


def _checked(torch: Any, sources: list[Any], targets: list[Any], what: str) -> Callable[[int], object]:
    """Copies of one buffer after the other; Wrong where a first round does not copy every byte."""
    several = len(sources)

    def copy(i: int) -> object:
        return targets[i % several].copy_(sources[i % several], non_blocking=True)

    for i in range(several):
        copy(i)
    torch.cuda.synchronize()
    for source, target in zip(sources, targets, strict=True):
        if not torch.equal(target.cpu(), source.cpu()):
            raise Wrong(f"{what}: the copy differs from its source")
    return copy


def _host(torch: Any, size: int, direction: str, pinned: bool, effort: Effort) -> Measured:
    def host(count: int) -> Any:
        return torch.randint(0, 255, (count,), dtype=torch.uint8, pin_memory=pinned)

    def device(count: int) -> Any:
        return torch.randint(0, 255, (count,), dtype=torch.uint8, device="cuda")

    here, there = (device, host) if direction == "device-to-host" else (host, device)
    cache = _cache(torch)
    sources, targets = _parts(size, cache, here), _parts(size, cache, there)
    copy = _checked(torch, sources, targets, direction)
    turn = iter(range(1 << 62))

    def sample() -> float:
        # The wall clock, because a pageable copy is staged by the CPU and events would not see all of it.
        torch.cuda.synchronize()
        begin = time.perf_counter()
        copy(next(turn))
        torch.cuda.synchronize()
        return time.perf_counter() - begin

    seconds, detail = cuda_timed(torch, copy, effort) if pinned else wall_timed(torch, sample, effort)
    return Measured("bandwidth_gb_s", per_second(size, seconds, 1e9), detail, True)


def _inside(torch: Any, size: int, effort: Effort) -> Measured:
    def make(count: int) -> Any:
        return torch.randint(0, 255, (count,), dtype=torch.uint8, device="cuda")

    cache = _cache(torch)
    copy = _checked(torch, _parts(size, cache, make), _parts(size, cache, make), "device-to-device")
    seconds, detail = cuda_timed(torch, copy, effort)
    return Measured("bandwidth_gb_s", per_second(2 * size, seconds, 1e9), detail, True)


def _latency(torch: Any, direction: str, effort: Effort) -> Measured:
    host = torch.zeros(1, dtype=torch.int32, pin_memory=True)
    device = torch.zeros(1, dtype=torch.int32, device="cuda")
    source, target = (host, device) if direction == "host-to-device" else (device, host)

    def sample() -> float:
        begin = time.perf_counter()
        target.copy_(source, non_blocking=True)
        torch.cuda.synchronize()
        return (time.perf_counter() - begin) * 1e6

    torch.cuda.synchronize()
    latencies, detail = wall_timed(torch, sample, effort)
    return Measured("latency_us", latencies, detail)


def _peer(torch: Any, a: int, b: int, size: int, effort: Effort) -> Measured:
    access = torch.cuda.can_device_access_peer(a, b)
    if not access:
        raise Skip(f"no peer access from GPU {a} to GPU {b}")

    def on(device: int) -> Callable[[int], Any]:
        return lambda count: torch.randint(0, 255, (count,), dtype=torch.uint8, device=f"cuda:{device}")

    cache = _cache(torch)
    with torch.cuda.device(a):
        copy = _checked(torch, _parts(size, cache, on(a)), _parts(size, cache, on(b)), f"from GPU {a} to GPU {b}")
        seconds, detail = cuda_timed(torch, copy, effort)
    return Measured("bandwidth_gb_s", per_second(size, seconds, 1e9), detail, True)
