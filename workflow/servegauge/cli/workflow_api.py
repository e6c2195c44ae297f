"""What the Snakefile asks: the one study of this run, its targets, and what each rule needs. No Snakemake in here."""

from __future__ import annotations

import fnmatch
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from servegauge.base import environment
from servegauge.base.errors import UserError
from servegauge.base.files import object_in
from servegauge.contract.records.plan import Plan
from servegauge.contract.records.specs import LaunchSpec
from servegauge.contract.spec import AGAIN, digest
from servegauge.dataset import stamp
from servegauge.frameworks import framework
from servegauge.inputs import environments, models
from servegauge.plan import documents, expand, preview, probes, stop
from servegauge.plan.config import load_config, load_study
from servegauge.report.figure import Figure
from servegauge.report.figures import figures
from servegauge.submit.backends import backend

Found = TypeVar("Found")

ROOT = Path()  # Snakemake runs in the repository's root, and so do the scripts; results name no absolute path


def use_this_interpreter() -> None:
    """`python` in a rule is the one that runs Snakemake: `.venv/bin/snakemake` works without activating .venv."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    environment.remember(os.environ)


def _of_this_study(found: Callable[[str], Found], name: str) -> Found:
    """What the plan finds under `name`; where nothing, its message and how another study is chosen."""
    try:
        return found(name)
    except UserError as error:
        raise UserError(f"{error} Another study is chosen by --config study=NAME.") from None


class Pipeline:
    """The study chosen by `--config study=NAME`, expanded once; answers every question that a rule has."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = load_config(ROOT, dict(config))
        self.study = load_study(ROOT, self.config["study"])
        self.name: str = self.study["name"]
        self.whole = expand.expand(self.study)
        self.plan = self.whole.on_platforms(self.config["platforms"])
        self.results = ROOT / "results"
        self.state = documents.state(self.plan, self.results)
        self.glob: str = self.config.get("cells") or "*"
        self.submit: str = self.config["submit"]
        backend(self.submit)
        self.poll_s: float = self.config["poll_s"]
        if not self.plan.every_cell:
            raise UserError(
                f"{self.study['path']}: no cell is left: matrix.exclude takes all"
                f"{' on the platforms that --config platforms names' if self.whole.every_cell else ''}"
            )
        if not self._selected(one.id for one in self.plan.every_cell):
            raise UserError(
                f"--config cells={self.glob!r} matches no cell of study {self.name!r}. "
                f"`servegauge plan {self.name} --format csv` lists their names."
            )

    @property
    def figures(self) -> list[Figure]:
        """The figures of a report: each is an output."""
        return list(figures().values())

    # -- targets ------------------------------------------------------------

    def _selected(self, cells: Any) -> list[str]:
        """The cells that `--config cells=GLOB` leaves; all without it."""
        return [cell for cell in cells if fnmatch.fnmatchcase(cell, self.glob)]

    @cached_property
    def attempts(self) -> dict[str, int]:
        """Launch id -> the attempt to ask for: the next one where cells are missing, else the last one.

        The next one, too, where it was submitted and its outcome not taken: its job may have measured all, and its
        record of what made them would stay where it is.
        Launches of which `--config cells=...` selects nothing, and which were never tried, are left out.
        """
        return self._attempts(self.plan.launches)

    def _attempts(self, launches: Iterable[LaunchSpec]) -> dict[str, int]:
        wanted = {}
        for launch in launches:
            state = self.state[launch.id]
            if self._selected(state.missing) or (state.untaken and self._selected(state.measured)):
                wanted[launch.id] = state.attempts
            elif state.attempts:
                wanted[launch.id] = state.attempts - 1
        return wanted

    def attempt_files(self) -> list[str]:
        """`results/launches/<launch>/attempt-<k>.json` for every launch of the study."""
        return [f"results/launches/{launch}/attempt-{k}.json" for launch, k in self.attempts.items()]

    def trace_files(self) -> list[str]:
        """The same for every launch of a trace; none where the study traces nothing."""
        attempts = self._attempts(self.plan.trace_launches)
        return [f"results/launches/{launch}/attempt-{k}.json" for launch, k in attempts.items()]

    def study_files(self) -> list[str]:
        """The study's file and every file that it names: the plan follows them."""
        return [str(path) for path in self.study["files"]]

    # -- launches -----------------------------------------------------------

    def launch(self, name: str) -> LaunchSpec:
        """The launch called `name`; UserError names the nearest one."""
        return _of_this_study(self.plan.launch, name)

    def launch_of(self, cell: str) -> str:
        """The launch that a cell belongs to; UserError names the nearest cell."""
        return _of_this_study(self.plan.cell, cell).launch

    @cached_property
    def _order(self) -> dict[str, int]:
        return {launch.id: number for number, launch in enumerate(self.plan.every_launch)}

    def priority(self, name: str) -> int:
        """Launches run in the plan's order: blocks of platforms, randomised within a block."""
        return len(self._order) - self._order[self.launch(name).id]

    def message(self, name: str) -> str:
        """What a launch serves, its cells, how many are measured, what it asks of Slurm, its estimated minutes."""
        return documents.message(self.plan, self.state, self.launch(name).id, self.results)

    def needs(self, name: str) -> list[str]:
        """Files that must be there before a launch: the model's, and the framework's environment.

        None where all of it is measured: an engine's new lock, or a cache that was cleaned, is no reason to start it.
        """
        launch = self.launch(name)
        if not self.state[launch.id].missing:
            return []
        return [*models.files_needed(launch.model, framework(launch.framework).weights), *self.environments(launch)]

    def environments(self, launch: LaunchSpec) -> list[str]:
        """The stamp of the environment that runs this framework on this platform; none where a site provides it."""
        name = environments.framework_environment(launch.framework, launch.platform, ROOT)
        return [environments.stamp(name, ROOT)] if name else []

    def earlier(self, name: str) -> list[str]:
        """Attempts that must have finished before a launch: with `job.stop`, those of the repeat before it."""
        repeat = self.launch(name).repeat
        if not self.looks(name):
            return []
        before = [launch.id for launch in self.plan.launches if launch.repeat == repeat - 1]
        return [f"results/launches/{one}/attempt-{self.attempts[one]}.json" for one in before if one in self.attempts]

    def looks(self, name: str) -> str:
        """The option of scripts/measure_launch.py for a launch that may turn out not to be needed."""
        launch = self.launch(name)
        missing = self.state[launch.id].missing
        return "--look" if missing and not launch.trace and stop.earlier_repeats(self.study, launch.repeat) else ""

    # -- probes -------------------------------------------------------------

    @property
    def asks_for_probes(self) -> bool:
        """True where the study itself wants them; `snakemake probes` runs them in any case."""
        return bool(self.study.get("probes"))

    @cached_property
    def probes(self) -> probes.AskedProbes:
        """What is asked of every platform: of the whole study, as its plan says it to the job that carries probes."""
        return probes.asked(self.study, self.whole.launches)

    def probe_files(self) -> list[str]:
        """`results/probes/<platform>-<size>-<what was asked>.json` per platform: other probes are other targets."""
        return [self.probe_file(platform) for platform in probes.platforms(self.plan.launches)]

    def failed_probes(self, platform: str = "") -> list[str]:
        """`<probe> on <platform>` of which a document of this study's probes, or of one platform's, says: failed."""
        files = [self.probe_file(platform)] if platform else self.probe_files()
        documents = [path for file in files for path in object_in(Path(file)).get("documents", ())]
        rows = [row for path in documents for row in object_in(Path(path)).get("rows", ())]
        return sorted({f"{row['probe']} on {row['platform']}" for row in rows if row["status"] == "failed"})

    def _has_probes_to_run(self, platform: str) -> bool:
        """True also where one has failed: as a cell, it is tried again."""
        return not Path(self.probe_file(platform)).exists() or bool(self.failed_probes(platform))

    def probe_file(self, platform: str) -> str:
        asked = self.probes
        several = [asked.processes] if asked.processes > 1 else []  # what was measured once keeps its name
        what = digest([asked.names, ",".join(asked.models), ",".join(map(str, asked.tp)), *several], 10)
        return f"results/probes/{platform}-{asked.size}-{what}.json"

    @cached_property
    def carriers(self) -> dict[str, str]:
        """Platform -> the launch in whose job its probes run, in a run of the whole study: the first that can.

        It has to have a job to come, or one that was submitted by an earlier run. Not for `inline`: there the node is
        given back as soon as the launch has its outcome.
        """
        if not self.asks_for_probes or self.study["job"]["probes"] == "own" or self.submit == "inline":
            return {}
        found: dict[str, str] = {}
        for launch in self.plan.launches:
            now, platform = self.state[launch.id], launch.platform["name"]
            to_come = launch.id in self.attempts and (self._selected(now.missing) or now.untaken)
            if to_come and platform not in found and probes.can_carry(launch) and not self.looks(launch.id):
                found[platform] = launch.id
        return {
            platform: launch
            for platform, launch in found.items()
            if not platform.endswith(AGAIN) and self._has_probes_to_run(platform)
        }

    def carries(self, launch: str) -> str:
        """The platform whose probes run in the job of `launch`, or nothing."""
        return next((platform for platform, carrier in self.carriers.items() if carrier == launch), "")

    def probe_after(self, platform: str) -> list[str]:
        """The attempt in whose job the probes of `platform` run, which is waited for first."""
        carrier = self.carriers.get(platform)
        return [f"results/launches/{carrier}/attempt-{self.attempts[carrier]}.json"] if carrier else []

    def probe_notes(self) -> list[str]:
        """Where the probes of each platform run that are still to run, for a dry-run."""
        if not self.asks_for_probes:
            return []
        left = [one for one in probes.platforms(self.plan.launches) if self._has_probes_to_run(one)]
        where = {platform: f"in the job of {launch}, after its cells" for platform, launch in self.carriers.items()}
        return [f"{platform}: {self.probes.names}, {where.get(platform, 'in a job of their own')}" for platform in left]

    def probe_needs(self, platform: str) -> list[str]:
        """The environment with torch, where a probe needs it; the models' files."""
        from servegauge.probes.harness import run

        known = self.study["platforms"][platform]
        environment = run.environment(known) if run.needs_environment(self.probes.names, known) else None
        stamps = [environments.stamp(environment, ROOT)] if environment else []
        return [*stamps, *self.tokenizers()]

    def tokenizers(self) -> list[str]:
        """Files that compiling this study's workloads needs."""
        return sorted({file for launch in self.plan.launches for file in models.tokenizer_needed(launch.model)})

    # -- what the user sees -----------------------------------------------

    def absent(self) -> list[str]:
        """What this machine lacks before the study can run: models, data sets, Slurm; a line each."""
        found: list[str] = []

        def ask(needs: Callable[[], object]) -> None:
            try:
                needs()
            except UserError as error:
                found.append(str(error))

        for launch in self.plan.launches:
            weights = framework(launch.framework).weights
            ask(partial(models.files_needed, launch.model, weights))
            ask(partial(models.tokenizer_needed, launch.model))
        for name, prompts in self.study["prompts"].items():
            if (path := prompts.get("path")) and not (ROOT / path).exists():
                found.append(
                    f"prompt set {name!r}: {path} is missing; config/prompts/{name}.yaml says where it is from"
                )
        found += [text for text in (backend(self.submit).absent(), self.lost_folder()) if text]
        return list(dict.fromkeys(found))

    def lost_folder(self) -> str:
        """The results, or a folder of them, that is a link to what is not there; empty where none is."""
        for path in (self.results, *(self.results.glob("*") if self.results.is_dir() else ())):
            if path.is_symlink() and not path.exists():
                return (
                    f"{path} is a link to {os.readlink(path)}, which is not there. Is its file system not mounted, "
                    "or was it cleaned up? Make that folder, or remove the link: then everything is measured anew"
                )
        return ""

    @cached_property
    def _chosen(self) -> tuple[Plan, documents.State]:
        """What `--config cells=GLOB` leaves of the plan, and where it stands."""
        chosen = self.plan.selected(self.glob)
        return chosen, self.state if chosen is self.plan else documents.state(chosen, self.results)

    def preview(self) -> str:
        """The matrix, its cost and what is missing, in one screen."""
        chosen, state = self._chosen
        return preview.preview(chosen, state, self.results, self.absent(), self.probe_notes())

    def unmeasured(self, traces_only: bool = False) -> list[str]:
        """Cells and traces (or these alone) that this run was to measure and that are not there now, seen anew."""
        now = documents.state(self.plan, self.results)
        launches = self.plan.trace_launches if traces_only else self.plan.every_launch
        return self._selected(cell for launch in launches for cell in now[launch.id].missing)

    def has_a_hollow_dataset(self, forget: bool) -> bool:
        """Whether a table is not there, or was not made of what is measured now; `forget`: its broken parts, too."""
        whole = stamp.is_whole(self.results, self.whole)
        if forget and not whole:
            stamp.forget_broken_parts(self.results, self.name)
        return not whole

    def total(self) -> str:
        """Launches, cells, hours against the budget; UserError when over it without `over_budget`."""
        over = bool(self.config.get("over_budget"))
        return documents.total(*self._chosen, self.results, over_budget=over)
