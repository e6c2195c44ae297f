"""What people write: what it becomes, and what they are told when it is wrong."""

from __future__ import annotations

import copy
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from servegauge.base.errors import UserError
from servegauge.cli.docs import reference
from servegauge.contract import flags
from servegauge.contract.spec import Load
from servegauge.contract.yaml_schema import line_of, read_yaml, schema
from servegauge.frameworks.base import OPTIONS
from servegauge.inputs.config_files import names
from servegauge.plan.config import load_config, load_model, load_platform, load_prompts, load_study
from tests.unit.study_tree import REPOSITORY, STUDY, Tree


def test_a_study_is_resolved(tree: Tree) -> None:
    study = tree.study(server={"environment": {"OMP_NUM_THREADS": 4}})
    text = (tree.root / "config/studies/x.yaml").read_text()
    assert study["name"] == "x"
    assert study["text"] == text
    assert study["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert study["matrix"]["model"] == ["small"], "a value that stands alone is a list of one"
    assert study["load"]["arrival"] == {"process": "poisson"}
    assert study["load"]["timeout_s"] == 300
    assert study["job"]["continue"] is True
    assert study["compare"] == {"factor": "platform", "baseline": "metal"}
    assert study["server"]["environment"] == {"OMP_NUM_THREADS": "4"}
    assert study["models"]["small"]["tokenizer"] == "models/small"
    assert set(study["platforms"]) == {"metal", "virtual"}
    assert study["prompts"]["chat"]["name"] == "chat"
    assert study["shapes"]["small"]["reason"] == "models/small/config.json is not on this machine"
    assert [Path(path).name for path in study["files"]] == [
        "x.yaml",
        "small.yaml",
        "metal.yaml",
        "virtual.yaml",
        "chat.yaml",
    ]


def test_cpus_may_be_written_as_ranges(tree: Tree) -> None:
    assert load_platform(tree.root, "cpu")["placement"] == {"server_cpus": [1, 2, 3, 8], "load_cpus": [0]}


def test_configuration_with_overrides(tree: Tree) -> None:
    config = load_config(tree.root, {"over_budget": True})
    assert (config["study"], config["over_budget"], config["submit"]) == ("x", True, "local")
    with pytest.raises(UserError, match=r"^--config, or .*: stduy: unknown key\. Did you mean 'study'\?"):
        load_config(tree.root, {"stduy": "demo"})


MISTAKES = REPOSITORY / "tests" / "golden" / "mistakes.yaml"
HEADER, _, _REST = MISTAKES.read_text().partition("\n\n")
WRITTEN: dict[str, dict[str, Any]] = yaml.safe_load(_REST)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_mistake_is_answered_with_what_to_do(tree: Tree, name: str) -> None:
    case = WRITTEN[name]
    with pytest.raises(UserError) as caught:
        _load(tree, case)
    answer = str(caught.value).replace(f"{tree.root}/", "")
    if os.environ.get("UPDATE_GOLDEN"):
        case["answer"] = answer
        MISTAKES.write_text(f"{HEADER}\n\n" + yaml.safe_dump(WRITTEN, sort_keys=False, width=118, allow_unicode=True))
    assert answer == case["answer"], "another answer; accept it with UPDATE_GOLDEN=1 pytest tests/unit/test_config.py"


def _load(tree: Tree, case: dict[str, Any]) -> None:
    if "study" in case:
        tree.study(_edited(case["study"]))
        return
    tree.write(f"config/{case['file']}.yaml", case["content"])
    folder, stem = case["file"].split("/")
    {"models": load_model, "platforms": load_platform, "prompts": load_prompts}[folder](tree.root, stem)


def _edited(edits: dict[str, Any]) -> dict[str, Any]:
    study = copy.deepcopy(STUDY)
    for keys, value in edits.items():
        *parents, key = keys.split(".")
        place = study
        for parent in parents:
            place = place.setdefault(parent, {})
        place[key] = value
        if value == "REMOVE":
            del place[key]
    return study


TEXTS = {
    "tab": (
        "question: a\nmatrix:\n\tmodel: small\n",
        "x.yaml:3: a tab at the start of the line; YAML allows only spaces",
    ),
    "key twice": (
        "question: a\nload: {}\nquestion: b\n",
        "x.yaml:3: the key 'question' is given twice, first on line 1",
    ),
    "key twice below": ("a:\n  b: 1\n  c: 2\n  b: 3\n", "x.yaml:4: the key 'b' is given twice, first on line 2"),
    "open bracket": ("question: a\nmatrix: [1, 2\nload: {}\n", "x.yaml:3: did not find expected ',' or ']'"),
    "no space after a colon": ("question:a\n", "found the text 'question:a', expected keys with values"),
    "list": ("- a\n- b\n", "found a list ['a', 'b'], expected keys with values"),
    "empty": ("", "found nothing, expected keys with values"),
    "object": ("question: !!python/object:os.system {}\n", "could not determine a constructor"),
    "alias of itself": ("question: a\nmatrix: &a [*a]\n", "an alias (*name) stands inside of what it names"),
    "date that does not exist": ("question: 2025-02-30\n", "a value cannot be read: day is out of range for month"),
    "a control character": ('question: x\nmatrix: "a\\e[2J"', r"x.yaml:2: \x1b is a control character"),
    "the direction of writing": ('a: 1\n"b\\u202e": 2', r"x.yaml:2: \u202e is a control character, or turns"),
    "time in base 60": (
        "question: a\njob: {max_min: 4:00:00}\n",
        "x.yaml:2: 4:00:00 is a number in base 60 to YAML; write one",
    ),
    "time in base 60 with a fraction": (
        "question: a\nload:\n  duration_s: 1:30.5\n",
        "x.yaml:3: 1:30.5 is a number in base 60",
    ),
}


@pytest.mark.parametrize("case", TEXTS)
def test_a_text_that_is_no_study(tree: Tree, case: str) -> None:
    text, answer = TEXTS[case]
    with pytest.raises(UserError, match=r"x\.yaml:") as caught:
        tree.study(text)
    assert answer in str(caught.value)


SECRET = "hf_" + "a1B2" * 8


@pytest.mark.parametrize(
    ("server", "where"),
    [
        ({"environment": {"OMP_NUM_THREADS": 4, "HF_TOKEN": SECRET}}, r"x\.yaml:\d+: server\.environment\.HF_TOKEN"),
        ({"environment": {"DB_PASSWORD": "short"}}, r"server\.environment\.DB_PASSWORD"),
        ({"environment": {"HARMLESS": f"Bearer {SECRET}"}}, r"server\.environment\.HARMLESS"),
        ({"environment": {"HTTPS_PROXY": "http://me:word@proxy:3128"}}, r"server\.environment\.HTTPS_PROXY"),
        ({"extra_args": ["--verbose", "--api-key", "abc"]}, r"server\.extra_args\[2\]"),
        ({"extra_args": ["--api-key=abc"]}, r"server\.extra_args\[0\]"),
        ({"extra_args": {"plain": ["--header", f"Authorization: Bearer {SECRET}"]}}, r"server\.extra_args\.plain\[1\]"),
    ],
)
def test_a_secret_in_a_study_is_refused_and_not_repeated(tree: Tree, server: dict[str, Any], where: str) -> None:
    with pytest.raises(UserError, match=rf"{where}: looks like a secret.*export it in the shell") as caught:
        tree.study(server=server)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "where"),
    [
        ({"environment": {"HF_TOKEN": SECRET}}, r"metal\.yaml:3: environment\.HF_TOKEN"),
        ({"slurm": {"sbatch": ["--export=ALL,HF_TOKEN=abc"]}}, r"slurm\.sbatch\[0\]"),
        (
            {"frameworks": {"fast": {"container_args": ["--env", "HF_TOKEN=abc"]}}},
            r"frameworks\.fast\.container_args\[1\]",
        ),
        ({"frameworks": {"external": {"url": "http://me:word@host:1"}}}, r"frameworks\.external\.url"),
    ],
)
def test_a_secret_in_a_platform_is_refused(tree: Tree, keys: dict[str, Any], where: str) -> None:
    tree.write("config/platforms/metal.yaml", {"description": "bare metal", **keys})
    with pytest.raises(UserError, match=rf"{where}: looks like a secret"):
        load_platform(tree.root, "metal")


def test_a_line_for_sbatch_that_cannot_be_had_is_refused_before_anything_is_submitted(tree: Tree) -> None:
    slurm = {"gres": "gpu:{gpus}", "sbatch": ["--qos=high", "--out=mine.log"]}
    tree.write("config/platforms/metal.yaml", {"description": "bare metal", "slurm": slurm})
    with pytest.raises(UserError, match=r"metal\.yaml:\d: slurm\.sbatch: --output is set by the pipeline"):
        load_platform(tree.root, "metal")


def test_what_only_has_a_secrets_name_is_let_through(tree: Tree) -> None:
    variables = {"HF_TOKEN_PATH": "/home/me/.token", "NCCL_IB_PKEY": "0x8001", "TOKENIZERS_PARALLELISM": "false"}
    words = ["--long-prefill-token-threshold", "1024", "--ssl-keyfile", "/etc/key.pem", "--eos-token", "</s>"]
    words += ["--max-num-batched-tokens=8192", "--override-kv", "tokenizer.ggml.add_bos_token=bool:false"]
    study = tree.study(server={"environment": variables, "extra_args": words})
    assert study["server"]["environment"] == variables
    assert study["server"]["extra_args"] == words


def test_a_number_without_a_value_is_refused(tree: Tree) -> None:
    with pytest.raises(UserError) as caught:
        tree.study(load={"timeout_s": float("nan")}, matrix={"rate": [1, float("inf")]})
    said = "found a number without a value, expected a finite one"
    assert f"load.timeout_s: {said}" in str(caught.value)
    assert f"matrix.rate[1]: {said}" in str(caught.value)


def test_a_file_that_is_not_text(tree: Tree) -> None:
    (tree.root / "config/studies").mkdir(exist_ok=True)
    (tree.root / "config/studies/x.yaml").write_bytes(b"question: \xff\n")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        load_study(tree.root, "x")


def test_several_mistakes_are_told_at_once(tree: Tree) -> None:
    with pytest.raises(UserError) as caught:
        tree.study({**STUDY, "a": 1, "matrix": {**STUDY["matrix"], "rate": [-1], "repeat": "two"}})
    assert [line.split(": ")[1] for line in str(caught.value).splitlines()] == ["a", "matrix.rate[0]", "matrix.repeat"]


def test_an_unknown_study_lists_those_that_exist(tree: Tree) -> None:
    tree.study(name="mine")
    with pytest.raises(UserError, match=r"there is no .*/mien\.yaml\. Did you mean 'mine'\? There are: mine"):
        load_study(tree.root, "mien")
    with pytest.raises(UserError, match="there is no"):
        load_study(tree.root, "../studies/mine")
    with pytest.raises(UserError, match=r"there is no folder .*config: give the command in the folder of the repo"):
        load_study(tree.root / "results", "mine")


def test_lines_are_found() -> None:
    text = "a: 1\nb:\n  - c: 2\n  - d: 3\n    e: 4\n"
    assert [line_of(text, keys) for keys in (["a"], ["b"], ["b", 1, "e"], ["b", 0, "x"], ["z"])] == [1, 2, 5, 3, 1]


# -- the schemas and what else they must agree with ------------------------------------------------


def test_every_option_is_a_server_key_and_an_axis() -> None:
    axes = schema("study")["$defs"]["axes"]["properties"]
    server = schema("study")["properties"]["server"]["properties"]
    assert set(OPTIONS) <= set(axes)
    assert set(server) == set(OPTIONS) | {"extra_args", "environment"}


def test_every_key_of_load_is_a_field_and_has_its_default() -> None:
    fields = Load.__dataclass_fields__
    properties = schema("study")["properties"]["load"]["properties"]
    assert set(properties) == set(fields) - {"rate_rps", "concurrency", "burst", "capacity", "cache", "sampling"}
    for name, rule in properties.items():
        if name not in ("arrival", "warmup_requests") and "default" in rule:
            assert rule["default"] == fields[name].default, name


def test_thresholds_are_those_of_the_flags() -> None:
    properties = schema("study")["properties"]["validity"]["properties"]
    assert properties["error_share"]["default"] == 0.01
    assert properties["error_share"]["description"] == "errors: requests not ok / requests is above."
    assert {name: rule["default"] for name, rule in properties.items()} == flags.thresholds_of()


def test_the_manual_says_what_the_schemas_say() -> None:
    page = (REPOSITORY / reference.PAGE).read_text()
    assert page == reference.filled(page), "write it anew with: python -m servegauge.cli.docs"
    assert page.count("<!-- schema: ") == len(KINDS)


KINDS = ("config", "study", "platform", "model", "prompts")


@pytest.mark.parametrize("kind", KINDS)
def test_every_property_has_a_description_and_no_mapping_takes_unknown_keys(kind: str) -> None:
    def look(rule: dict[str, Any], where: str) -> None:
        if not isinstance(rule, dict):
            return
        for key, below in rule.get("properties", {}).items():
            if isinstance(below, dict) and "not" not in below:
                target = schema(kind)["$defs"][below["$ref"].split("/")[-1]] if "$ref" in below else {}
                assert below.get("description") or target.get("description"), f"{where}.{key} has no description"
                look(below, f"{where}.{key}")
        if rule.get("type") == "object":
            assert "additionalProperties" in rule, f"{where} takes any key"
        for key, below in rule.get("$defs", {}).items():
            look(below, f"{where}.$defs.{key}")
        for part in ("items", "additionalProperties"):
            look(rule.get(part), f"{where}.{part}")

    look(schema(kind), kind)


@pytest.mark.parametrize("name", names(REPOSITORY, "studies"))
def test_the_studies_of_the_repository_are_valid(name: str) -> None:
    assert load_study(REPOSITORY, name)["question"]


@pytest.mark.parametrize(
    ("folder", "load"), [("models", load_model), ("platforms", load_platform), ("prompts", load_prompts)]
)
def test_the_other_files_of_the_repository_are_valid(folder: str, load: Any) -> None:
    for name in names(REPOSITORY, folder):
        assert load(REPOSITORY, name)["description"]


def test_yaml_is_read_as_yaml(tree: Tree) -> None:
    path = tree.write("a.yaml", "base: &b {x: 1}\nother:\n  <<: *b\n  y: 2\n")
    assert read_yaml(path)[0]["other"] == {"x": 1, "y": 2}
    assert yaml.safe_load(path.read_text()) == read_yaml(path)[0]
