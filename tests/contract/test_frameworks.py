"""What every framework's file must do. A new file is tried by these tests without a line of its own."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from servegauge.base.errors import UserError
from servegauge.cli.docs import framework_docs
from servegauge.contract.records.specs import LaunchSpec
from servegauge.contract.spec import Launch, Layout
from servegauge.frameworks import frameworks
from servegauge.frameworks.base import FAIR_DEFAULTS, LAYOUT, OPTIONS, Context, Evidence, Framework, Reply, Reset
from servegauge.launch.recorders.scrape import COMMON
from tests.framework_launches import FULL, KEY, context, fair, full, layout

ROOT = Path(__file__).parents[2]
EVERY = sorted(frameworks())
every_framework = pytest.mark.parametrize("framework", frameworks().values(), ids=EVERY)
# Options whose defaults differ between frameworks and matter: never left to the framework.
MATTER = ("prefix_cache", "chunked_prefill", "max_batch", "kv_cache_dtype", "graphs")


class Deaf:
    """A server that does not answer."""

    def get(self, path: str, timeout_s: float = 10.0) -> Reply:
        return Reply(0, "OSError: nobody there")

    def post(self, path: str, body: object = None, timeout_s: float = 30.0) -> Reply:
        return Reply(0, "OSError: nobody there")


class Says(Deaf):
    """A server that gives one answer to everything, and the metrics of `metrics`."""

    def __init__(self, status: int, text: str) -> None:
        self.reply = Reply(status, text)

    def get(self, path: str, timeout_s: float = 10.0) -> Reply:
        return self.reply

    def post(self, path: str, body: object = None, timeout_s: float = 30.0) -> Reply:
        return self.reply


@every_framework
def test_it_says_what_it_is(framework: Framework) -> None:
    for name in ("name", "title", "source", "exercised"):
        assert getattr(framework, name), name
    assert framework.exercised.startswith(("real server", "own parser", "not exercised"))
    assert framework.weights in ("hf", "gguf", "none")
    assert framework.api_key in ("environment", "private file", "none")
    assert sys.modules[type(framework).__module__].__doc__
    assert any(char.isdigit() for char in framework.source) or framework.name == "external", "source names a version"


@every_framework
def test_it_was_read_and_tried_with_the_versions_that_are_pinned(framework: Framework) -> None:
    """Its environments, its `source` and the page speak of the same versions."""
    page = (ROOT / "docs" / "frameworks.md").read_text(encoding="utf-8").partition(framework_docs.BEGIN)[0]
    for name in (framework.name, f"{framework.name}-cpu", f"parsers-{framework.name}"):
        asked = ROOT / "envs" / f"{name}.in"
        if not asked.exists():
            continue
        own = rf"^[\w-]*{framework.name}(?:-cpu)?(?:\[\w+\])?==(.+)$"
        (version,) = re.findall(own, asked.read_text(encoding="utf-8"), re.MULTILINE)
        (locked,) = re.findall(own.replace("(.+)", r"(\S+)").replace("$", r" \\$"), lock(name), re.MULTILINE)
        assert locked == version, f"envs/{name}.txt is not the lock of envs/{name}.in"
        assert version in framework.source, f"envs/{name}.in has {version}, its file was read for another"
        if "real server" in framework.exercised and not name.startswith("parsers-"):
            assert version in page, f"docs/frameworks.md speaks of another version than {version}"


def lock(name: str) -> str:
    return (ROOT / "envs" / f"{name}.txt").read_text(encoding="utf-8")


@every_framework
def test_only_neutral_names_are_used(framework: Framework) -> None:
    assert set(framework.supported) <= set(OPTIONS)
    assert set(framework.choices) <= set(framework.supported)
    assert set(framework.layout) <= set(LAYOUT)
    assert set(framework.fair_defaults) <= set(OPTIONS)
    assert set(framework.differences) <= {*OPTIONS, "requests", "api_key"}
    assert set(framework.metrics) <= set(COMMON)


@every_framework
def test_no_default_that_matters_is_left_to_it(framework: Framework) -> None:
    left = [name for name in MATTER if name in framework.supported and name not in framework.fair_defaults]
    assert left == []
    ours = framework.fair_defaults
    changed = [name for name, value in FAIR_DEFAULTS.items() if ours.get(name, value) != value]
    assert set(changed) <= set(framework.differences), "another default than the other frameworks' is a difference"


@every_framework
def test_a_study_without_options_can_be_launched(framework: Framework) -> None:
    assert framework.unsupported(fair(framework)) is None
    assert framework.argv(context(fair(framework)))


@every_framework
def test_argv_of_every_option(framework: Framework, golden: Callable[[Path, str], None]) -> None:
    launch = full(framework, layout(framework))
    assert framework.unsupported(launch) is None
    golden(
        ROOT / "tests" / "golden" / "argv" / f"{framework.name}.txt", framework_docs.as_text(framework, context(launch))
    )


@every_framework
def test_every_option_reaches_the_server(framework: Framework) -> None:
    """Each supported option that has more than one value changes argv, environment, files or the requests."""
    launch = full(framework)
    for name in launch.options:
        if len(framework.choices.get(name, "ab")) < 2 or framework.supported[name].endswith("no option"):
            continue
        differ = {**launch.options, name: other(framework, name, launch.options[name])}
        changed = dataclasses.replace(launch, options=differ)
        assert told(framework, launch) != told(framework, changed), f"{name} changes nothing"


def other(framework: Framework, name: str, value: object) -> object:
    """Another value of the option `name`."""
    if name in framework.choices:
        words = framework.choices[name]
        return next(choice for choice in words if words[choice] != words[str(value)] or not words[choice])
    changed = {bool: lambda v: not v, int: lambda v: v * 2, float: lambda v: v / 2, str: lambda v: v + "x"}
    if isinstance(value, dict):
        return None
    return changed[type(value)](value)


def told(framework: Framework, launch: Launch) -> tuple[object, ...]:
    """Everything that the server and its clients are told, on GPUs and on a CPU."""
    said: list[object] = [framework.request_extras(launch)]
    for platform in (launch.platform, {"name": "a-cpu"}):
        ctx = context(dataclasses.replace(launch, platform=platform))
        said += [framework.argv(ctx), framework.environment(ctx), framework.files(ctx)]
    return tuple(said)


@every_framework
def test_no_secret_on_the_command_line(framework: Framework) -> None:
    ctx = context(full(framework))
    assert KEY not in " ".join(framework.argv(ctx))
    in_environment = KEY in framework.environment(ctx).values()
    in_file = any(KEY in text for text in framework.files(ctx).values())
    if framework.name != "external":  # its key is given to us, not by us
        assert (in_environment, in_file) == (framework.api_key == "environment", framework.api_key == "private file")
    assert framework.api_key != "none" or "api_key" in framework.differences, "no key at all: say so"


def test_a_given_key_that_could_not_be_taken_out_of_logs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    external = frameworks()["external"]
    monkeypatch.setenv("SERVEGAUGE_EXTERNAL_API_KEY", "abc1234")
    with pytest.raises(UserError, match="has 7 characters, it needs 8 or more") as caught:
        external.given_api_key()
    assert "abc1234" not in str(caught.value)
    monkeypatch.setenv("SERVEGAUGE_EXTERNAL_API_KEY", "abc12345")
    assert external.given_api_key() == "abc12345"
    monkeypatch.delenv("SERVEGAUGE_EXTERNAL_API_KEY")
    assert external.given_api_key() == ""


@every_framework
def test_a_server_without_a_key_is_only_heard_on_the_loopback(framework: Framework) -> None:
    if framework.api_key == "none":
        assert "nodes" not in framework.layout, "a server that spans nodes is heard by others: it needs a key"
        assert "127.0.0.1" in " ".join(
            [*framework.argv(context(fair(framework))), *framework.environment(context(fair(framework))).values()]
        )


@every_framework
def test_what_it_lacks_is_refused_with_the_reason(framework: Framework) -> None:
    for name in OPTIONS:
        if name not in framework.supported:
            reason = framework.unsupported(
                fair(framework, **{name: FULL[name]})
                if name in framework.supported
                else dataclasses.replace(fair(framework), options={name: FULL[name]})
            )
            assert reason, name
    for name in ("tp", "pp", "dp", "ep"):
        if name not in framework.layout:
            spread = dataclasses.replace(fair(framework), layout=Layout(**{name: 2}))
            assert framework.unsupported(spread), f"{name} is not supported, and nothing says so"


@every_framework
def test_words_it_does_not_know_are_refused(framework: Framework) -> None:
    for name in framework.choices:
        launch = fair(framework)
        wrong = dataclasses.replace(launch, options={**launch.options, name: "no-such-word"})
        reason = framework.unsupported(wrong)
        assert reason, name
        assert "no-such-word" in reason


@every_framework
def test_several_nodes_only_where_it_says_how(framework: Framework) -> None:
    many = dataclasses.replace(fair(framework), layout=Layout(tp=16))
    if "nodes" not in framework.layout:
        assert framework.unsupported(many)
        return
    assert framework.unsupported(many) is None
    nodes = {"nodes": 2, "head_address": "node-a", "head_port": 29400}
    head, second = (framework.argv(context(many, node_rank=rank, **nodes)) for rank in (0, 1))
    assert head != second
    assert "node-a" in " ".join(head)
    assert "29400" in " ".join(head)


@every_framework
def test_instances_that_share_a_gpu_share_its_memory(framework: Framework) -> None:
    if "memory_fraction" not in framework.supported:
        return
    alone = fair(framework, memory_fraction=0.8)
    shared = dataclasses.replace(alone, layout=Layout(instances=2, share_gpu=True))
    assert framework.options(alone)["memory_fraction"] == 0.8
    assert framework.options(shared)["memory_fraction"] == 0.4
    assert "0.4" in str(told(framework, shared))


@every_framework
def test_a_reset_that_nobody_answered_is_no_reset(framework: Framework, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    launch = full(framework)
    if not launch.options.get("prefix_cache"):
        return
    for client in (Deaf(), Says(200, '{"success": false}'), Says(500, "no"), Says(404, "no"), Says(200, "[1]")):
        reset = framework.reset_cache(client, launch)
        assert isinstance(reset, Reset)
        assert not reset.ok, f"{client}: a refusal is not a reset, whatever the HTTP status"
        assert reset.how


@every_framework
def test_evidence_never_raises(framework: Framework) -> None:
    for client in (
        Deaf(),
        Says(200, "[]"),
        Says(200, "{}"),
        Says(200, "[1]"),
        Says(200, "7"),
        Says(200, "<html>"),
        Says(500, ""),
    ):
        evidence = framework.evidence(client, "")
        assert isinstance(evidence, Evidence)
        json.dumps(dataclasses.asdict(evidence), allow_nan=False)
        assert set(evidence.effective) <= {*OPTIONS, "tp", "pp", "dp", "ep"}
        assert evidence.kv_blocks is None


@every_framework
def test_evidence_holds_no_key_that_the_server_tells(framework: Framework) -> None:
    """SGLang's /server_info has its API key three times; others may follow."""
    state = {"api_key": KEY, "launch_command": f"serve --api-key {KEY} --port 1", "args": f"Namespace(api_key='{KEY}')"}
    told = {**state, "internal_states": [{"nested": [state]}], "version": "1"}
    text = json.dumps(told)
    log = f"version: 1\nparameters: {text}\n INFO with config: api_key='{KEY}', {text}\nargs: {state}\n"
    for page in (text, json.dumps([told]), f'vllm:cache_config_info{{api_key="{KEY}"}} 1\n'):
        evidence = framework.evidence(Says(200, page), log)
        assert KEY not in json.dumps(dataclasses.asdict(evidence))


@every_framework
def test_it_is_not_ready_before_it_answers(framework: Framework) -> None:
    assert not framework.ready(Deaf())
    assert not framework.ready(Says(503, "loading"))


@every_framework
def test_the_same_launch_gives_the_same_argv(framework: Framework) -> None:
    launch = full(framework)
    assert told(framework, launch) == told(
        framework, msgspec.convert(json.loads(json.dumps(launch.to_dict())), LaunchSpec).launch
    )


def test_the_page_is_made_from_the_files(golden: Callable[[Path, str], None]) -> None:
    path = ROOT / "docs" / "frameworks.md"
    golden(path, framework_docs.page(path.read_text(encoding="utf-8") if path.exists() else ""))


def test_no_framework_is_named_outside_its_own_file() -> None:
    """DESIGN's rule: what a framework needs is said in its file; nothing else compares names."""
    package = ROOT / "workflow" / "servegauge"
    for path in package.rglob("*.py"):
        if path.parent.name in ("frameworks", "engines"):
            continue
        text = path.read_text(encoding="utf-8")
        for name in EVERY:
            for way in (f'== "{name}"', f'!= "{name}"', f'framework("{name}")', f"frameworks.{name}"):
                assert way not in text, f"{path.relative_to(ROOT)} knows {name}: {way}"


def test_the_example_in_the_documentation_works() -> None:
    text = (ROOT / "docs" / "adding-a-framework.md").read_text(encoding="utf-8")
    code = text.partition("```python\n")[2].partition("```")[0]
    names: dict[str, object] = {"__name__": "example"}
    exec(compile(code, "adding-a-framework.md", "exec"), names)
    example = names["Example"]()
    launch = dataclasses.replace(next(full(one) for one in frameworks().values()), framework="example", options=FULL)
    assert "has no option" in example.unsupported(launch)
    having = {name: value for name, value in FULL.items() if name in example.supported}
    launch = dataclasses.replace(launch, options=having)
    assert example.unsupported(launch) is None
    ctx = Context(launch, "/models/m", 8000, api_key=KEY)
    assert " ".join(example.argv(ctx)) == (
        "example-server /models/m --host 127.0.0.1 --port 8000 --shards 1 --max-length 4096 --cache --dtype bf16"
    )
