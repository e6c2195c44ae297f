"""Every study that rebuilds a publication: it can be planned as it is, and its variant for a CPU runs and is judged.

`make test-studies` runs the variants in miniature; --fix writes what they gave to docs/studies.json and the page.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from servegauge.base.files import read_json, write_json, write_text
from servegauge.base.text import quantity, ratio_text
from servegauge.cli.docs import studies
from servegauge.compare.compare import compare
from servegauge.compare.conditions import statistic
from servegauge.compare.expectations import Checked, expectations
from servegauge.compare.published import DIFFERS, NOT_COMPARABLE, NOT_MEASURED, OUTCOMES, REPRODUCED
from servegauge.dataset import merge
from servegauge.dataset.study_view import Study, label, level_text
from servegauge.inputs.config_files import file_of, names
from servegauge.inputs.environments import build_environment
from servegauge.plan import documents
from servegauge.plan.config import load_study
from servegauge.plan.expand import expand
from servegauge.probes import get
from servegauge.report import terminal
from servegauge.report.platform_section import platform_section
from tests.frameworks.framework_environments import environment
from tests.pretend.tree import copy_of_the_tree
from tests.studies import miniature

ROOT = Path(__file__).parents[2]
NAMES = studies.rebuilt(ROOT)
# Some of what these ask for cannot work, as their files say: two servers of 7B do not fit on 24 GB
PARTLY = {"llmperf-instances-gpu": "does not fit"}
ALWAYS = (
    "guide-kv"  # one launch, computed figures and marked ones: run with all other tests, the others with -m studies
)
HEAVY = ("hlrs-phases",)  # its engine takes gigabytes: run with the other tests of such engines
UTILISATION = ("hpc-efficiency",)  # what they ask for is no metric of a cell: the report's roofline has it
BY_THREADS = ("llmperf-interconnect",)  # they ask how their ratio changes with the parts of a model
ASKED = {
    *("hlrs-vgpu-ttft", "hlrs-gemm", "hlrs-phases", "hlrs-two-gpus", "hlrs-allreduce", "hlrs-next"),
    *("llmperf-gpu", "llmperf-interconnect", "llmperf-radix", "llmperf-frameworks", "llmperf-tp"),
    *("llmperf-instances-host", "llmperf-instances-gpu"),
    *("hpc-llamacpp", "hpc-efficiency", "hpc-flat-gemm", "hpc-scaling", "hpc-allocation"),
    *("guide-kv", "guide-quantization", "guide-kv-dtype", "guide-prefix-cache", "guide-chunked-prefill"),
    *("guide-speculative", "guide-parallel", "guide-lora", "guide-vision", "guide-knee", "guide-memory"),
    *("guide-breakeven", "uvm-blocks"),
}


def test_every_study_is_there_with_its_variant() -> None:
    assert set(NAMES) == ASKED


@pytest.mark.parametrize("name", NAMES)
def test_it_is_planned_on_its_platforms_within_its_budget(name: str, tmp_path: Path) -> None:
    study = load_study(ROOT, name)
    assert all(platform["gpus_per_node"] for platform in study["platforms"].values())
    plan = expand(study)
    now = documents.state(plan, tmp_path)
    skipped = {one.skipped for one in plan.cells if one.skipped}
    assert all(PARTLY.get(name, "nothing") in reason for reason in skipped), skipped
    assert "GPU hours to come" in documents.total(plan, now, tmp_path), "a plan beyond its budget is refused"
    for launch in plan.launches:
        assert study["shapes"][launch.model["name"]]["weight_bytes"], "so that the plan knows what fits"


@pytest.mark.parametrize("name", NAMES)
def test_its_variant_costs_no_gpu_and_has_something_to_measure(name: str) -> None:
    study = load_study(ROOT, f"{name}{studies.CPU}")
    assert study["base"] == name
    assert not any(platform["gpus_per_node"] for platform in study["platforms"].values())
    plan = expand(study)
    assert any(one.skipped is None for one in plan.cells)
    assert len(plan.cells) <= 16, "miniature"
    published = load_study(ROOT, name).get("expects", [])
    assert len(study.get("expects", [])) == len(published)
    for one in study.get("expects", []):
        assert one.get("model") or one.get("stands_for"), "a CPU reproduces nothing that was published for a GPU"


def test_the_page_lists_them() -> None:
    page = (ROOT / studies.PAGE).read_text(encoding="utf-8")
    assert page == studies.filled(page, ROOT), "write it anew with: python -m servegauge.cli.docs"
    assert set(read_json(ROOT / studies.FIGURES)) == {f"{name}{studies.CPU}" for name in NAMES}


@pytest.mark.parametrize("name", names(ROOT, "studies"))
def test_its_file_says_what_it_takes(name: str) -> None:
    text = file_of(ROOT, "studies", name).read_text(encoding="utf-8")
    assert text == studies.expected(ROOT, name), "write it anew with: python -m servegauge.cli.docs"


@pytest.fixture(scope="module")
def tree(tmp_path_factory, tiny_model: Path, llamacpp_python: str) -> Iterator[Path]:
    """A copy of the repository, in which variants share what they measure; the working folder."""
    root = tmp_path_factory.mktemp("studies") / "tree"
    copy_of_the_tree(root)
    with pytest.MonkeyPatch.context() as monkeypatch:
        miniature.quicken(monkeypatch)
        monkeypatch.chdir(root)
        yield root


def marked(name: str) -> Any:
    mark = pytest.mark.frameworks if name in HEAVY else pytest.mark.studies
    return name if name == ALWAYS else pytest.param(name, marks=mark)


@pytest.mark.parametrize("name", [marked(name) for name in NAMES])
def test_its_variant_runs_and_its_figures_are_judged(name: str, tree: Path, request: pytest.FixtureRequest) -> None:
    if name in HEAVY:
        environment("transformers")
    variant = f"{name}{studies.CPU}"
    plan = miniature.measure(variant)
    study = Study(miniature.RESULTS, variant)
    assert {row["status"] for row in study.cells} <= {"ok", "skipped"}
    checked = expectations(study)
    text, failed = terminal.summarise(miniature.RESULTS, variant)
    assert failed == 0
    for one in checked:
        said = one.outcome
        assert said.verdict in OUTCOMES
        assert said.verdict in " ".join(text.split())
        if one.metric.partition(": ")[0] in study_models(study):  # computed from a shape, wherever it runs
            assert said.verdict == (DIFFERS if one.wrong else REPRODUCED), one
        else:
            assert said.verdict in (NOT_COMPARABLE, NOT_MEASURED), one
            assert said.reason
            assert (one.measured is None) == (said.verdict == NOT_MEASURED)
            assert said.verdict != NOT_COMPARABLE or "in place of" in said.reason or "unit" in said.reason
    if request.config.getoption("--fix"):
        found = read_json(ROOT / studies.FIGURES) if (ROOT / studies.FIGURES).exists() else {}
        found[variant] = {
            "figure": figure(study, checked, plan.study.get("probes") or ()),
            "verdicts": [one.outcome.verdict for one in checked],
        }
        write_json(ROOT / studies.FIGURES, dict(sorted(found.items())))
        page = ROOT / studies.PAGE
        write_text(page, studies.filled(page.read_text(encoding="utf-8"), ROOT))


@pytest.mark.frameworks
def test_two_releases_of_one_engine_are_compared(tree: Path) -> None:
    """Two locks, two environments: each release says its own version, and the new one has a verdict."""
    build_environment("llamacpp-before", ROOT)
    miniature.measure("engine-release-cpu")
    study = Study(miniature.RESULTS, "engine-release-cpu")
    assert {row["status"] for row in study.cells} == {"ok"}
    found = compare(study)
    assert found is not None
    ttft = next(one for one in found.overall if one.metric.name == "ttft_p50")
    assert (ttft.level, ttft.pairs) == ("llamacpp", 3)
    versions = {row["framework"]: study.version_of(row) for row in study.cells}
    assert len({*versions.values()} - {None}) == 2, versions
    assert "say the same version" not in " ".join(found.notes)


def study_models(study: Study) -> set[str]:
    return {one["model"] for one in json.loads(study.row["expects"] or "[]") if "model" in one}


def figure(study: Study, checked: list[Checked], asked: Sequence[str]) -> str:
    """What the variant says to the study's own question: a capacity, what was published, a probe, its comparison."""
    base = study.name.removesuffix(studies.CPU)
    if base in UTILISATION:
        most = max(platform_section(study, None).used, key=lambda row: row["mfu"])
        return f"{most['platform']}, {most['condition']}: MFU {most['mfu']:.1%}, MBU {most['mbu']:.1%}"
    by_name = {metric.name: metric for metric in study.metrics}
    row = next((row for row in study.ok if row.get("capacity_rps") is not None), None)
    if row:
        return f"{by_name['capacity_rps'].title}: {quantity(row['capacity_rps'], by_name['capacity_rps'].unit)}"
    told = [one for one in checked if one.measured is not None]
    if told:
        one = next(
            (one for one in told if one.kind == "ratio" and ": " not in one.metric), told[0]
        )  # a probe's: a value
        number = ratio_text(one.measured) if one.kind == "ratio" else quantity(one.measured, one.unit)
        return f"{one.about}: {number}"
    if checked and (found := probed(study, asked, [one.metric.partition(": ")[2] for one in checked])):
        return found
    if checked:
        return f"not measured: {checked[0].outcome.reason}"
    comparison = compare(study)
    overall = {one.metric.name: one for one in comparison.overall if one.ratio} if comparison else {}
    if comparison and (one := next((overall[name] for name in comparison.primary if name in overall), None)):
        words = f"{one.metric.title} of {comparison.factor} {level_text(one.level)} / {level_text(comparison.baseline)}"
        if base not in BY_THREADS:
            return f"{words}: {ratio_text(one.ratio)}"
        parts = [(comparison.conditions[ratio.condition], ratio) for ratio in comparison.of(one.metric.name)]
        told = [f"{ratio_text(ratio.ratio)} with {label({'threads': axes['threads']})}"
                for axes, ratio in parts if axes["concurrency"] and ratio.ratio]  # fmt: skip
        return f"{words}: {', '.join(told)}"
    metric = by_name[(comparison.primary if comparison else ["ttft_p50"])[0]]
    return f"{metric.title}: {quantity(statistic(study, study.ok[0], metric), metric.unit)}"


def probed(study: Study, asked: Sequence[str], metrics: Sequence[str]) -> str | None:
    """The first number of the probes `asked`: of the first of these metrics that one has, else what it is judged by."""
    rows = [row for row in merge.read(study.results, "probes").to_pylist() if row["status"] == "ok"]
    for name in asked:
        wanted = [one for one in metrics if one in get(name).units] or get(name).primary
        for metric in wanted:
            for row in rows:
                if (row["probe"], row["metric"]) == (name, metric):
                    told = json.loads(row["variant"])
                    words = label({key: told[key] for key in told if key not in ("device", "backend")})
                    return f"{name}, {words}: {row['metric']} {quantity(row['value'], row['unit'])}"
    return None
