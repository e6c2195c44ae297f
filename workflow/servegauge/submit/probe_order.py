"""A platform's probes as a job: the same submitting, finding again and cancelling as for a launch.

What `scripts/probe.py` does. The order looks like a launch's, without cells, and names the function that runs instead.
Its attempts are in `results/probes/launches/probes-<platform>/`, away from the launches of studies.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from servegauge.base.errors import UserError
from servegauge.contract.config_types import Model, Platform
from servegauge.contract.records.base import read
from servegauge.contract.records.job import JobRecord
from servegauge.contract.records.order import JobSettings, Order
from servegauge.contract.records.specs import LaunchSpec
from servegauge.contract.spec import Layout
from servegauge.inputs.models import source_folder
from servegauge.probes import get
from servegauge.submit import waiter
from servegauge.submit.monitor import POLL_S, say_to, submit_and_wait

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
    asked = {
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
        asked={"probes": asked},
    )
    # The first attempt that has not ended: a job that was submitted before and still runs is waited for.
    while (file := order.folder / "job.json").exists() and read(file, JobRecord).state == "ended":
        order = replace(order, attempt=order.attempt + 1)
    return order


def submit(order: Order, mode: str, poll_s: float = POLL_S, log: Path | None = None) -> list[Path]:
    """Run the order by `mode` (slurm, local, inline); the documents it wrote. UserError says why it failed.

    Cancelled after a signal. While a queue has the job this process becomes a shell, and starts again afterwards.
    """
    sleeper = waiter.Sleeper(waiter.woken(), log=log)
    outcome = submit_and_wait(order, mode, poll_s, say=say_to(log), sleeper=sleeper)
    if outcome.status != "ok":
        raise UserError(
            f"the probes of {order.launch.platform['name']} did not run: {outcome.reason or 'no reason given'}. "
            f"Its output is in {order.folder}; the same command tries again."
        )
    return [Path(path) for path in outcome.answer["written"].values()]
