"""Everything that a made-up declaration must be seen in, made in a process of its own: `python -m ... FOLDER`.

The registries' packages look into the folders of tests/contract/made_up/ as well, as if the files lay in them; no
other line knows the made-up ones. What came of it is written to FOLDER/seen.json.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from servegauge.base.files import write_json

MADE_UP = Path(__file__).with_name("made_up")
REGISTRIES = {
    "metric_registry": "servegauge.contract.metric_registry",
    "flag_registry": "servegauge.contract.flag_registry",
    "recorders": "servegauge.launch.recorders",
    "figures": "servegauge.report.figures",
    "suite": "servegauge.probes.suite",
    "exporters": "servegauge.exchange.exporters",
    "importers": "servegauge.exchange.importers",
    "backends": "servegauge.submit.backends",
    "recordings": "servegauge.workloads.recordings",
}
"""Folder of tests/contract/made_up/ -> the package into which its files would be put."""


def main(folder: Path) -> None:
    for name, package in REGISTRIES.items():
        importlib.import_module(package).__path__.append(str(MADE_UP / name))
    write_json(folder / "seen.json", seen(folder))


def command(*words: str) -> str:
    """What `servegauge` prints."""
    from servegauge.cli import main

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main.run(words)
    return said.getvalue()


def recorded(folder: Path) -> None:
    """Run the recorders whose tables a synthetic cell has not beside a load that takes no time."""
    from servegauge.contract.tables import TABLES
    from servegauge.launch.recorder import Recording
    from servegauge.launch.recorders import recorders

    kinds = {name: kind for name, kind in recorders().items() if set(kind.tables()) - set(TABLES)}
    live: Any = SimpleNamespace(platform={})
    recording = Recording(kinds, live, folder)
    recording.stop(0)
    assert recording.report == {name: {"moments": 2} for name in kinds}, recording.report


def probed(results: Path) -> None:
    """Run the probes whose metrics no table of ours holds on both platforms of the study; the other is slower."""
    from servegauge.probes import registry
    from servegauge.probes.harness import base
    from tests import synthetic

    real = {path.stem for path in (Path(base.__file__).parents[1] / "suite").glob("*.py")}
    for place, platform in enumerate(synthetic.PLATFORM_FACTOR):
        rows = []
        for name, probe in registry().items():
            if name not in real:
                for row in base.run(probe, base.Context({"name": platform}, size="test")):
                    samples = [sample * (1 + place) for sample in row.samples]
                    numbers = {key: getattr(row, key) * (1 + place) for key in ("value", "low", "high")}
                    rows.append({**row.to_dict(), **numbers, "samples": samples})
        about = {"size": "test", "conditions": {}, "software": {}, "hostname": "here"}
        document = {**about, "platform": platform, "started_utc": "2026-11-21T10:00:00Z", "rows": rows}
        write_json(results / "probes" / platform / "probes.json", document)


def submitted(folder: Path) -> dict[str, Any]:
    """The outcome of an attempt whose job reaches its node in the made-up way."""
    from servegauge.base.files import read_json
    from servegauge.submit import entrypoint
    from servegauge.submit.attempts import Run
    from tests.pretend.pretend_site import Site

    entrypoint.MACHINE_LOCK = folder / "machine.lock"
    site = Site(folder.resolve())
    [launch] = site.plan({"s": 0.0}, name="made-up")
    out = folder / "results" / "launches" / launch / "attempt-0.json"
    plan = folder / "results" / "plan" / "made-up.json"
    with contextlib.chdir(folder):
        run = Run(plan, launch, "made-up-here", folder / "results", "tests.pretend.pretend_launch:measure", "*", 0.1)
        assert run.measure_launch(0, out) == 0
    return dict(read_json(out))


def replayed(root: Path) -> dict[str, Any]:
    """What is replayed of a made-up recording, what a key that does nothing for it answers, and the kinds of sets."""
    from servegauge.base.errors import UserError
    from servegauge.cli.docs import reference
    from servegauge.plan.config import load_prompts
    from servegauge.workloads.replay import recording_of

    prompts = root / "config" / "prompts"
    prompts.mkdir(parents=True)
    text = "description: x\nkind: made_up_traffic\npath: t.txt\nhow_to_get: ask\nblock_tokens: 2\n"
    (prompts / "good.yaml").write_text(text, encoding="utf-8")
    (prompts / "idle.yaml").write_text(text + "pause_s: 1\n", encoding="utf-8")
    (root / "t.txt").write_text("0 7 8\n1 9 10\n", encoding="utf-8")
    found = recording_of(load_prompts(root, "good"), root)
    assert found is not None
    try:
        load_prompts(root, "idle")
    except UserError as error:
        idle = str(error)
    return {"rate_rps": found.rate_rps, "idle": idle, "page": reference.table("prompts")}


def seen(folder: Path) -> dict[str, Any]:
    """Schemas, documentation, dataset, report and summaries of a small study, as text or plain data."""
    from servegauge.cli import load_summary
    from servegauge.cli.docs.data_dictionary import data_dictionary
    from servegauge.cli.docs.flags import flags_page
    from servegauge.contract import flags, metric_registry, metrics
    from servegauge.contract.spec import Cell, Load
    from servegauge.contract.yaml_schema import schema
    from servegauge.dataset import merge
    from servegauge.dataset.catalogue import catalogue
    from servegauge.report import page, terminal
    from tests import synthetic

    requests = synthetic.raw_requests("c", "l", synthetic.Shape())
    window = requests.filter(metrics.in_window(requests))
    raised = flags.cell_flags(requests, Cell("l", "l", {}, Load(rate_rps=4.0, requests=60), None, 2), {})
    synthetic.make_results(folder, flags=raised, beside=recorded)
    results = folder / "results"
    probed(results)
    merge.merge(results)
    page.render(results, "demo", folder / "demo.html")
    run = {
        **metrics.summarise(window, 10.0),
        **{"statuses": {}, "first_errors": {}, "flags": raised, "notes": [], "stopped": False, "out": ""},
        "instrument": {"cpu_s": 0.0, "workers": 1},
    }
    (folder / "run.made-up").write_text("0.5\n0.7\n", encoding="utf-8")
    exported = ("export", "demo", "--format", "made-up-export", "--results", str(results), "--out", str(folder / "e"))
    return {
        "submitted": submitted(folder / "site"),
        "replayed": replayed(folder / "replayed"),
        "submit_help": command("probe", "--help"),
        "export": command(*exported) + command("export", "--help"),
        "import": command("import", str(folder / "run.made-up")) + command("import", "--help"),
        "tables": {name: schema.names for name, schema in catalogue().items()},
        "parts": sorted(str(path.relative_to(results)) for path in (results / "dataset").rglob("*.parquet")),
        "slo_limits": list(schema("study")["properties"]["slo"]["additionalProperties"]["properties"]),
        "thresholds": list(schema("study")["properties"]["validity"]["properties"]),
        "flags_page": flags_page(),
        "compared": [one.name for one in metric_registry.compared()],
        "data_dictionary": data_dictionary(),
        "cells": [row for row in merge.read(results, "cells").to_pylist() if row["status"] == "ok"],
        "probes": merge.read(results, "probes").to_pylist(),
        "figures": sorted(path.name for path in (folder / "demo").glob("*.svg")),
        "page": (folder / "demo.html").read_text(encoding="utf-8"),
        "comparison.csv": (folder / "demo" / "comparison.csv").read_text(encoding="utf-8"),
        "terminal": terminal.summarise(results, "demo")[0],
        "load": load_summary.as_text(run),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
