"""`servegauge doctor`: is this site ready? One short job per platform before any GPU hour is spent, and a table.

The job is submitted as a launch's is, by the same code; on the node it holds the platform's `expect:` against the facts
with the code that refuses to measure. A check never stops the others.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import convert
from msgspec.structs import replace

from servegauge.base import allocation
from servegauge.base.errors import UserError
from servegauge.cli import options
from servegauge.contract.config_types import Platform, Study
from servegauge.contract.records.base import DamagedRecord, plain, read
from servegauge.contract.records.job import JobRecord
from servegauge.contract.records.order import JobContext, Order
from servegauge.contract.records.outcome import Outcome
from servegauge.contract.records.specs import LaunchSpec
from servegauge.contract.spec import AGAIN, Launch, Placement
from servegauge.contract.yaml_schema import read_yaml
from servegauge.plan.config import load_config, load_study
from servegauge.plan.expand import expand
from servegauge.submit import slurm_commands, slurm_request
from servegauge.submit.backends import backends
from servegauge.submit.monitor import Cancelled, submit_and_wait

HELP = "Check a site before any GPU hour is spent: a short job per platform, and a table of what to change."
EXAMPLE = """
  servegauge doctor --profile profiles/hlrs --study vgpu-vs-bare-metal
"""
RUN = "servegauge.cli.doctor:examine"
FREE_GB = 5.0  # asked of the results folder and of the scratch folder
CLOCK_S = 1.0  # clocks that differ by more make times of the login node and of the node hard to compare
VERSION_S = 300.0  # an engine may need minutes to import from a cold file system
JOB_MIN = 10
IN_SERVICE = ("idle", "mixed", "allocated", "completing", "planned", "reserved")


@dataclass(frozen=True)
class Check:
    """One row of the table. `remedy` says what to do where `ok` is false; `ok` None: unknown."""

    platform: str
    what: str
    ok: bool | None
    found: str
    remedy: str = ""


Found = tuple[bool | None, str, str]  # ok, what was found, what to do


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--profile", type=options.path, help="folder of a Snakemake profile, such as profiles/hlrs")
    add("--study", type=options.name, help="name of a file in config/studies/; default: as config/config.yaml says")
    add("--submit", choices=sorted(backends()), help="how jobs reach their node; default: as the profile says")


def run(arguments: argparse.Namespace) -> int:
    """The subcommand: exit status."""
    return doctor(arguments.profile, arguments.study, arguments.submit)


# -- on the login node ----------------------------------------------------


def doctor(profile: Path | None, study_name: str | None, submit: str | None, root: Path = Path()) -> int:
    """Examine every platform of the study and print the table; 1 where something must be corrected."""
    config = load_config(root, {**settings(profile), **({"study": study_name} if study_name else {})})
    mode = submit or config["submit"]
    study = load_study(root, config["study"])
    launches: dict[str, list[LaunchSpec]] = {}
    for launch in expand(study).launches:
        if not launch.platform["name"].endswith(AGAIN):
            launches.setdefault(launch.platform["name"], []).append(launch)
    checks: list[Check] = []
    for platform, of_it in launches.items():
        print(f"{platform}: {'a short job' if mode == 'slurm' else 'a short look'}", flush=True)
        checks += platform_checks(platform, of_it, mode, root, study)
    print()
    print(render(checks))
    wrong = [check for check in checks if check.ok is False]
    print(f"\n{len(checks)} checks, {len(wrong)} to correct" if wrong else f"\n{len(checks)} checks, all well")
    return 1 if wrong else 0


def settings(profile: Path | None) -> dict[str, Any]:
    """What a profile's `configfile:` and `config:` set of config.yaml."""
    if profile is None:
        return {}
    file = profile / "config.yaml" if profile.is_dir() else profile
    if not file.is_file():
        known = ", ".join(sorted(str(path.parent) for path in Path("profiles").glob("*/config.yaml")))
        raise UserError(f"there is no profile {profile}. There are: {known or 'none'}")
    data, _ = read_yaml(file)
    found: dict[str, Any] = {}
    names, pairs = data.get("configfile") or [], data.get("config") or []
    for name in [names] if isinstance(names, str) else names if isinstance(names, list) else [None]:
        if not isinstance(name, str):
            raise UserError(f"{file}: configfile: found {names!r}; expected the path of a file, or a list of paths")
        found |= read_yaml(Path(name))[0]
    if isinstance(pairs, dict):
        return {**found, **pairs}
    for pair in pairs if isinstance(pairs, list) else [pairs]:
        key, equals, value = str(pair).partition("=")
        if not key or not equals:
            raise UserError(f"{file}: config: found {pair!r}; expected NAME=VALUE, such as study=demo")
        found[key] = value
    return found


def platform_checks(platform: str, launches: list[LaunchSpec], mode: str, root: Path, study: Study) -> list[Check]:
    """Everything about one platform: from here, and by a job of its own."""
    checks = [Check(platform, what, *found) for what, found in _from_here(launches[0].platform, mode, study, root)]
    if any(check.what == "partition" and check.ok is False for check in checks):
        return checks
    order = _order(platform, launches, root, study["name"])
    before = time.time()
    try:
        outcome = submit_and_wait(order, mode, poll_s=5.0)
    except UserError as error:
        return [*checks, Check(platform, "job", False, str(error), "see the message")]
    except Cancelled as cancelled:
        raise KeyboardInterrupt from cancelled
    after = time.time()
    answer = outcome.answer
    if "checks" not in answer:
        return [*checks, Check(platform, "job", False, str(outcome.reason), "read the job's log in results/.doctor")]
    checks.append(Check(platform, "job", True, f"{outcome.job and outcome.job.job} ran on {answer['node']}"))
    checks += [Check(**check) for check in answer["checks"]]
    ok, found, remedy = clock(answer["started_s"], answer["ended_s"], before, after)
    checks.append(Check(platform, "clock", ok, found, remedy))
    return checks


def _order(platform: str, launches: list[LaunchSpec], root: Path, study: str) -> Order:
    """The order of the examining job: as wide as the widest launch of the platform, a new one unless it still runs."""
    widest = max(launches, key=lambda launch: launch.layout.gpus)
    order = Order(
        study=f"doctor of {study}",
        launch=replace(widest, id=f"doctor-{platform}"),
        attempt=0,
        time_min=JOB_MIN,
        root=str(root.resolve()),
        results="results/.doctor",
        run=RUN,
        asked={"launches": [plain(launch) for launch in _one_of_each(launches)]},
    )
    try:
        running = read(order.folder / "job.json", JobRecord).state != "ended"
    except (FileNotFoundError, DamagedRecord):
        running = False
    if not running:
        shutil.rmtree(order.folder, ignore_errors=True)
    return order


def _one_of_each(launches: Iterable[LaunchSpec]) -> list[LaunchSpec]:
    """One launch for each framework and model."""
    return list({(launch.framework, launch.model["name"]): launch for launch in launches}.values())


def _from_here(platform: Platform, mode: str, study: Study, root: Path) -> Iterator[tuple[str, Found]]:
    if mode == "slurm":
        yield "partition", partition(platform)
    for name, prompts in study["prompts"].items():
        if prompts.get("path"):
            path = root / Path(os.path.expandvars(prompts["path"])).expanduser()
            there = path.is_file()
            how = prompts.get("how_to_get") or f"put the data set there; config/prompts/{name}.yaml names it"
            yield f"data set {name}", (there, str(path) if there else f"{path} is not there", "" if there else how)


def partition(platform: Platform) -> Found:
    """Whether the partition exists and has nodes that can run something."""
    name = slurm_request.partition(platform)
    file = f"config/platforms/{platform['name']}.yaml"
    argv = ["sinfo", "--noheader", "--format", "%P|%a|%D|%T|%l", *(["--partition", name] if name else [])]
    try:
        answer = slurm_commands.run_command(argv, slurm_request.cluster(platform))
    except FileNotFoundError:
        return False, "there is no sinfo on this machine", "log in to a node of the cluster that can submit jobs"
    except subprocess.TimeoutExpired:
        return False, "Slurm does not answer", "try again later; `sinfo` shows when it is back"
    rows = [row for line in answer.stdout.splitlines() if len(row := line.split("|")) == 5]  # no "CLUSTER: name"
    if not rows:
        message = answer.stderr.strip() or f"there is no partition {name!r}"
        return False, message, f"`sinfo -s` lists the partitions; set slurm: partition in {file}"
    up = sum(int(row[2]) for row in rows if row[1] == "up" and row[3].rstrip("*$~#!%@^-+") in IN_SERVICE)
    if not up:
        return False, f"{name or 'the default partition'} has no node in service", "`sinfo -R` says why"
    return True, f"{name or 'default'}: {up} nodes in service", ""


def clock(node_started: float, node_ended: float, before: float, after: float) -> Found:
    """The node's clock against ours: it started after we submitted and ended before we knew of it, in seconds."""
    if node_started < before - CLOCK_S:
        return False, f"the node's clock is behind by at least {before - node_started:.1f} s", "ask for NTP on the node"
    if node_ended > after + CLOCK_S:
        return False, f"the node's clock is ahead by at least {node_ended - after:.1f} s", "ask for NTP on the node"
    return True, f"offset between {node_ended - after:+.1f} s and {node_started - before:+.1f} s", ""


def render(checks: Iterable[Check]) -> str:
    """The table, as wide as its contents; what to do stands below the row that needs it."""
    words = {True: "ok", False: "PROBLEM", None: "?"}
    rows = [(check.platform, check.what, words[check.ok], check.found, check.remedy) for check in checks]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    lines = []
    for *cells, found, remedy in rows:
        start = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        lines.append(f"{start}  {found}")
        if remedy:
            lines.append(" " * (len(start) + 2) + f"-> {remedy}")
    return "\n".join(lines)


# -- on the node ----------------------------------------------------------


def examine(order: Order, _job: JobContext) -> Outcome:
    """What one node has: the job's side of the doctor. Called by `entrypoint.run_order`."""
    started = time.time()
    root, platform = Path(order.root), order.launch.platform
    checks = []
    for what, check in _node_checks(order, root, platform):
        try:
            found = check()
        except (OSError, UserError, subprocess.SubprocessError, ValueError) as error:
            found = (False, str(error) or type(error).__name__, "see the message")
        checks.append(asdict(Check(platform["name"], what, *found)))
    node = allocation.node() or socket.gethostname()
    answer = {"checks": checks, "started_s": started, "ended_s": time.time(), "node": node}
    return Outcome(
        launch=order.launch.id, attempt=order.attempt, study=order.study, status="ok", cells={}, answer=answer
    )


def _node_checks(order: Order, root: Path, platform: Platform) -> Iterator[tuple[str, Callable[[], Found]]]:
    from servegauge.node.expectations import facts

    found = facts(root)
    yield "expected facts", lambda: expected(platform, found)
    yield "CPUs", lambda: cpus(platform)
    if platform.get("gpus_per_node"):
        yield "GPUs", lambda: gpus(order, found)
        yield "driver", lambda: known(found["gpu_driver"])
        amd = found["gpu_vendor"]["value"] == "AMD"
        yield "ROCm" if amd else "CUDA", lambda: known(found["gpu_rocm" if amd else "gpu_cuda"])
    for data in order.asked["launches"]:
        launch = convert(data, LaunchSpec).launch
        yield f"framework {launch.framework}", partial(version, launch, root)
        yield f"model {launch.model['name']}", partial(model, launch, root)
    yield "ports", port
    yield "results folder", lambda: writable(root / order.results)
    for name, folder in (("results", root / order.results), ("scratch", scratch(platform))):
        yield f"space for {name}", partial(space, folder)


def expected(platform: Platform, found: Mapping[str, Any]) -> Found:
    """The platform's `expect:`, with the code that refuses to measure."""
    from servegauge.node.expectations import mismatches

    expect = platform.get("expect") or {}
    if wrong := mismatches(expect, found):
        where = f"config/platforms/{platform['name']}.yaml"
        return False, "; ".join(wrong), f"correct `expect:` in {where}, or ask for other nodes in its `slurm:`"
    return True, f"{len(expect)} facts as expected" if expect else "nothing is expected", ""


def cpus(platform: Platform) -> Found:
    """CPUs that `placement` names, against those that the job has."""
    allowed = os.sched_getaffinity(0)
    if missing := sorted(Placement.of(platform).cpus - allowed):
        return (
            False,
            f"placement names CPUs that the job may not use: {', '.join(map(str, missing))}",
            "ask for more with slurm: cpus_per_task or exclusive, or change placement",
        )
    return True, f"{len(allowed)} CPUs for the job", ""


def gpus(order: Order, found: Mapping[str, Any]) -> Found:
    """GPUs that the widest launch needs on a node, against those that the job got and that the driver shows.

    A MIG slice counts as one: the driver shows the GPU that it is a part of, and the job is given slices.
    """
    from servegauge.node.gpus import visible

    def fact(name: str) -> Any:
        return (found.get(name) or {}).get("value")

    _, needed = slurm_request.shape_of(order)
    variable, given = visible()
    if allocation.job() and variable and len(given) < needed:
        return False, f"the job got {len(given)} GPUs of {needed}", "set slurm: gres, for example gpu:{gpus}"
    count = fact("gpu_count")
    if count is None:
        why = (found.get("gpu_count") or {}).get("reason") or "no reason was recorded"
        return False, f"the node's GPUs could not be read: {why}", "run nvidia-smi, amd-smi or rocm-smi there"
    if lost := fact("gpu_lost"):
        return False, f"the driver cannot speak to the GPU at {', '.join(lost)}", "ask for the node to be reset"
    slices = bool(given) and all(name.startswith("MIG-") for name in given)
    shown = len(given) if slices else fact("gpu_devices") or len(fact("gpu_mig_profiles") or ()) or count
    if shown < needed:
        return False, f"the driver shows {shown} GPUs of {needed}", "run nvidia-smi or amd-smi on the node"
    if allocation.job() and not variable:
        said = f"the driver shows {shown}, no variable says which of them are the job's: {fact('gpu_model')}"
        return None, said, "set slurm: gres, for example gpu:{gpus}, unless the site gives whole nodes without it"
    what = "MIG slices" if slices or (fact("gpu_mig") is True and shown != count) else "GPUs"
    return True, f"{needed} of {shown} {what}{f' in {variable}' if slices else ''}: {fact('gpu_model')}", ""


def known(fact: Mapping[str, Any]) -> Found:
    """A fact that only needs to be known."""
    if fact["value"] is None:
        return False, str(fact["reason"]), "run nvidia-smi or amd-smi on the node"
    return True, str(fact["value"]), ""


def version(launch: Launch, root: Path) -> Found:
    """Whether the framework's environment starts on this node: its own `--version`."""
    from servegauge.frameworks import framework
    from servegauge.inputs.containers import contained
    from servegauge.inputs.environments import framework_python, variables

    one = framework(launch.framework)
    if not one.version_argv:
        return None, "it has no option that prints its version", ""
    python = framework_python(launch.framework, launch.platform, root)
    argv = contained([word.replace("{python}", python) for word in one.version_argv], one.name, launch.platform, root)
    remedy = f"python scripts/build_environment.py {one.name}, or `frameworks:` of the platform"
    if shutil.which(argv[0]) is None:
        return False, f"there is no program {argv[0]!r} on the node", remedy
    around = {**os.environ, **variables(launch.framework, launch.platform, root)}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=VERSION_S, stdin=subprocess.DEVNULL, env=around)
    output = (done.stdout.strip() or done.stderr.strip()).splitlines()
    last = output[-1] if output else ""
    return (True, last, "") if done.returncode == 0 else (False, f"exit status {done.returncode}: {last}", remedy)


def model(launch: Launch, root: Path) -> Found:
    """Whether the model's files can be read on this node; hashed, or known by an earlier hash."""
    from servegauge.inputs.models import how_to_get, source_folder
    from servegauge.launch.provenance import model_hashes

    hashes = model_hashes(root, launch)
    weights = [name for name in hashes if name.endswith((".safetensors", ".bin", ".gguf"))]
    if not weights:
        return False, f"{source_folder(launch.model)} has no weights", how_to_get(launch.model)
    size = sum(one.get("bytes") or 0 for one in hashes.values()) / 1e9
    return True, f"{len(hashes)} files, {size:.2f} GB, hashed", ""


def port() -> Found:
    """Whether a server can listen on the loopback and be reached there."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with socket.create_connection(listener.getsockname(), timeout=5):
            return True, "a port of the loopback answers", ""


def writable(results: Path) -> Found:
    """Whether the node may write where results go."""
    probe = results / f"probe-{os.getpid()}"
    try:
        probe.write_text("written by the doctor\n", encoding="utf-8")
        probe.unlink()
    except OSError as error:
        return False, f"{results}: {error.strerror}", "results/ must be on a file system that nodes may write to"
    return True, "writable from the node", ""


def scratch(platform: Platform) -> Path:
    """The platform's scratch folder, or the node's own for temporary files."""
    named = platform.get("scratch")
    return Path(os.path.expandvars(named) if named else os.environ.get("TMPDIR", "/tmp"))


def space(folder: Path) -> Found:
    """Free space of a folder's file system."""
    free = shutil.disk_usage(folder).free / 1e9
    return free >= FREE_GB, f"{free:.1f} GB free in {folder}", "" if free >= FREE_GB else "make room, or go elsewhere"
