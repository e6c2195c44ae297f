"""`servegauge plan`: beside launches and cells, what the study can see."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from servegauge.base.files import read_json
from servegauge.cli.plan import add_arguments, what_it_sees
from servegauge.compare.effect import FEWEST_FOR_VERDICT
from servegauge.compare.measured import launch_deviations
from servegauge.compare.probe_effects import FEWEST_PROCESSES
from servegauge.dataset import merge
from servegauge.dataset.study_view import Study
from servegauge.plan.config import load_study
from tests import synthetic


@pytest.mark.parametrize("name", ["demo", "frameworks-cpu", "vgpu-vs-bare-metal"])
def test_an_example_study_has_repeats_for_a_verdict_or_calls_itself_a_demonstration(name: str) -> None:
    root = Path(__file__).parents[3]
    study = load_study(root, name)
    said = what_it_sees(study, root / "no-results")
    demonstration = study["matrix"]["repeat"] < FEWEST_FOR_VERDICT
    assert ("a demonstration: repeat is" in said) == demonstration
    comments = [line for line in study["text"].splitlines() if line.lstrip().startswith("#")]
    assert any("demonstration" in line for line in comments) or not demonstration
    assert study["probe_processes"] >= FEWEST_PROCESSES or demonstration or not study.get("probes")


def test_the_scatter_of_the_dataset_is_taken_where_there_is_one(tmp_path: Path) -> None:
    synthetic.make_results(tmp_path, requests=60)
    results = tmp_path / "results"
    study = read_json(results / "plan/demo.json")["study"]
    study["matrix"] = {**study.get("matrix", {}), "repeat": 2}
    assert "assumed: nothing was repeated yet" in what_it_sees(study, results, 0.05)
    merge.merge(results)
    said = what_it_sees(study, results, 0.05)
    deviation, _ = launch_deviations(Study(results, "demo"))["tpot_p50"]
    assert f"TPOT p50: launches differ by {100 * deviation:.2g} % (measured, 2 launches a configuration)" in said
    assert "assumed" not in said
    assert "a demonstration: repeat is 2" in said
    assert "to see 5 % in all of them, set matrix.repeat to " in said


def test_what_one_cell_can_see_is_told(tmp_path: Path) -> None:
    study = {"name": "x", "matrix": {"repeat": 3, "rate": [2, 4], "capacity": ["quick"]}, "load": {"requests": 200}}
    said = what_it_sees(study, tmp_path)
    assert "windows of 200 requests show an overload of 5 % (saturated) in about 89 % of cells" in said
    assert "45 % where their times deviate by their mean" in said
    assert "200 requests a rate scatters by chance by up to 18 % between repeats; 3 % takes about 7000" in said
    said = what_it_sees({**study, "load": {"duration_s": 500}, "matrix": {"repeat": 3, "rate": [2]}}, tmp_path)
    assert "windows of 1000 requests" in said
    assert "capacity" not in said


@pytest.mark.parametrize("wrong", ["0", "2", "nothing"])
def test_a_difference_is_a_share(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert parser.parse_args(["demo", "--power", "0.02"]).power == 0.02
    with pytest.raises(SystemExit):
        parser.parse_args(["demo", "--power", wrong])
    assert "--power" in capsys.readouterr().err
