"""What made a number: one function per group of facts, each failing alone, to None with a reason.

`gather` returns {group: {"value", "source", "reason"}}, ready for launch.json and free of secrets (redact.py). A
measurement never fails because its provenance does.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from servegauge import frameworks
from servegauge.base import allocation, hashes, redact
from servegauge.base.errors import UserError
from servegauge.base.hashes import file_hashes
from servegauge.contract.records.order import Order
from servegauge.contract.spec import Launch, canonical_json
from servegauge.inputs import environments, models
from servegauge.node import expectations
from servegauge.node.reader import Unreadable, run_command

VERSION = 1  # of the shape of what `gather` returns
UNTRACKED_BYTES = 16 * 2**20  # larger untracked files are data, not code: not read at every launch

Group = dict[str, Any]


def group(source: str, read: Callable[[], Any]) -> Group:
    """One group as {"value", "source", "reason"}: `reason` is None where there is a value, and the other way round."""
    try:
        value = read()
    except Unreadable as refused:
        return {"value": None, "source": refused.source or source, "reason": str(refused)}
    # Provenance may fail, measurements may not.
    except Exception as error:
        return {"value": None, "source": source, "reason": f"could not be read: {type(error).__name__}: {error}"}
    if value is None:
        return {"value": None, "source": source, "reason": "not given"}
    return {"value": value, "source": source, "reason": None}


def gather(
    root: Path | str,
    order: Order | None = None,
    launch: Launch | None = None,
    facts: Mapping[str, Any] | None = None,
    *,
    servers: Sequence[Mapping[str, Any]] = (),
    submission: Mapping[str, Any] | None = None,
    hash_models: bool = True,
    secrets: Iterable[str] = (),
) -> dict[str, Any]:
    """Provenance of a launch: {"version", group: {"value", "source", "reason"}, ...}; never raises for what is missing.

    root         the workflow's folder (git, results, hash cache)
    order        names the study, its hash and the cells' workloads
    launch       what is launched; the model's files and the engine's environment are found from it
    facts        platform.facts() where they are at hand; read here otherwise
    servers      one {"argv", "environment", "version", ...} for each instance; `environment` may be the whole of it
    submission   what the submitter knew of itself, such as its mode
    hash_models  false: take hashes that are known already, hash nothing now
    secrets      strings that must not appear anywhere, such as the API keys of this launch
    """
    root = Path(root)
    environments_ = [one["environment"] for one in servers if one.get("environment")]
    known = [*secrets, *(value for one in [os.environ, *environments_] for value in redact.secret_values(one))]

    def tell(source: str, read: Callable[[], Any], names: bool = True) -> Group:
        return redact.clean(group(source, read), known, names)

    found: dict[str, Any] = {
        "version": VERSION,
        "workflow": tell("git", lambda: workflow(root)),
        "study": tell("study file", lambda: order and study(root, order)),
        "spec": tell("spec.json", lambda: launch and spec_hash(launch.to_dict())),
        "workloads": tell("workload.json", lambda: order and workload_hashes(root, order), names=False),
        "models": tell("model files", lambda: launch and model_hashes(root, launch, hash_models), names=False),
        "environment": group("the job's environment", lambda: inherited(launch, known)),
        "servers": group("launch", lambda: [_server(one, launch, known) for one in servers] or None),
        "python": tell("sys", driver_python),
        "packages": tell("importlib.metadata", lambda: packages(None), names=False),
        "platform": tell("platform.facts", lambda: facts or expectations.facts(root), names=False),
        "slurm": tell("environment, scontrol", lambda: slurm(os.environ)),
        "time": tell("clocks", times, names=False),
        "submission": tell("submitter", lambda: submission),
    }
    python = group("environment", lambda: launch and engine_python(root, launch))
    if python["value"] is None:
        return {**found, "engine_python": redact.clean(python, known), "engine_packages": redact.clean(python, known)}
    return {
        **found,
        "engine_python": tell("pyvenv.cfg", lambda: engine_interpreter(python["value"])),
        "engine_packages": tell("site-packages", lambda: engine_packages(python["value"]), names=False),
    }


def without_secrets(data: Any, secrets: Iterable[str] = ()) -> Any:
    """`data` without secrets: `redact.clean` with what this process's own environment holds of them, too.

    A field called `environment` loses the values that are not known to be harmless (see `redact.environment`).
    """
    known = [*secrets, *redact.secret_values(os.environ)]
    if isinstance(data, Mapping) and isinstance(data.get("environment"), Mapping):
        variables = data["environment"]
        rest = {key: value for key, value in data.items() if key != "environment"}
        return {**redact.clean(rest, known), "environment": redact.environment(variables, variables, known)}
    return redact.clean(data, known)


def _server(one: Mapping[str, Any], launch: Launch | None, known: Sequence[str]) -> dict[str, Any]:
    """One instance: what it was started with and what it says of itself."""
    rest = {key: value for key, value in one.items() if key not in ("argv", "environment")}
    return {
        "argv": redact.argv(list(one.get("argv") or ()), known),
        "environment": redact.environment(one.get("environment") or {}, _set_here(launch), known),
        **redact.clean(rest, known),
    }


def _set_here(launch: Launch | None) -> dict[str, Any]:
    """Variables that the platform's file and the study set, the study's above."""
    if launch is None:
        return {}
    return {**(launch.platform.get("environment") or {}), **launch.environment}


def inherited(launch: Launch | None, known: Sequence[str]) -> dict[str, str]:
    """What every process of the launch inherits: the job's environment, with what platform and study set in it."""
    set_here = _set_here(launch)
    return redact.environment({**os.environ, **set_here}, set_here, known)


def study(root: Path, order: Order) -> dict[str, Any]:
    """Name, hash and text of the study file. The text is that of the plan; the file may have been edited since."""
    name, wanted = order.study, order.study_sha256
    found = {"name": name, "sha256": wanted, "text": None, "reason": None}
    path = root / "config" / "studies" / f"{name}.yaml"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        return {**found, "reason": f"{path} could not be read: {error.strerror or error}"}
    if wanted is None or hashlib.sha256(text.encode()).hexdigest() == wanted:
        return {**found, "sha256": hashlib.sha256(text.encode()).hexdigest(), "text": text}
    plan = root / order.results / "plan" / f"{name}.json"
    try:
        planned = hashes.read_json(plan)["study"]
    except (OSError, ValueError, KeyError, TypeError):
        planned = {}
    if planned.get("sha256") == wanted:
        return {**found, "text": planned.get("text")}
    return {**found, "reason": f"{path} was edited since this attempt was planned, and the plan was made anew"}


def workload_hashes(root: Path, order: Order) -> dict[str, Any] | None:
    """Workload id -> SHA-256 of its Parquet file, for every cell of the order."""
    ids = sorted({cell.workload.id for cell in order.cells})
    folder = root / order.results / "workloads"
    found: dict[str, Any] = {}
    for name in ids:
        try:
            found[name] = hashes.read_json(folder / name / "workload.json")["sha256"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            found[name] = {"sha256": None, "reason": f"{type(error).__name__}: {error}"}
    return found or None


def workflow(root: Path) -> dict[str, Any]:
    """State of the workflow's own code: commit, branch, dirty, SHA-256 of the difference, untracked files.

    `diff_sha256` covers tracked changes against the commit and the contents of untracked files that git does not
    ignore: two launches with the same commit and the same hash ran the same code. None when clean.
    """

    def git(*words: str) -> str:
        # --no-optional-locks: never in the way of a person who uses git in the same tree
        return run_command(["git", "--no-optional-locks", "-C", str(root), *words], timeout_s=60)

    try:
        commit = git("rev-parse", "HEAD").strip()
    except Unreadable as refused:
        raise Unreadable(f"{root} is no git checkout that can be read: {refused}", "git") from None
    difference = git("diff", "--no-ext-diff", "--no-textconv", "--binary", "HEAD")
    untracked = [name for name in git("ls-files", "--others", "--exclude-standard", "-z").split("\0") if name]
    digest = hashlib.sha256(difference.encode(errors="surrogateescape"))
    for name in sorted(untracked):
        one = _untracked_hash(root / name)
        digest.update(f"\0{name}\0{one}".encode(errors="surrogateescape"))
    dirty = bool(difference or untracked)
    return {
        "commit": commit,
        "branch": _or_none(lambda: git("symbolic-ref", "--short", "-q", "HEAD").strip()),
        "described": _or_none(lambda: git("describe", "--tags", "--always", "--dirty").strip()),
        "remote": _or_none(lambda: git("config", "--get", "remote.origin.url").strip()),
        "dirty": dirty,
        "diff_sha256": digest.hexdigest() if dirty else None,
        "changed": [line for line in git("diff", "--name-only", "HEAD").splitlines() if line],
        "untracked": untracked[:200],
        "untracked_count": len(untracked),
    }


def _untracked_hash(path: Path) -> str | None:
    """SHA-256 of a file, of a large one its size and time; None where it cannot be read (a socket, a dangling link)."""
    try:
        found = path.stat()
        if not path.is_file() or found.st_size > UNTRACKED_BYTES:
            return f"{found.st_size} {found.st_mtime_ns}"
        return hashes.sha256(path)
    except OSError:
        return None


def _or_none(read: Callable[[], str]) -> str | None:
    try:
        return read() or None
    except Unreadable:
        return None


def spec_hash(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Id, configuration and SHA-256 of the canonical JSON of a launch's specification."""
    digest = hashlib.sha256(canonical_json(spec).encode()).hexdigest()
    return {"id": spec.get("id"), "configuration": spec.get("configuration"), "sha256": digest}


def model_hashes(root: Path, launch: Launch, hash_models: bool = True) -> dict[str, Any]:
    """Hash, size and time of every file of the model that the launch loads: weights, configuration, tokenizer.

    A file that was fetched or built by the workflow has its hash in a stamp; others are hashed once and remembered.
    """
    names, stamps = _model_files(root, launch)
    found = file_hashes(names, root / hashes.CACHE, known_only=not hash_models, stamps=stamps)
    return {os.path.relpath(name, root): one for name, one in found.items()}


def hash_model(root: Path, launch: Launch, ended: Callable[[], bool]) -> None:
    """Hash what is not known yet of the files of `model_hashes`, until `ended`; what goes wrong is reported there."""
    with contextlib.suppress(OSError, UserError):
        names, stamps = _model_files(root, launch)
        for name in names:
            if ended():
                return
            file_hashes([name], root / hashes.CACHE, stamps=stamps)


def _model_files(root: Path, launch: Launch) -> tuple[list[Path], list[Path]]:
    """(the files that the launch loads, stamps that may have their hashes)."""
    model = launch.model
    weights = frameworks.framework(launch.framework).weights
    paths = [root / models.tokenizer_folder(model)]
    paths.append(root / (models.source_folder(model) if weights == "hf" else models.gguf_file(model)))
    stamps = [root / name for name in [*models.files_needed(model, weights), *models.tokenizer_needed(model)]]
    names = [path for path in dict.fromkeys(hashes.files_of(paths)) if not weightless(path, paths[1])]
    return names, stamps


def weightless(path: Path, loaded: Path) -> bool:
    """Weights in the tokenizer's folder that but are not what is loaded."""
    is_weights = path.suffix in (".safetensors", ".bin", ".pth", ".pt", ".gguf", ".onnx", ".h5")
    return is_weights and path != loaded and loaded not in path.parents


def driver_python() -> dict[str, Any]:
    """The interpreter that runs the measurement."""
    build = sys.version.replace("\n", " ")
    return {"version": ".".join(map(str, sys.version_info[:3])), "build": build, "executable": sys.executable}


def packages(folders: Sequence[str] | None) -> dict[str, str]:
    """Installed packages, name -> version, read from their metadata without importing anything.

    `folders`: site-packages of another environment; None for our own. A package installed from a folder or a
    repository says so behind its version: `0.1.0 (editable)`, `0.1.0 (git 1a2b3c...)`.
    """
    listed = importlib.metadata.distributions(path=list(folders)) if folders else importlib.metadata.distributions()
    found: dict[str, str] = {}
    for package in listed:
        name = package.metadata["Name"]
        if name:  # a damaged or half-removed package has no name
            # the first one on the path is the one that is imported
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), f"{package.version}{_origin(package)}")
    return dict(sorted(found.items()))


def _origin(package: importlib.metadata.Distribution) -> str:
    """Where a package came from if not from an index (direct_url.json, PEP 610)."""
    try:
        direct = json.loads(package.read_text("direct_url.json") or "null")
    except ValueError:
        return ""
    if not isinstance(direct, dict):
        return ""
    if commit := (direct.get("vcs_info") or {}).get("commit_id"):
        return f" ({direct['vcs_info'].get('vcs', 'vcs')} {commit})"
    return " (editable)" if (direct.get("dir_info") or {}).get("editable") else " (direct)"


def engine_python(root: Path, launch: Launch) -> str:
    """Interpreter of the environment that the framework runs in; Unreadable where there is none that we know of."""
    try:
        python = environments.framework_python(launch.framework, launch.platform, root)
    except UserError as error:
        raise Unreadable(str(error), "envs") from None
    if Path(python).name == python:
        raise Unreadable(f"{launch.framework} has no Python environment that we know of (container or binary)", "envs")
    return python


def _environment_of(python: Path | str) -> Path:
    """Folder of the virtual environment that an interpreter belongs to."""
    # not resolved: <venv>/bin/python is a link to the interpreter that the environment was made from
    found = Path(os.path.abspath(python)).parent.parent
    if not found.is_dir():
        raise Unreadable(f"{python} names no environment's interpreter", str(python))
    return found


def engine_interpreter(python: Path | str) -> dict[str, Any]:
    """Version of the engine's Python, from pyvenv.cfg, else by asking the interpreter for its own version."""
    prefix = _environment_of(python)
    config = prefix / "pyvenv.cfg"
    version = None
    if config.is_file():
        found = re.search(r"^version(?:_info)?\s*=\s*(\S+)", config.read_text(encoding="utf-8"), re.MULTILINE)
        version = found and found[1]
    if version is None:
        version = run_command([str(python), "-I", "-c", "import platform; print(platform.python_version())"]).strip()
    return {"version": version, "executable": str(python), "prefix": str(prefix)}


def engine_packages(python: Path | str) -> dict[str, str]:
    """Packages of the engine's environment, read from its site-packages; the engine is not imported."""
    prefix = _environment_of(python)
    folders = sorted({str(path.resolve()) for path in prefix.glob("lib*/python3*/site-packages")})
    if not folders:
        raise Unreadable(f"no site-packages below {prefix}", str(prefix))
    return packages(folders)


def slurm(variables: Mapping[str, str], run: Callable[[list[str]], str] = run_command) -> dict[str, Any]:
    """The job that this process runs in: the scheduler's variables and `scontrol show job`. No people's names."""
    job = variables.get(allocation.JOB)
    if not job:
        raise Unreadable("not in a Slurm job", allocation.JOB)
    own = {name: value for name, value in variables.items() if name.startswith("CUDA_VISIBLE")}
    own |= allocation.variables(variables)
    found: dict[str, Any] = {"job": job, "variables": redact.environment(own, keep=own), "control": None}
    try:
        found["control"] = control_fields(run(["scontrol", "show", "job", "-d", "-o", job]))
    except Unreadable as refused:
        found["control_reason"] = str(refused)
    return found


_PERSONAL_FIELDS = {"UserId", "GroupId", "MailUser", "AllocNode:Sid"}


def control_fields(text: str) -> dict[str, str]:
    """`scontrol show job -o` as a dict; values may hold spaces, a field starts where ` Name=` does."""
    starts = list(re.finditer(r"(?:^|\s)([A-Z][A-Za-z0-9_/:]*)=", text))
    found: dict[str, str] = {}
    for match, following in zip(starts, [*starts[1:], None], strict=True):
        name = match[1]
        if name not in _PERSONAL_FIELDS:
            found.setdefault(name, text[match.end() : following.start() if following else None].strip())
    return found


def times() -> dict[str, Any]:
    """Now on every clock: UTC, the monotonic clock of all stamps, their difference, the boot that it counts from."""
    before, wall_ns, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
    monotonic_ns = (before + after) // 2
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = None
    return {
        "utc": datetime.datetime.fromtimestamp(wall_ns / 1e9, datetime.UTC).isoformat(timespec="microseconds"),
        "epoch_ns": wall_ns,
        "monotonic_ns": monotonic_ns,
        "epoch_offset_ns": wall_ns - monotonic_ns,
        "read_within_ns": after - before,
        "boot_id": boot,
        "time_zone": time.strftime("%z"),
    }
