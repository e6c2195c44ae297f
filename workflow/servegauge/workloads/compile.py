"""Frozen workloads: prompts, arrival times and answer lengths of a cell, compiled once, hashed, replayed everywhere.

`results/workloads/<id>/workload.parquet` has one row per request, by phase (schema below), and
`workload.json` says what it was made of. The bytes depend on the specification, the tokenizer's file, the data set's
file and the locked libraries only, so that every platform and framework gets the same ones.

`load_times.py` says when requests are sent. Closed loops have no times: a stream sends when it is free.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from servegauge.base.errors import UserError
from servegauge.base.files import sha256, whole_folder, write_json
from servegauge.contract.config_types import Prompts
from servegauge.contract.records.base import DamagedRecord, read, write
from servegauge.contract.records.plan import Plan
from servegauge.contract.records.specs import WorkloadSpec
from servegauge.contract.records.workload import Spread, WorkloadRecord
from servegauge.contract.spec import Load, Workload
from servegauge.inputs import models
from servegauge.workloads import replay
from servegauge.workloads import tokenizer as tokens
from servegauge.workloads.data_sets import unchanged_sha256
from servegauge.workloads.images import with_images
from servegauge.workloads.load_times import OUTPUT_TOKENS, SPARE_S_PER_TOKEN, LoadTimes, load_times
from servegauge.workloads.prompts import Drawn, Prompt, draw_prompts
from servegauge.workloads.recording import Recording
from servegauge.workloads.recordings import formats
from servegauge.workloads.replay import recording_of
from servegauge.workloads.sessions import PHASES, generated, mean_pause_s, recorded_conversations, staggered

PARQUET, JSON = "workload.parquet", "workload.json"
FEW = 8  # workloads; below it, starting further processes takes longer than compiling


def _column(name: str, kind: pa.DataType, description: str, unit: str = "", nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable, {"description": description, "unit": unit})


SCHEMA = pa.schema(
    [
        _column("request", pa.int32(), "number of the request, 0 for the first of the warm-up"),
        _column("phase", pa.string(), "warmup, ramp, window or tail"),
        _column(
            "scheduled_s",
            pa.float64(),
            "when to send it, from the start of its phase (tail: of the window); null: closed loop",
            "s",
            True,
        ),
        _column("prompt", pa.string(), "text for the completions endpoint"),
        _column(
            "messages", pa.string(), "messages for the chat endpoint as JSON; null: the prompt is the message", "", True
        ),
        _column("prompt_tokens", pa.int32(), "tokens of the prompt, special tokens included", "tokens"),
        _column("output_tokens", pa.int32(), "tokens of answer to ask for", "tokens"),
    ]
)

SESSION_SCHEMA = pa.schema(
    [
        *SCHEMA,
        _column("session", pa.int32(), "number of the session that the request is of"),
        _column("turn", pa.int32(), "its number in the session, from 0"),
        _column(
            "pause_s", pa.float64(), "from the answer before it until it is sent; null: it has its own time", "s", True
        ),
    ]
)
"""Of a workload of sessions: their further requests have no time of their own, but a pause."""

SESSION_KINDS = {"sessions": generated, "conversations": recorded_conversations}


def compile_workload(workload: Workload, root: Path, out: Path) -> WorkloadRecord:
    """Compile `workload` into the folder `out / workload.id` and return its `workload.json`.

    Does nothing where the folder is there, whole, and made of the same files. UserError where a tokenizer or data set
    is missing, where one has changed since (then the workload would be another one under the same name), and where the
    window would be empty.
    """
    folder = out / workload.id
    if folder.exists():
        return _present(folder, root)
    tokenizer = models.workload_tokenizer(workload.tokenizer, root)
    load = Load(**workload.load)
    spec: Prompts = {**workload.prompts}
    if load.input_tokens:
        spec["input_tokens"] = load.input_tokens
    # One seed for each thing that is drawn: another arrival process leaves the prompts as they are drawn.
    names = ("prompts", "warmup", "window", "ramp", "tail")
    states = np.random.SeedSequence(workload.seed).generate_state(len(names), np.uint64)
    seeds = {name: int(seed) for name, seed in zip(names, states, strict=True)}
    recording = recording_of(workload.prompts, root)
    long = session_tokens(workload.prompts, load, recording)
    times = load_times(load, seeds, root, long or mean_output_tokens(workload.prompts, load), recording)
    if not times.window:
        raise UserError(
            f"workload {workload.id}: no request arrives in {load.duration_s:g} s at {load.rate_rps:g} requests a "
            "second; lengthen the window"
        )
    counts = {phase: len(when) for phase, when in times.phases.items()}
    drawn = draw(spec, tokens.load(tokenizer), counts, seeds["prompts"], load.output_tokens, root)
    closed = load.concurrency is not None
    table = workload_table(times, drawn.prompts, drawn.sessions, closed)
    if load.lora_mix:
        table = with_adapters(table, load.lora_mix, workload.seed)
    rows = Counter(table["phase"].to_pylist())
    try:
        with whole_folder(folder) as temporary:
            write_parquet(table, temporary / PARQUET)
            described = WorkloadRecord(
                id=workload.id,
                sha256=sha256(temporary / PARQUET),
                requests=rows["window"],
                warmup_requests=rows["warmup"],
                ramp_requests=rows["ramp"],
                tail_requests=rows["tail"],
                window_s=times.window_s,
                last_scheduled_s=times.window[-1],
                prompt_tokens=_spread(table, "prompt_tokens"),
                output_tokens=_spread(table, "output_tokens"),
                files=_sources(workload, drawn.source, tokenizer, root),
                prompts=dict(drawn.source),
                spec=WorkloadSpec.of(workload),
            )
            write(temporary / JSON, described)
    except FileExistsError:  # another process compiled the same one meanwhile
        return _present(folder, root)
    return described


def read_workload(path: Path) -> pa.Table:
    """The workload at `path` (its folder or its Parquet file), after its bytes were checked against `workload.json`."""
    folder = path if path.is_dir() else path.parent
    file = folder / PARQUET
    try:
        expected = read(folder / JSON, WorkloadRecord).sha256
        found = sha256(file)
    except FileNotFoundError as error:
        raise UserError(f"there is no workload in {folder}: {error.filename} is missing. {_again(folder)}") from error
    if found != expected:
        raise UserError(f"{file} has SHA-256 {found}, but was frozen as {expected}. {_again(folder)}")
    return pq.read_table(file)


def write_parquet(table: pa.Table, path: Path) -> None:
    """Write `table` so that equal tables give equal bytes: one row group, fixed encoding, nothing of time or place."""
    pq.write_table(
        table, path, row_group_size=max(1, table.num_rows), compression="zstd", compression_level=3, version="2.6",
        data_page_version="1.0", use_dictionary=["phase"], write_statistics=True, store_schema=True,
    )  # fmt: skip


def compile_plan(
    plan: Path, out: Path, results: Path, root: Path, processes: int = 1, say: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Compile the missing workloads of the plan file into `results / workloads` and list all of them in the file `out`.

    The list: `{"study", "workloads": {id: {"sha256", "requests", "warmup_requests"}}}`. One UserError names everything
    that could not be compiled.
    """
    try:
        planned = read(plan, Plan)
    except FileNotFoundError as error:
        raise UserError(f"there is no plan {plan}; make it with scripts/write_plan.py") from error
    wanted = [spec.workload for spec in planned.workloads]
    folder = results / "workloads"
    missing = sum(not (folder / workload.id).exists() for workload in wanted)
    say(f"{len(wanted)} workloads, {missing} to compile")
    compiled: dict[str, Any] = {}
    mistakes: dict[str, str] = {}

    def keep(workload: Workload, described: WorkloadRecord | str) -> None:
        if isinstance(described, str):
            mistakes.setdefault(described, workload.id)
            return
        compiled[workload.id] = {key: getattr(described, key) for key in ("sha256", "requests", "warmup_requests")}
        size = described.prompt_tokens.mean
        say(f"{len(compiled)}/{len(wanted)} {workload.id}: {described.requests} requests, {size:.0f} tokens a prompt")

    if processes < 2 or missing < FEW:
        for workload in wanted:
            keep(workload, _try_compile(workload, root, folder))
    else:
        # Each process works on one core; the tokenizers library would start threads for all cores in each.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            jobs = [(workload, pool.submit(_try_compile, workload, root, folder)) for workload in wanted]
            for workload, job in jobs:
                keep(workload, job.result())
    if mistakes:
        raise UserError("\n".join(f"{text} (needed by {name} and perhaps others)" for text, name in mistakes.items()))
    listed = {"study": planned.name, "workloads": compiled}
    write_json(out, listed)
    return listed


def _try_compile(workload: Workload, root: Path, folder: Path) -> WorkloadRecord | str:
    """`workload.json`, or the text of what the user has to correct."""
    try:
        return compile_workload(workload, root, folder)
    except UserError as error:
        return str(error)


def mean_output_tokens(prompts: Prompts, load: Load) -> float | None:
    """Mean answer length that a prompt set asks for; None where only its data can tell."""
    return _mean(load.output_tokens or prompts.get("output_tokens"))


def _mean(length: Any) -> float | None:
    """Mean of a length's distribution; None where there is none."""
    if not isinstance(length, Mapping):
        return length
    if "values" in length:
        return float(np.average(length["values"], weights=length.get("weights")))
    return length.get("mean") or length.get("value") or (length.get("min", 1) + length.get("max", 512)) / 2


def draw(
    spec: Prompts,
    tokenizer: tokens.Tokenizer,
    counts: Mapping[str, int],
    seed: int,
    output_tokens: int | None,
    root: Path,
) -> Drawn:
    """Prompts of any kind of set for `counts` requests (of a set of sessions: sessions) of each phase."""
    if spec["kind"] in formats():
        return replay.draw(spec, tokenizer, counts, seed, output_tokens, root)
    if made := SESSION_KINDS.get(spec["kind"]):
        return made(spec, tokenizer, counts, np.random.default_rng(seed), output_tokens, root)
    drawn = draw_prompts(spec, tokenizer, sum(counts.values()), seed, output_tokens, root)
    return replace(drawn, prompts=with_images(drawn.prompts, spec["images"], seed)) if "images" in spec else drawn


def workload_table(
    times: LoadTimes, prompts: list[Prompt], sessions: list[list[Prompt]] | None = None, closed: bool = False
) -> pa.Table:
    """Rows in the order of the phases; those of a session one after the other, of which the first alone has a time.

    Prompts are drawn for warm-up and window first: spare requests change none. Streams of a closed loop start with
    sessions at every stage (`staggered`), as they stand later on.
    """
    phases = times.phases
    drawn = sessions or [[prompt] for prompt in prompts]
    order = [phase for phase in PHASES for _ in phases[phase]]
    rows: list[tuple[str, float | None, int, Prompt]] = []
    begun = 0
    for phase, when in phases.items():
        mine = [session for session, name in zip(drawn, order, strict=True) if name == phase]
        mine = staggered(mine) if closed and phase == "ramp" else mine
        for number, (session, time) in enumerate(zip(mine, when, strict=True), begun):
            rows += [(phase, None if place else time, number, one) for place, one in enumerate(session)]
        begun += len(mine)
    columns: dict[str, Any] = {
        "request": range(len(rows)),
        "phase": [phase for phase, *_ in rows],
        "scheduled_s": [time for _, time, *_ in rows],
        "session": [number for _, _, number, _ in rows],
        "prompt": [one.text for *_, one in rows],
    }
    named = ("messages", "prompt_tokens", "output_tokens", "turn", "pause_s")
    columns |= {name: [getattr(one, name) for *_, one in rows] for name in named}
    schema = SESSION_SCHEMA if sessions else SCHEMA
    return pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema)


def with_adapters(table: pa.Table, mix: Mapping[str, float], seed: int) -> pa.Table:
    """`table` with the LoRA adapter that each request (of a session: each of its requests) asks for; null: none."""
    names = sorted(mix)  # as a workload is named, whatever the order in its file
    weights = np.asarray([mix[name] for name in names], float)
    groups = table["session" if "session" in table.column_names else "request"].to_numpy()
    draw = np.random.default_rng([seed, 1])
    drawn = draw.choice(len(names), size=int(groups.max()) + 1, p=weights / weights.sum())
    chosen = [names[index] for index in drawn[groups]]
    column = pa.array([None if name == "base" else name for name in chosen], pa.string())
    return table.append_column(_column("adapter", pa.string(), "LoRA adapter; null: the base model", "", True), column)


def session_tokens(spec: Prompts, load: Load, recording: Recording | None) -> float | None:
    """About how long a session takes, in tokens of answer at `SPARE_S_PER_TOKEN`; None where there are no sessions.

    Ramp and tail must hold whole sessions, so that theirs is twice the mean.
    """
    if recording is not None:
        sessions = recording.sessions
        took = [
            sum((one.pause_s or 0.0) / SPARE_S_PER_TOKEN + (load.output_tokens or one.output_tokens) for one in session)
            for session in sessions
        ]
        return 2 * float(np.mean(took))
    if spec["kind"] not in SESSION_KINDS:
        return None
    turns = _mean(spec.get("turns")) or 4.0
    answer = load.output_tokens or _mean(spec.get("output_tokens")) or OUTPUT_TOKENS
    return 2 * turns * (mean_pause_s(spec.get("pause_s", 0.0)) / SPARE_S_PER_TOKEN + answer)


def _spread(table: pa.Table, name: str) -> Spread:
    """Least, mean and most of a column over the window."""
    values = table.filter(pa.compute.equal(table["phase"], "window"))[name].to_numpy()
    return Spread(min=int(values.min()), mean=round(float(values.mean()), 3), max=int(values.max()))


def _sources(workload: Workload, source: Mapping[str, Any], tokenizer: Path, root: Path) -> dict[str, str]:
    """SHA-256 of every file that shaped this workload, by its path as the configuration writes it."""
    inside = tokenizer.is_relative_to(root)
    files = {str(tokenizer.relative_to(root) if inside else tokenizer): unchanged_sha256(tokenizer)}
    if "path" in source:
        files[source["path"]] = source["sha256"]
    arrival = workload.load["arrival"]
    if arrival["process"] == "replay":
        files[arrival["path"]] = sha256(root / arrival["path"])
    return files


def _present(folder: Path, root: Path) -> WorkloadRecord:
    """`workload.json` of a compiled workload, after its bytes and its sources were checked."""
    try:
        described = read(folder / JSON, WorkloadRecord)
        found = sha256(folder / PARQUET)
    except (FileNotFoundError, DamagedRecord) as error:
        reason = error.reason if isinstance(error, DamagedRecord) else error
        raise UserError(f"{folder} is damaged: {reason}. {_again(folder)}") from error
    if found != described.sha256:
        raise UserError(f"{folder / PARQUET} is not what was frozen. {_again(folder)}")
    for name, frozen in described.files.items():
        path = root / os.path.expandvars(os.path.expanduser(name))
        # A data set that is gone does no harm: what was taken of it is frozen.
        if path.is_file() and unchanged_sha256(path) != frozen:
            raise UserError(
                f"{path} has changed since {folder.name} was frozen with it, so cells measured before and after would "
                "not be the same. Restore it, or give the changed one another name."
            )
    return described


def _again(folder: Path) -> str:
    return f"Delete {folder} and run again: it is compiled to the same bytes."
