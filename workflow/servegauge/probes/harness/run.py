"""Run the probes of one platform: each in a process of its own, each to one JSON document.

A probe's process may die (a GPU library that aborts, a machine out of memory): then its document says so in a failed
row, and the other probes go on. This module also is that process: `python -m servegauge.probes.harness.run order.json`.
"""

from __future__ import annotations

import importlib.metadata
import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from servegauge.base.errors import UserError
from servegauge.base.files import read_json, write_json
from servegauge.base.progress import utc_now
from servegauge.contract.config_types import Platform
from servegauge.probes import get, registry
from servegauge.probes.harness.base import Context, Skip, pin, row_of_all, run
from servegauge.probes.harness.process import LIMIT_S, child_environment

if TYPE_CHECKING:
    from servegauge.contract.records.order import JobContext, Order
    from servegauge.contract.records.outcome import Outcome

VERSION = 2  # 1: first published form, one process; 2: rows say which of `processes` measured them, and when
GRACE_S = 120.0  # a case that was started may take this much longer
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def names(wanted: str, python: str) -> list[str]:
    """The probes that `wanted` asks for: `all`, `light` (those that need no torch) or names with commas.

    `all` leaves out what needs torch when `python` has none, so that the light demo stays light; a probe asked for by
    name is run and reports what is missing.
    """
    probes = registry()
    if wanted == "light" or (wanted == "all" and not _has_torch(python)):
        return [name for name, probe in probes.items() if probe.needs == "numpy"]
    if wanted == "all":
        return list(probes)
    return [get(name.strip()).name for name in wanted.split(",")]


def environment(platform: Platform) -> str:
    """The environment of envs/ with torch for this platform."""
    return "probes-cuda" if platform.get("gpus_per_node") else "probes"


def needs_environment(wanted: str, platform: Platform) -> bool:
    """Whether `wanted` is measured with torch: on GPUs always, else where a probe asked for needs it.

    So light probes give the same numbers whether or not the environment happens to be built.
    """
    if wanted == "light":
        return False
    return (
        wanted == "all"
        or bool(platform.get("gpus_per_node"))
        or any(get(name.strip()).needs == "torch" for name in wanted.split(","))
    )


def interpreter(wanted: str, platform: Platform, root: Path) -> str:
    """The environment of envs/ for this platform where it is needed and built, else this interpreter.

    `probes` without a GPU, `probes-cuda` with one.
    """
    from servegauge.inputs.environments import environment_python, environment_ready

    name = environment(platform)
    locked = (root / "envs" / f"{name}.txt").is_file()
    if not needs_environment(wanted, platform) or not locked or not environment_ready(name, root):
        return sys.executable
    return str(environment_python(name, root))


def _has_torch(python: str) -> bool:
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)"
    return subprocess.run([python, "-c", code], check=False).returncode == 0


def run_platform(
    platform: Platform,
    probes: Sequence[str],
    out: Path,
    *,
    size: str = "full",
    models: Sequence[Mapping[str, Any]] = (),
    peers: Sequence[Mapping[str, Any]] = (),
    node: Mapping[str, Any] | None = None,
    python: str = sys.executable,
    facts: Mapping[str, Any] | None = None,
    processes: int = 1,
) -> dict[str, Path]:
    """Run `probes` on this node and write `out/<probe>.json` for each, whole or not at all; the paths by probe.

    Each runs in `processes` processes of its own, one after the other: all probes once, then all of them again, so that
    what changes over the minutes of a job meets each of them. Where several nodes take part their ranks come to one
    probe at a time, so a probe's processes follow each other.

    `platform` is the resolved platform file with its `name`. `python` is the interpreter of the environment to measure
    in. UserError where the node is not what the platform's `expect:` says: nothing is measured then.
    """
    from servegauge.node.expectations import facts as read_facts
    from servegauge.node.expectations import mismatches

    facts = read_facts() if facts is None else facts
    wrong = mismatches(platform.get("expect"), facts)
    if wrong:
        listed = "\n  ".join(wrong)
        raise UserError(f"this node is not platform {platform['name']!r}, nothing was measured:\n  {listed}")
    written: dict[str, Path] = {}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in probes}
    turns = [name for _ in range(processes) for name in probes]
    if node is not None and node.get("nodes", 1) > 1:
        turns.sort(key=list(probes).index)
    for name in turns:
        context: dict[str, Any] = {
            "platform": dict(platform),
            "size": size,
            "models": [dict(model) for model in models],
            "peers": [dict(peer) for peer in peers],
            "node": None if node is None else dict(node),
            "scratch": str(platform.get("scratch") or ".cache/probes"),
            "time_limit_s": LIMIT_S[size],
            "verbatim": str((out / name).absolute()),
        }
        found[name].append(_one(name, context, python))
        if len(found[name]) == processes:
            written[name] = out / f"{name}.json"
            write_json(written[name], {**_together(found[name]), "facts": dict(facts)})
    return written


def _together(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One document of a probe's processes: what differs between processes is in its rows."""
    own = ("started_utc", "conditions")
    rows = [
        {**row, "process": process, **{name: one[name] for name in own}}
        for process, one in enumerate(found)
        for row in one["rows"]
    ]
    return {**found[0], "finished_utc": found[-1]["finished_utc"], "processes": len(found), "rows": rows}


def run_order(order: Order, job: JobContext) -> Outcome | None:
    """What a job does that is asked for probes; called in each task of it (probe_order.py names it).

    `order.asked`: {"probes": {"names": "all", "size", "models", "out", "python", "processes"}}. The first node measures
    and answers {"written": {probe: path}}; the others answer its network probe and start their ranks of the
    collectives.
    """
    # Here: the process of a probe runs in an environment of its own, which has none of these.
    from servegauge.contract.records.base import plain
    from servegauge.contract.records.outcome import Outcome
    from servegauge.probes.harness import nodes

    asked, platform, node = order.asked["probes"], order.launch.platform, plain(job.node)
    names_asked, out = asked.get("names", "all"), Path(asked["out"])
    python = asked.get("python") or interpreter(names_asked, platform, Path(order.root))
    wanted = names(names_asked, python)
    if job.node.rank > 0:
        nodes.take_part(platform, wanted, out, asked.get("size", "full"), node, python, asked.get("processes", 1))
        return None
    outcome: dict[str, Any] = {
        "launch": order.launch.id,
        "attempt": order.attempt,
        "study": order.study,
        "status": "ok",
    }
    outcome["cells"] = {}
    if job.node.nodes > 1:  # the other nodes wait in these two, in this order
        wanted.sort(key=lambda name: {"collectives": 0, "network": 1}.get(name, 2))
    try:
        written = run_platform(
            platform,
            wanted,
            out,
            size=asked.get("size", "full"),
            models=asked.get("models", ()),
            peers=nodes.peers(out, node) if "network" in wanted else (),
            node=node,
            python=python,
            processes=asked.get("processes", 1),
        )
    except UserError as error:  # the process that waits for this job reports it
        outcome.update(status="failed", reason=str(error))
    else:
        outcome.update(answer={"written": {name: str(path) for name, path in written.items()}})
    return Outcome(**outcome)


def _one(name: str, context: Mapping[str, Any], python: str) -> dict[str, Any]:
    """The document of one probe, from a process of its own."""
    from servegauge.probes.harness.conditions import Conditions

    platform, probe = context["platform"], get(name)
    threads = "1" if probe.one_thread else str(len(_context(context).server_cpus))
    environment = {**child_environment(platform), **dict.fromkeys(THREAD_VARIABLES, threads)}
    started = utc_now()
    with tempfile.TemporaryDirectory() as folder:
        order, answer = Path(folder) / "order.json", Path(folder) / "answer.json"
        order.write_text(json.dumps({"probe": name, "context": context, "answer": str(answer)}))
        argv = [python, "-m", "servegauge.probes.harness.run", str(order)]
        with Conditions() as conditions:
            died = _process(argv, environment, context["time_limit_s"] + GRACE_S)
        found = read_json(answer) if died is None and answer.exists() else {"rows": [], "software": {}}
    if died is not None:
        found["rows"] = [row_of_all(platform["name"], name, "failed", died).to_dict()]
    return {
        "version": VERSION,
        "platform": platform["name"],
        "probe": name,
        "size": context["size"],
        "hostname": socket.gethostname(),
        "started_utc": started,
        "finished_utc": utc_now(),
        "software": found["software"],
        "conditions": conditions.summary(),
        "rows": found["rows"],
    }


def _process(argv: Sequence[str], environment: Mapping[str, str], limit_s: float) -> str | None:
    """Run `argv` to its end; None when it went well, else what became of it with the end of its standard error."""
    with tempfile.TemporaryFile("w+") as errors:
        try:
            status = subprocess.run(argv, env=environment, stderr=errors, check=False, timeout=limit_s).returncode
        except subprocess.TimeoutExpired:
            return f"the probe's process was ended after {limit_s:g} s"
        except OSError as error:
            return f"the probe's process could not be started: {error}"
        errors.seek(0)
        last = [line.strip() for line in errors.read().splitlines() if line.strip()][-3:]
        if status != 0:
            return f"the probe's process ended with status {status}: {' | '.join(last) or 'it printed nothing'}"
    return None


def _context(data: Mapping[str, Any]) -> Context:
    known: dict[str, Any] = {name: data[name] for name in Context.__dataclass_fields__ if name in data}
    for name in ("scratch", "verbatim"):
        if name in known:
            known[name] = Path(known[name])
    return Context(**known)


def software() -> dict[str, str | None]:
    """Versions of what the numbers came from."""
    versions: dict[str, str | None] = {"python": sys.version.split()[0]}
    for package in ("numpy", "torch", "flashinfer-python", "vllm"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def dataset_rows(document: Mapping[str, Any], source: str | None = None) -> list[dict[str, Any]]:
    """A document's rows as rows of the dataset's `probes` table. `source`: the document's path in the repository."""
    facts = {name: fact["value"] for name, fact in document.get("facts", {}).items() if fact["value"] is not None}
    about = {
        "size": document["size"],
        "software": json.dumps(document["software"], sort_keys=True),
        "node": json.dumps(facts, sort_keys=True),
    }
    rows = []
    for row in document["rows"]:
        detail = row.get("detail") or {}
        rows.append(
            {
                **{name: row[name] for name in ("platform", "probe", "metric", "value", "unit", "low", "high")},
                "hostname": document["hostname"],
                "variant": json.dumps(row["variant"], sort_keys=True),
                "samples": row["samples"],
                "status": row["status"],
                "reason": row["reason"],
                "verified": detail.get("verified"),
                "process": row.get("process", 0),
                "started_utc": row.get("started_utc", document["started_utc"]),
                "conditions": json.dumps(row.get("conditions", document["conditions"]), sort_keys=True),
                "source": detail.get("verbatim", source),
                "detail": json.dumps(detail, sort_keys=True),
                **about,
            }
        )
    return rows


def main() -> int:
    """The probe's own process: read the order, hold the CPUs, measure, write the answer."""
    order = read_json(Path(sys.argv[1]))
    context, probe = _context(order["context"]), get(order["probe"])
    try:
        if probe.pinned:
            pin(context.server_cpus)
        rows = [row.to_dict() for row in run(probe, context)]
    except Skip as skip:
        rows = [row_of_all(context.platform["name"], probe.name, "skipped", str(skip)).to_dict()]
    write_json(Path(order["answer"]), {"rows": rows, "software": software()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
