"""What is to be measured: frozen specifications, their names and their hashes.

A *launch* says what a server is, a *cell* says which load it is put under, a *workload* is the frozen input of
cells. All three are plain data that survive a round trip through JSON, and each has an id made of words that a person
reads first and hex digits of its content's SHA-256 last. Two specifications with the same id are the same thing:
that is why a rerun can tell what is already measured by looking at folder names alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec

from servegauge.contract.config_types import Model, ModelData, Platform, PlatformData, Prompts, PromptsData

SPEC_VERSION = 1  # 1: first published form
PROTOCOLS = {
    1: "no ramp and no tail: the load came on with the window, and the time of the last answers counted in its rates",
    2: "ramp, window and tail: only requests of the window count, and rates are events inside it",
    3: "as 2, but streams that think start spread over answer and pause, not over the answer alone",
}
"""Versions of the measuring protocol: how a cell's load is put on and what of it counts. Part of a cell's identity.

A load that a later one does not change keeps the earlier: see `Load.protocol`.
"""
# Hex digits in an id. Two things with one id would be taken for one thing that is measured already. With six digits
# that happened in the first plan of 100,000 cells (500 option sets share the words before the digits); with ten, the
# odds of it are 1 in 50,000 for such a plan.
DIGITS = 10

Data = Mapping[str, Any]

# Keys of a prompt set that are for people: editing them must not make new workloads and cells.
FOR_PEOPLE = ("description", "how_to_get", "licence")


def canonical_json(data: Any) -> str:
    """One text for one meaning: keys sorted, no spaces, 4.0 written as 4 (`rate: 4` and `rate: 4.0` agree)."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        if isinstance(value, float) and value.is_integer():
            return int(value)
        return value

    return json.dumps(plain(data), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(data: Any, length: int = DIGITS) -> str:
    """First `length` hex digits of the SHA-256 of the canonical JSON of `data`."""
    return hashlib.sha256(canonical_json(data).encode()).hexdigest()[:length]


def slug(text: str) -> str:
    """`text` as a part of a file name: lower case letters, digits, dots and single hyphens."""
    return re.sub(r"[^a-z0-9.]+", "-", str(text).lower()).strip("-.")


AGAIN = ".again"
"""Ends the second name of a platform under which a study with `aa` measures its baseline once more."""


def number(value: float) -> str:
    """A number as it stands in a name: 4, 0.5, 12.25; never 4.0 or 1e+01."""
    return f"{value:.6f}".rstrip("0").rstrip(".")


@dataclass(frozen=True)
class Layout:
    """How a model is spread: tensor, pipeline, data and expert parallel sizes, and independent server instances.

    With `share_gpu` all instances run on the GPUs of one, each with its part of the memory.
    """

    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1
    instances: int = 1
    share_gpu: bool = False

    @property
    def gpus_per_instance(self) -> int:
        """GPUs of one server; expert parallelism reuses the GPUs of the other dimensions."""
        return self.tp * self.pp * self.dp

    @property
    def gpus(self) -> int:
        """GPUs of the whole launch."""
        return self.gpus_per_instance * (1 if self.share_gpu else self.instances)

    def words(self) -> str:
        """`tp2-pp2`: tp always, the others where they are not 1."""
        sizes = {"pp": self.pp, "dp": self.dp, "ep": self.ep, "n": self.instances}
        rest = [f"{name}{value}" for name, value in sizes.items() if value != 1]
        return "-".join([f"tp{self.tp}", *rest, *(["shared"] if self.share_gpu else [])])


@dataclass(frozen=True)
class Placement:
    """CPUs of a node that the servers and the load generator are pinned to; empty: any."""

    server_cpus: tuple[int, ...] = ()
    load_cpus: tuple[int, ...] = ()

    @classmethod
    def of(cls, platform: Platform) -> Placement:
        placement = platform.get("placement") or {}
        return cls(tuple(placement.get("server_cpus") or ()), tuple(placement.get("load_cpus") or ()))

    @property
    def cpus(self) -> set[int]:
        return {*self.server_cpus, *self.load_cpus}


@dataclass(frozen=True)
class Launch:
    """One server lifetime. `model` and `platform` are the resolved contents of their files, with their `name`."""

    framework: str
    model: ModelData
    platform: PlatformData
    layout: Layout = Layout()
    options: Data = field(default_factory=dict)
    extra_args: tuple[str, ...] = ()
    environment: Data = field(default_factory=dict)
    repeat: int = 1
    trace: Data | None = None  # {"cell": the timed cell, "profiler", "steps", "after_s", "most_s"}: under a profiler

    @cached_property
    def identity(self) -> Data:
        """What makes this server another server. Where Slurm runs it, and for how long, does not."""
        where = {key: self.platform.get(key) for key in ("name", "placement", "environment")}
        where["frameworks"] = self._frameworks
        what = {key: self.model.get(key) for key in ("name", "source", "gguf", "revision")}
        return {
            "version": SPEC_VERSION,
            "framework": self.framework,
            "model": what,
            "platform": where,
            "layout": dataclasses.asdict(self.layout),
            "options": self.options,
            "extra_args": self.extra_args,
            "environment": self.environment,
            "repeat": self.repeat,
            **({"trace": self.trace} if self.trace else {}),  # a timed launch is called what it was before traces
        }

    @cached_property
    def placement(self) -> Placement:
        return Placement.of(self.platform)

    @property
    def _frameworks(self) -> Data | None:
        """How frameworks are started on the platform, without other builds: adding one must not rename the others."""
        known: Data | None = self.platform.get("frameworks")
        others = [name for name in known or () if "@" in name and name != self.framework]
        return {name: how for name, how in (known or {}).items() if name not in others} or None if others else known

    @cached_property
    def configuration(self) -> str:
        """The id without repeat: launches that share it are repeats of each other."""
        identity = {key: value for key, value in self.identity.items() if key != "repeat"}
        return f"{self._words}-{digest(identity)}"

    @property
    def _words(self) -> str:
        return f"{slug(self.framework)}-{slug(self.model['name'])}-{self.layout.words()}-{slug(self.platform['name'])}"

    @cached_property
    def id(self) -> str:
        """For example `vllm-qwen3-30b-a3b-tp2-h100-vgpu-r1-3f9c1a02d7`."""
        how = f"-{self.trace['profiler']}" if self.trace else ""
        return f"{self._words}-r{self.repeat}{how}-{digest(self.identity)}"

    def to_dict(self) -> dict[str, Any]:
        fields = {name: value for name, value in msgspec.to_builtins(self).items() if name != "trace" or value}
        return {"id": self.id, "configuration": self.configuration, **fields}


@dataclass(frozen=True)
class Load:
    """What is sent: exactly one of `rate_rps` (open loop), `concurrency` (closed loop), `burst` and `capacity` is set.

    `arrival` is `{"process": P, ...}` with P one of poisson, constant, gamma, burst, replay, steps, ramp, closed.
    The window of an open loop lasts `duration_s` or `requests`; that of a closed loop holds `requests`, and ends at
    `duration_s` if given. `burst` requests are sent at once to an idle server, `bursts` times. `start` is how the
    streams of a closed loop start, `ramp_s` the least length of the ramp (None: by the rule of docs/instrument.md).
    `output_tokens` None means: as the prompt set says. Times in seconds.

    `capacity` is a search for the highest rate of an open loop at which a share of the requests meets an SLO:
    `{"slo": its name, "limits", "share", "first_rps", "most_rps"}`; each rate that it tries gets `requests`.
    """

    rate_rps: float | None = None
    concurrency: int | None = None
    arrival: Data = field(default_factory=lambda: {"process": "poisson"})
    requests: int | None = None
    duration_s: float | None = None
    warmup_requests: int = 0
    output_tokens: int | None = None
    seed: int = 0
    draw: str = "per_repeat"  # or "fixed": every repeat gets the same draw
    endpoint: str = "completions"  # or "chat"
    stream: bool = True
    temperature: float = 0.0
    ignore_eos: bool = True
    timeout_s: float = 300.0
    max_in_flight: int | None = None
    think_s: float = 0.0
    cache: str = "cold"  # "cold": reset before the window; "warm": the warm-up sends the window's own prompts first
    burst: int | None = None
    bursts: int = 1
    start: str = "staggered"  # or "together"
    ramp_s: float | None = None
    input_tokens: int | None = None  # prompt length of every request; null: as the prompt set says
    sampling: Data | None = None  # fields of requests beside the temperature: top_p, top_k, ...
    lora_mix: Data | None = None  # adapter -> weight of its requests, "base" for those without one
    capacity: Data | None = None

    def to_dict(self) -> dict[str, Any]:
        """Its fields; those that came after the first loads were named are left out where they say nothing."""
        return {
            name: value for name, value in msgspec.to_builtins(self).items() if name not in LATER or value is not None
        }

    @property
    def loop(self) -> str:
        """open | closed | burst; without any size it is open: the times stand in the workload."""
        if self.burst is not None:
            return "burst"
        return "open" if self.concurrency is None else "closed"

    @property
    def protocol(self) -> int:
        """The measuring protocol by which this version puts it on."""
        return 3 if self.think_s and self.start == "staggered" else 2

    @property
    def size(self) -> float | None:
        """Requests per second of an open loop, streams of a closed one, requests of a burst; None where none is set."""
        return {"open": self.rate_rps, "closed": self.concurrency, "burst": self.burst}[self.loop]

    @cached_property
    def canonical(self) -> str:
        """Canonical JSON of every field; cached, because the cells of a study share their loads."""
        return canonical_json(self.to_dict())

    @cached_property
    def canonical_1(self) -> str:
        """The same with the fields that a load had under measuring protocol 1."""
        return canonical_json({name: value for name, value in self.to_dict().items() if name not in SINCE_2})

    def words(self) -> str:
        """`rate4`, `conc8`, `burst64` or `capacity-chat`, with `-warm` for a warm prefix cache."""
        if self.capacity is not None:
            size = "-".join(["capacity", *([slug(self.capacity["slo"])] if "slo" in self.capacity else [])])
        else:
            size = {"open": "rate", "closed": "conc", "burst": "burst"}[self.loop] + number(self.size or 0)
        return size if self.cache == "cold" else f"{size}-{self.cache}"


@dataclass(frozen=True)
class Workload:
    """Frozen prompts, arrival times and output lengths; the same bytes on every platform and framework."""

    prompts: PromptsData
    tokenizer: ModelData  # {"name": model name, "source": folder with tokenizer.json, "revision": ...}
    load: Data  # the fields of Load that shape it, see WORKLOAD_FIELDS
    repeat: int | None = None  # None: one draw for every repeat
    version: int = 2  # of what is compiled: 1 had no ramp and no tail

    @cached_property
    def id(self) -> str:
        load = Load(**self.load)
        repeat = "fixed" if self.repeat is None else f"r{self.repeat}"
        words = f"{slug(self.prompts['name'])}-{slug(self.tokenizer['name'])}-{load.words()}-{repeat}"
        return f"{words}-{digest(self._identity)}"

    @property
    def seed(self) -> int:
        """Seed of this draw, from everything that names it, so that no two points of a sweep share one draw."""
        return int(digest(self._identity, 16), 16)

    @property
    def _identity(self) -> Data:
        fields = {**msgspec.to_builtins(self), "prompts": _for_machines(self.prompts)}
        if self.version == 1:  # which its identity did not say
            del fields["version"]
        return fields

    @cached_property
    def canonical_prompts(self) -> str:
        """Canonical JSON of the prompt set; cached, because the same workload serves many cells."""
        return canonical_json(_for_machines(self.prompts))

    @classmethod
    def of(cls, model: Model, prompts: Prompts, load: Load, repeat: int) -> Workload:
        """The workload of `prompts` under `load` for `model`'s tokenizer, in a launch of this `repeat`."""
        shaping = {name: getattr(load, name) for name in WORKLOAD_FIELDS}
        shaping |= {"burst": load.burst, "bursts": load.bursts} if load.burst is not None else {}
        given = {name: getattr(load, name) for name in ("input_tokens", "lora_mix")}
        shaping |= {name: value for name, value in given.items() if value is not None}
        shaping |= {"capacity": UNIT_RATE} if load.capacity is not None else {}  # for every SLO the same
        source: Any = {key: model.get(key) for key in ("name", "tokenizer", "revision")}
        return cls(prompts=prompts, tokenizer=source, load=shaping, repeat=None if load.draw == "fixed" else repeat)


LATER = ("input_tokens", "sampling", "lora_mix", "capacity")  # fields of a load that its name leaves out if null
SINCE_2 = ("burst", "bursts", "start", "ramp_s", "capacity")  # fields of a load that came with measuring protocol 2
UNIT_RATE: Data = {"rate_rps": 1}  # times of a workload that is replayed at many rates are in mean gaps
WORKLOAD_FIELDS = (
    "rate_rps", "concurrency", "arrival", "requests", "duration_s", "warmup_requests", "output_tokens", "seed",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One load run on a live launch: the unit that fails and is rerun."""

    launch: str  # id
    words: str  # the human part of the launch's id, up to its repeat
    prompts: PromptsData
    load: Load
    workload: Workload
    protocol: int

    @cached_property
    def id(self) -> str:
        """For example `vllm-qwen3-30b-a3b-tp2-h100-vgpu-r1-chat-rate4-9ab12c77e0`."""
        # The canonical JSON of {launch, load, prompts, protocol}, put together from parts that other cells share.
        prompts = self.workload.canonical_prompts
        load, rest = self.load.canonical, f',"protocol":{self.protocol}'
        if self.protocol == 1:
            load, rest = self.load.canonical_1, ""
        content = f'{{"launch":{json.dumps(self.launch)},"load":{load},"prompts":{prompts}{rest}}}'
        digits = hashlib.sha256(content.encode()).hexdigest()[:DIGITS]
        return f"{self.words}-{slug(self.prompts['name'])}-{self.load.words()}-{digits}"

    @classmethod
    def of(cls, launch: Launch, prompts: Prompts, load: Load, workload: Workload | None = None) -> Cell:
        """The cell of `launch` under `load` with `prompts`; derives its workload, where it is not given."""
        workload = workload or Workload.of(launch.model, prompts, load, launch.repeat)
        return cls(launch.id, launch.id.rsplit("-", 1)[0], prompts, load, workload, load.protocol)

    @property
    def earlier(self) -> list[Cell]:
        """The same cell as each earlier measuring protocol would have measured it; 1 had not every load."""
        new = Load()
        first = 2 if any(getattr(self.load, name) != getattr(new, name) for name in SINCE_2) else 1
        return [dataclasses.replace(self, protocol=number) for number in range(first, self.protocol)]


def _for_machines(prompts: Prompts) -> Data:
    return {key: value for key, value in prompts.items() if key not in FOR_PEOPLE}
