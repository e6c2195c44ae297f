"""What a framework's file answers. One file, one class, no side effects: it says what to run, never runs it.

Everything here is about *one server process group* (an instance). How processes start and end: `launch.server`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from servegauge.base.files import parse_json
from servegauge.base.redact import clean
from servegauge.contract.spec import Launch
from servegauge.inputs.containers import vendor

# Neutral server options: name -> what it means. A study uses these names; each framework's file translates them.
# The same name means the same thing everywhere; a framework where it does not says so in `differences`.
OPTIONS: dict[str, str] = {
    "context_tokens": "longest prompt plus output of one request, in tokens",
    "kv_cache_dtype": "data type of the KV cache: auto, fp16, bf16, fp8, q8_0, ...",
    "quantization": "weight quantization: none, fp8, awq, gptq",
    "prefix_cache": "reuse the KV cache of a shared prompt prefix: true or false",
    "chunked_prefill": "split long prefills among decode steps: true or false",
    "max_batch": "most requests decoded together",
    "max_batched_tokens": "most tokens computed in one step",
    "block_tokens": "tokens in one block (page) of the KV cache",
    "memory_fraction": "share of a GPU's memory that one server may take, 0 to 1",
    "dtype": "data type of weights and activations: auto, float16, bfloat16, float32",
    "graphs": "CUDA graphs or compilation: true, or false for eager",
    "async_scheduling": "prepare the next step while the GPU computes this one: true or false",
    "speculative": "speculative decoding: {method: ngram | draft | eagle3, tokens: n, model: ...}",
    "lora": "LoRA adapters: {name: folder}",
    "dummy_weights": "random weights instead of the model's: true or false",
    "seed": "the server's own seed",
    "threads": "CPU threads of one server",
    "multimodal_limits": "most items a prompt: {image: n, video: n, audio: n}",
}


# What a server decides for itself and tells beside its options (`Evidence.effective`); nothing of these is asked here.
OWN_CHOICES: dict[str, str] = {
    "attention_backend": "the attention kernels that it took",
    "scheduling": "async: the next step is planned while one runs, so that a token is sent a step later; or sync",
}

# Options whose defaults differ between frameworks and change what is measured: always set, the same everywhere. The
# study's own values win; the plan shows what is set. `context_tokens` is the model's unless the study says otherwise.
FAIR_DEFAULTS: dict[str, Any] = {
    "prefix_cache": False,
    "chunked_prefill": True,
    "max_batch": 256,
    "max_batched_tokens": 8192,
    "kv_cache_dtype": "auto",
    "dtype": "auto",
    "quantization": "none",
    "graphs": True,
    "memory_fraction": 0.9,
    "seed": 0,
}

PROFILE = "profile"
"""Folder in `Context.work` where a server that is traced leaves what its profiler took."""

RESET_TRIES, RESET_PAUSE_S = 60, 0.5  # how often, and how far apart, a refused cache reset is asked for again

LAYOUT: dict[str, str] = {
    "tp": "tensor parallel size",
    "pp": "pipeline parallel size",
    "dp": "data parallel size",
    "ep": "expert parallel size",
    "nodes": "servers that span nodes",
}


@dataclass(frozen=True)
class Context:
    """Where and how one instance of a launch is to listen; made by `launch.server` when the job is on its node."""

    launch: Launch
    model_path: str  # what the framework loads: HF folder, or .gguf for frameworks with `weights = "gguf"`
    port: int
    host: str = "127.0.0.1"
    instance: int = 0
    served_name: str = "model"
    api_key: str = (
        ""  # reaches the server by its environment or a private file, never by argv (ps shows argv to everybody)
    )
    api_key_file: Path | None = None
    python: str = "python3"  # interpreter of the framework's own environment (envs/<name>.txt), absolute on a node
    work: Path = Path(".")  # a private folder (0700) for this instance's scratch files
    cache: Path = Path("caches")  # where what it compiles is kept, perhaps for the next launch (launch.compile_caches)
    gpus: tuple[str, ...] = ()
    node_rank: int = 0
    nodes: int = 1
    head_address: str = ""
    head_port: int = 0
    profile: bool = False  # start so that a profiler can be switched on

    def option(self, name: str, default: Any = None) -> Any:
        """The neutral option `name` of the launch."""
        return self.launch.options.get(name, default)


class Client(Protocol):
    """Requests to a running server, with its API key. `launch.server` has the real one; tests give a fake."""

    def get(self, path: str, timeout_s: float = 10.0) -> Reply: ...

    def post(self, path: str, body: Any = None, timeout_s: float = 30.0) -> Reply: ...


@dataclass(frozen=True)
class Reply:
    """An HTTP answer: status (0 where there was no answer, the reason in `text`) and the body as text."""

    status: int
    text: str

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def json(self) -> Any:
        """The body as JSON, or None where it is not."""
        try:
            return parse_json(self.text)
        except ValueError:
            return None

    @property
    def fields(self) -> dict[str, Any]:
        """Those of the JSON object that the body is; empty where it is none."""
        found = self.json()
        return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class Reset:
    """What came of a prefix-cache reset. `ok` is decided from the body, never from the HTTP status alone."""

    ok: bool
    how: str  # what was asked: "POST /reset_prefix_cache", "cache off", ...
    answer: str = ""


@dataclass(frozen=True)
class Evidence:
    """What a running server says of itself. None where it does not say; `raw` keeps the answers but for secrets.

    Of `effective` what is None is left out.
    """

    version: str | None = None
    # neutral option, part of the layout or one of OWN_CHOICES -> value that the server reports
    effective: Mapping[str, Any] = field(default_factory=dict)
    kv_blocks: int | None = None
    kv_block_tokens: int | None = None
    startup_s: Mapping[str, float] = field(default_factory=dict)  # part -> seconds: weights, compile, graphs, ...
    raw: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        told = {name: value for name, value in self.effective.items() if value is not None}
        object.__setattr__(self, "effective", told)
        # Servers tell their API key: under its name at any depth, and inside the command line that started them.
        object.__setattr__(self, "raw", clean(self.raw))


class Framework:
    """Base of every framework: subclass it once in `frameworks/<name>.py`; the registry finds it."""

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]  # where the options were read: version and document
    exercised: ClassVar[str]  # how far: "real server, CPU" | "own parser" | "not exercised"
    weights: ClassVar[str] = "hf"  # "hf" folder, "gguf" file, or "none" for a server that is not ours to start
    needs_gpu: ClassVar[bool] = True
    fraction_of_free: ClassVar[bool] = False  # memory_fraction is the KV cache's, of what the weights leave free
    ready_path: ClassVar[str] = "/health"
    metrics_path: ClassVar[str | None] = "/metrics"
    # requests name the model by its path, not by the name it is served under
    model_is_path: ClassVar[bool] = False
    endpoints: ClassVar[Sequence[str]] = ("completions", "chat")
    version_argv: ClassVar[Sequence[str]] = ()  # "{python}" stands for the environment's interpreter
    # how the server gets its API key: "environment", "private file", or "none" where argv is the only way (then the
    # server listens on the loopback without one)
    api_key: ClassVar[str] = "none"
    # what traces can be taken with, as studies name them. nsys records any server that it starts; `torch` is one that
    # the server is started with and switches on when asked
    profilers: ClassVar[Sequence[str]] = ("nsys",)
    # field of a request that names a LoRA adapter; empty where a request cannot choose one
    adapter_field: ClassVar[str] = ""
    # neutral option -> how it is given; options absent here are not supported. "--flag" is followed by the value,
    # "--on / --off" are words for true and false (either may be empty), anything else is up to the file's own code
    supported: ClassVar[Mapping[str, str]] = {}
    # neutral option -> neutral value -> the framework's word for it ("" where it is the framework's own default);
    # other values are not supported
    choices: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    # part of LAYOUT -> how it is given; parts absent here can only be 1
    layout: ClassVar[Mapping[str, str]] = {}
    differences: ClassVar[Mapping[str, str]] = {}  # neutral option -> how its meaning differs here
    # common metric name -> the server's own Prometheus name(s), summed
    metrics: ClassVar[Mapping[str, Sequence[str]]] = {}
    # regular expressions of lines of its log: what names a cause before anything else, and errors that only follow
    log_causes: ClassVar[Sequence[str]] = ()
    log_follows: ClassVar[Sequence[str]] = ()
    # fields of a request's body that say "go on after the end token"; null takes a field out of it
    ignore_eos: ClassVar[Mapping[str, Any]] = {"ignore_eos": True}
    # options always set, so that no default of the engine differs silently; a study's value wins
    fair_defaults: ClassVar[Mapping[str, Any]] = {"prefix_cache": False}

    def argv(self, ctx: Context) -> list[str]:
        """The command line of one instance. No secret in it."""
        raise NotImplementedError

    def environment(self, ctx: Context) -> dict[str, str]:
        """Variables beside the inherited ones; the API key may be among them (recorded without its value)."""
        return {}

    def files(self, ctx: Context) -> dict[str, str]:
        """Configuration files by name, written to `ctx.work` for the owner only before the server starts."""
        return {}

    def unsupported(self, launch: Launch) -> str | None:
        """Why this launch cannot work on this framework, or None. Called while planning, without a node."""
        for name, value in launch.options.items():
            if name not in self.supported:
                have = ", ".join(sorted(self.supported)) or "none"
                return f"{self.title} has no option for {name} (it has: {have})"
            if name in self.choices and str(value) not in self.choices[name]:
                return f"{self.title} has no {name} {value!r} (it has: {', '.join(self.choices[name])})"
        spec = launch.layout
        for name in ("tp", "pp", "dp", "ep"):
            if getattr(spec, name) != 1 and name not in self.layout:
                return f"{self.title} has no {LAYOUT[name]}, {name} is {getattr(spec, name)}"
        on_node = launch.platform.get("gpus_per_node")
        if on_node and spec.gpus_per_instance > on_node and "nodes" not in self.layout:
            needs = f"a server of {spec.gpus_per_instance} GPUs needs several nodes of {on_node}"
            return f"{self.title} has no {LAYOUT['nodes']}, and {needs}"
        return None

    def ready(self, client: Client) -> bool:
        """True when requests are answered."""
        return client.get(self.ready_path).ok

    def request_extras(self, launch: Launch) -> dict[str, Any]:
        """Fields added to every request's body, such as llama.cpp's `cache_prompt`; None takes a field out of it."""
        return {}

    def reset_cache(self, client: Client, launch: Launch) -> Reset:
        """Empty the prefix cache and prove it from the answer's body; here: for a server that cannot empty it."""
        if not launch.options.get("prefix_cache"):
            return Reset(True, "cache off", self.supported.get("prefix_cache", ""))
        return Reset(False, "none", f"{self.title} has no way to empty its prefix cache")

    def retried_reset(self, ask: Callable[[], tuple[Reset, int]], retry: Sequence[int]) -> Reset:
        """Repeat `ask()`, which gives (reset, HTTP status), while it is refused with a status in `retry`.

        A server refuses while a request runs, and a request that its client has left can run on for a moment. After
        `RESET_TRIES` the last refusal is the answer.
        """
        for tries_left in range(RESET_TRIES - 1, -1, -1):
            reset, status = ask()
            if reset.ok or status not in retry or not tries_left:
                break
            time.sleep(RESET_PAUSE_S)
        return reset

    def evidence(self, client: Client, log: str) -> Evidence:
        """Ask the running server what it is. Never raises for a missing answer: that is a None."""
        return Evidence(raw={"/v1/models": client.get("/v1/models").text})

    def address(self, ctx: Context) -> str:
        """Where the server answers, without a path."""
        return f"http://{ctx.host}:{ctx.port}"

    def given_api_key(self) -> str:
        """The key of a server that is not ours to start; empty: we make a random one for each launch."""
        return ""

    def untraceable(self, launch: Launch) -> str | None:
        """Why this launch cannot be traced as its `trace` asks, or null. Called while planning, without a node."""
        asked = (launch.trace or {}).get("profiler")
        if asked and asked not in self.profilers:
            have = ", ".join(self.profilers) or "none"
            return f"{self.title} cannot be traced with {asked} here (it has: {have})"
        if asked == "nsys" and self.here(launch).get("container"):
            return "nsys starts a server itself, which it cannot inside a container; the server's own profiler can"
        if asked == "nsys" and launch.platform.get("gpus_per_node") and vendor(launch.platform) == "amd":
            return "nsys records GPUs of NVIDIA; this platform has AMD's"
        on_node = launch.platform.get("gpus_per_node")
        if asked and on_node and launch.layout.gpus_per_instance > on_node:
            return "a server that spans nodes cannot be traced: its profiler leaves its files on each of them"
        return None

    def marks_range(self, launch: Launch) -> bool:
        """True where a server that nsys started marks the range to record, by CUDA's own profiler calls, when asked."""
        return "torch" in self.profilers and not self.on_cpu(launch)

    def start_profile(self, client: Client, launch: Launch) -> Reply | None:
        """Switch the profiler on, for as many steps as `launch.trace` says; None where the framework has none."""
        return client.post("/start_profile") if "torch" in self.profilers else None

    def stop_profile(self, client: Client, launch: Launch) -> Reply | None:
        """Switch the profiler off, also where it has ended by itself; None where the framework has none."""
        return client.post("/stop_profile", timeout_s=120.0) if "torch" in self.profilers else None

    # -- what the files above are made of ------------------------------------

    def options(self, launch: Launch) -> dict[str, Any]:
        """The launch's neutral options, the memory of a shared GPU divided among its instances."""
        options = dict(launch.options)
        if launch.layout.share_gpu and options.get("memory_fraction") is not None:
            options["memory_fraction"] = options["memory_fraction"] / launch.layout.instances
        return options

    def option_argv(self, launch: Launch, own: Mapping[str, Sequence[str]] | None = None) -> list[str]:
        """The options as `supported` and `choices` say, in the order of `OPTIONS`; `own` gives the words of some."""
        argv: list[str] = []
        options = self.options(launch)
        for name in OPTIONS:
            value, how = options.get(name), self.supported.get(name, "")
            if own and name in own:
                argv += own[name]
            elif value is None or not how.startswith(("-", "/")):
                continue
            elif "/" in how:
                argv += how.split("/")[0 if value else 1].split()
            else:
                word = self.choices.get(name, {}).get(str(value), value)
                argv += [how, json.dumps(word) if isinstance(word, Mapping) else str(word)] if word != "" else []
        return argv

    def layout_argv(self, launch: Launch) -> list[str]:
        """The parts of the layout that `layout` gives as one "--flag", always set, 1 too."""
        given = {name: how for name, how in self.layout.items() if how.startswith("-") and " " not in how}
        return [word for name, how in given.items() for word in (how, str(getattr(launch.layout, name)))]

    @staticmethod
    def here(launch: Launch) -> Mapping[str, Any]:
        """How the launch's framework, or the build of it that it names, is started on its platform."""
        return (launch.platform.get("frameworks") or {}).get(launch.framework) or {}

    def program(self, ctx: Context, *default: str) -> list[str]:
        """What to run: the platform's `executable` for this framework, or else `default`."""
        how = self.here(ctx.launch)
        return [how["executable"]] if how.get("executable") else list(default)

    def preferred(self, launch: Launch, variables: Mapping[str, str]) -> dict[str, str]:
        """Environment `variables`, where the study's or else the platform's value of the same name wins."""
        given = {**(launch.platform.get("environment") or {}), **launch.environment}
        return {name: str(given.get(name, value)) for name, value in variables.items()}

    @staticmethod
    def compile_caches(ctx: Context) -> dict[str, str]:
        """Variables that name where compilers below the framework keep what they made: in `ctx.cache`, each its own."""
        folders = {
            "TRITON_CACHE_DIR": "triton", "TORCHINDUCTOR_CACHE_DIR": "inductor", "TORCH_EXTENSIONS_DIR": "extensions",
            "CUDA_CACHE_PATH": "cuda", "FLASHINFER_WORKSPACE_BASE": "flashinfer", "TVM_FFI_CACHE_DIR": "tvm-ffi",
        }  # fmt: skip
        return {name: str(ctx.cache / folder) for name, folder in folders.items()}

    def on_cpu(self, launch: Launch) -> bool:
        """True where the platform has no GPU, or says that its build of this framework is one for CPUs."""
        how = self.here(launch)
        return how.get("device") == "cpu" or not launch.platform.get("gpus_per_node")
