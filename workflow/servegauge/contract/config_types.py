"""What people write under config/, as types: the keys that a file has after it was read, checked and completed.

`yaml_schema` holds a file against its schema and says what is wrong with it; a type checker holds the code against
these. A test holds the keys of the two against each other. Values are plain data all the way, because they are kept so
in plans and specifications, and names are hashes of them. What has values of one kind is a plain dict. Every key may be
absent; those after `Added:` are no keys of the file, but what reading it adds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict


class Gpu(TypedDict, total=False):
    name: str
    vendor: Literal["nvidia", "amd"]
    memory_gb: float
    bf16_tflops: float
    memory_gb_s: float


class Prices(TypedDict, total=False):
    currency: str
    gpu_hour: float
    node_hour: float
    kwh: float


class FrameworkHere(TypedDict, total=False):
    """How a framework is started on a platform."""

    venv: str
    lock: str
    executable: str
    container: str
    runtime: str
    container_args: list[str]
    device: Literal["gpu", "cpu"]
    url: str
    note: str


class Slurm(TypedDict, total=False):
    partition: str
    account: str
    qos: str
    constraint: str
    gres: str
    cpus_per_task: int
    mem_gb: float
    exclusive: bool
    time_min: int
    exclude: str
    sbatch: list[str]
    cluster: str


class Platform(TypedDict, total=False):
    description: str
    nodes: int
    gpus_per_node: int
    gpu: Gpu
    prices: Prices
    memory_gb: float
    placement: dict[str, list[int]]
    expect: dict[str, Any]  # fact -> what it must be: node/expectations.py
    environment: dict[str, str]
    setup: list[str]
    modules: list[str]
    frameworks: dict[str, FrameworkHere]
    scratch: str
    nccl_tests: str
    slurm: Slurm
    # Added:
    name: str


class Model(TypedDict, total=False):
    description: str
    source: str
    hub: bool
    revision: str
    gguf: str
    tokenizer: str
    dtype: str
    context_tokens: int
    build: str
    shape: dict[str, int]
    licence: str
    # Added:
    name: str


class LengthSpec(TypedDict, total=False):
    distribution: Literal["constant", "uniform", "normal", "lognormal", "choice"]
    value: int
    mean: float
    std: float
    min: int
    max: int
    values: list[int]
    weights: list[float]


class PauseSpec(TypedDict, total=False):
    distribution: Literal["exponential", "lognormal", "uniform"]
    mean: float
    std: float
    min: float
    max: float


Length = int | LengthSpec
Pause = float | PauseSpec


class Prompts(TypedDict, total=False):
    description: str
    kind: str
    input_tokens: Length
    output_tokens: Length
    prefix: dict[str, int]
    turns: Length
    pause_s: Pause
    block_tokens: int
    where: dict[str, Any]  # column of a recording -> the value that is taken
    cut: dict[str, float]
    images: dict[str, int]
    path: str
    sha256: str
    how_to_get: str
    licence: str
    fields: dict[str, str]  # of a line of jsonl: what -> the key that it has there
    filters: dict[str, int]  # limit, such as max_total_tokens -> tokens, turns or requests
    # Added:
    name: str
    default_output_tokens: int  # by `servegauge load`, where a file says nothing


class Arrival(TypedDict, total=False):
    process: str
    shape: float
    size: int
    path: str
    factors: list[float]


class StudyLoad(TypedDict, total=False):
    arrival: Arrival
    requests: int
    duration_s: float
    warmup_requests: int
    input_tokens: int
    output_tokens: int
    lora_mix: dict[str, float]
    seed: int
    draw: Literal["per_repeat", "fixed"]
    endpoint: Literal["completions", "chat"]
    stream: bool
    temperature: float
    ignore_eos: bool
    timeout_s: float
    max_in_flight: int
    think_s: float
    start: Literal["staggered", "together"]
    ramp_s: float
    bursts: int


class Compare(TypedDict, total=False):
    factor: str
    baseline: Any  # a value of that axis
    margin: float
    primary: list[str]


class Api(TypedDict, total=False):
    name: str
    currency: str
    input_per_million: float
    output_per_million: float


class Stop(TypedDict, total=False):
    half_width: float
    at_most: int


class Trace(TypedDict, total=False):
    profiler: Literal["torch", "nsys"]
    graphs: Literal["graph", "node"]
    cells: str
    steps: int
    after_s: float
    most_s: float


class Study(TypedDict, total=False):
    question: str
    base: str
    stand_ins: dict[str, dict[str, Any] | str]  # axis -> value -> what is measured instead; or another axis
    matrix: dict[str, Any]  # axis -> its values; and repeat, include, exclude
    server: dict[str, Any]  # option -> its value; and extra_args, environment
    load: StudyLoad
    slo: dict[str, dict[str, float]]
    capacity: dict[str, float]
    validity: dict[str, float]
    compare: Compare
    economics: dict[str, Api]
    expects: list[dict[str, Any]]  # published figures: plan/expected.py
    aa: bool
    trace: Trace
    budget: dict[str, float]
    job: dict[str, Any]  # records.order.JobSettings, and `stop`
    probes: list[str]
    probe_size: Literal["quick", "full"]
    probe_processes: int
    # Added:
    name: str
    path: str
    files: list[str]
    text: str
    sha256: str
    models: dict[str, Model]
    platforms: dict[str, Platform]
    prompts: dict[str, Prompts]
    recorded_rps: dict[str, float]
    shapes: dict[str, dict[str, Any]]  # model -> what plan.fit says of it
    planning: dict[str, float]


if TYPE_CHECKING:
    ModelData = Model
    PlatformData = Platform
    PromptsData = Prompts
    StudyData = Study
else:  # A document of another version may say more, and keeps it: msgspec would drop what a TypedDict does not have.
    ModelData = PlatformData = PromptsData = StudyData = dict[str, Any]
