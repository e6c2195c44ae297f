"""A platform's probes as a job: the same submitting, finding again and cancelling as for a launch.

What `scripts/probe.py` does. The order looks like a launch's, without cells, and names the function that runs instead.
Its attempts are in `results/probes/launches/probes-<platform>/`, away from the launches of studies.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from servegauge.base.errors import UserError
from servegauge.contract.config_types import Model, Platform
from servegauge.contract.records.base import plain, read_if_there, write
from servegauge.contract.records.job import JobRecord
from servegauge.contract.records.order import Carrier, JobSettings, Order
from servegauge.contract.records.plan import Plan
from servegauge.contract.records.specs import LaunchSpec
from servegauge.contract.spec import Layout, digest
from servegauge.inputs.config_files import load_model
from servegauge.inputs.models import source_folder
from servegauge.plan.config import load_platform
from servegauge.plan.probes import AskedProbes, asked
from servegauge.probes import get
from servegauge.submit import waiter
from servegauge.submit.job_outcome import left
from servegauge.submit.monitor import POLL_S, submit_and_wait
from servegauge.submit.slurm_request import TIME_MIN
from servegauge.submit.watch import say_to

RUN = "servegauge.probes.harness.run:run_order"  # the function that the job is given
MINUTES = {"quick": 15, "full": 120}  # of a job, for each process of the probes


class ProbedModel(Model, total=False):
    tp: list[int]  # tensor parallel sizes whose shapes are measured


def make_order(
    platform: Platform,
    names: str,
    out: Path,
    root: Path,
    *,
    size: str = "full",
    models: Sequence[ProbedModel] = (),
    python: str | None = None,
    nodes: int = 1,
    processes: int = 1,
) -> Order:
    """The order of one job that runs `names` (all, light, or names with commas) on `nodes` nodes of `platform`.

    UserError for a probe that does not exist.
    """
    if names not in ("all", "light"):
        for probe in names.split(","):
            get(probe.strip())  # an unknown name is an error before anything is submitted
    name = f"probes-{platform['name']}"
    layout = Layout(instances=max(1, int(platform.get("gpus_per_node") or 0) * nodes))
    what = {
        "names": names,
        "size": size,
        # A hub model is in a folder of ours once it is fetched.
        "models": [{**model, "source": str(source_folder(model))} for model in models],
        "out": str(out),
        "python": python,
        "processes": processes,
    }
    order = Order(
        study=name,
        launch=LaunchSpec(id=name, framework="probes", model={"name": "probes"}, platform=platform, layout=layout),
        attempt=0,
        job=JobSettings(minutes=MINUTES[size] * processes, nodes=nodes),
        root=str(root.resolve()),
        results="results/probes",
        run=RUN,
        asked={"probes": what},
    )
    # The first attempt that has not ended: a job that was submitted before and still runs is waited for.
    while (job := read_if_there(order.folder / "job.json", JobRecord)) and job.state == "ended":
        order = replace(order, attempt=order.attempt + 1)
    return order


def by_names(platform: str, asked: AskedProbes, root: Path, **more: Any) -> Order:
    """The order of a platform's probes by the names of its file and of the models' files in config/."""
    return make_order(
        load_platform(root, platform),
        asked.names,
        more.pop("out", None) or Path("results/probes") / platform,
        root,
        size=asked.size,
        models=[{**load_model(root, name), "tp": list(asked.tp)} for name in asked.models],
        processes=asked.processes,
        **more,
    )


def carried_by(order: Order, plan: Plan) -> Order:
    """`order`, of a launch, whose job also carries out the probes that the plan's study asks of its platform.

    The probes' order is written. They are left to a job of their own where the platform's limit has no time for both,
    and to another launch's job that was given them before.
    """
    platform = order.launch.platform
    carrier = Carrier(launch=order.launch.id, attempt=order.attempt)
    probes = by_names(platform["name"], asked(plan.study, plan.launches), Path(order.root))
    minutes = (order.time_min or TIME_MIN) + (probes.job.minutes or 0)
    file = probes.folder / "order.json"
    limit = (platform.get("slurm") or {}).get("time_min")
    known = read_if_there(file, Order)
    if (limit and minutes > limit) or (known and known.carrier not in (None, carrier)):
        return order
    write(file, replace(probes, carrier=carrier))
    return replace(order, time_min=minutes, then=str(file.relative_to(Path(order.root).absolute())))


def _known(order: Order) -> Order:
    """The order of this attempt that a job was given already, if one was; else `order`."""
    known = read_if_there(order.folder / "order.json", Order)
    if known and (known.carrier or (order.folder / "job.json").exists()):
        return replace(known, run=known.run or RUN)
    return order


def _same(one: Order, other: Order) -> bool:
    return digest(plain(one.asked)) == digest(plain(other.asked))


def submit(order: Order, mode: str, poll_s: float = POLL_S, log: Path | None = None) -> list[Path]:
    """Run the order by `mode` (slurm, local, inline); the documents it wrote. UserError says why it failed.

    Cancelled after a signal. While a queue has the job this process becomes a shell, and starts again afterwards.
    """
    say = say_to(log)
    while True:
        known = _known(order)
        outcome = submit_and_wait(known, mode, poll_s, say=say, sleeper=waiter.Sleeper(waiter.woken(), log=log))
        lost = known.carrier is not None and left(known) is None
        if not lost and _same(known, order):
            break
        why = f"ended before its turn ({outcome.reason})" if lost else "was asked for other probes"
        say(f"{order.launch.id}: the job {outcome.job.job if outcome.job else ''} {why}; they get a job of their own")
        order = replace(order, attempt=order.attempt + 1)
    if outcome.status != "ok":
        raise UserError(
            f"the probes of {order.launch.platform['name']} did not run: {outcome.reason or 'no reason given'}. "
            f"Its output is in {order.folder}; the same command tries again."
        )
    return [Path(path) for path in outcome.answer["written"].values()]
