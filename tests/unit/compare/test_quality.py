"""Does a level answer otherwise? McNemar's and Fisher's exact tests, and a study whose truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest, fisher_exact

from servegauge.base.files import write_json
from servegauge.compare.compare import compare
from servegauge.compare.quality import canaries, mcnemar, more_often
from servegauge.dataset import merge
from servegauge.dataset.study_view import Study
from servegauge.report import terminal
from tests import synthetic
from tests.parquet_files import check_file


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (6, 0), (5, 0), (3, 9), (20, 20), (40, 12)])
def test_mcnemar_is_the_binomial_test_of_what_changed(lost: int, won: int) -> None:
    truth = binomtest(lost, lost + won).pvalue if lost + won else 1.0
    assert mcnemar(lost, won) == pytest.approx(truth)


@pytest.mark.parametrize("table", [(30, 50, 2, 50), (2, 50, 2, 50), (0, 50, 0, 50), (5, 8, 0, 50), (50, 50, 50, 50)])
def test_more_texts_differ_by_fishers_test(table: tuple[int, int, int, int]) -> None:
    one, of_one, other, of_other = table
    truth = fisher_exact([[one, of_one - one], [other, of_other - other]], alternative="greater").pvalue
    assert more_often(*table) == pytest.approx(truth)


def test_mcnemar_finds_a_difference_where_there_is_none_in_at_most_one_of_twenty() -> None:
    rng = np.random.default_rng(3)
    changed = rng.binomial(50, 0.3, 4000)
    lost = rng.binomial(changed, 0.5)
    found = np.mean([mcnemar(int(one), int(all_ - one)) < 0.05 for one, all_ in zip(lost, changed, strict=True)])
    assert found <= 0.05


def answers(right: int, text: str, items: int = 50) -> list[dict[str, Any]]:
    """The first `right` items are answered correctly, each with `text` and its number."""
    return [
        {"item": number, "kind": "number", "prompt_sha256": "x", "text": f"{text} {number}", "correct": number < right,
         "reason": None}
        for number in range(items)
    ]  # fmt: skip


@pytest.fixture
def ask(tmp_path: Path):
    """Results of two platforms and two repeats; the function writes what each launch answered and merges."""
    synthetic.make_results(tmp_path, requests=20)
    results = tmp_path / "results"

    def asked(base: list[list[dict]], other: list[list[dict]]) -> Study:
        for launch in synthetic.launches(2):
            rows = (base if launch.platform["name"] == "own-cpu" else other)[launch.repeat - 1]
            write_json(results / "launches" / launch.id / "attempt-0" / "quality.json", {"version": 1, "items": rows})
        assert merge.merge(results).warnings == []
        return Study(results, "demo")

    return asked


def test_a_level_that_answers_worse_is_said_first(ask) -> None:
    study = ask([answers(45, "a")] * 2, [answers(30, "b")] * 2)
    check_file(study.results / "dataset/quality.parquet", merge.tables.TABLES["quality"])
    (one,) = canaries(study, "platform", "own-cpu")
    assert (one.items, one.base_correct, one.correct, one.lost, one.won) == (50, 45, 30, 15, 0)
    assert one.verdict == "answers worse"
    assert (one.differ, one.compared, one.base_differ, one.base_compared) == (50, 50, 0, 50)
    comparison = compare(study)
    assert comparison
    assert comparison.notes[0].startswith("What it is faster by is of worse answers: shared-cpu: 30 of 50 right, 45 on")
    text, _ = terminal.summarise(study.results, "demo")
    assert "graded questions, shared-cpu: 30 of 50 right, 45 on the baseline: answers worse" in text


def test_other_texts_that_are_as_right_are_said_where_the_baseline_repeats_itself(ask) -> None:
    study = ask([answers(45, "a")] * 2, [answers(44, "b")] * 2)
    (one,) = canaries(study, "platform", "own-cpu")
    assert (one.verdict, one.otherwise) == ("no difference seen", True)
    comparison = compare(study)
    assert comparison
    assert comparison.notes[0].startswith("It answers otherwise than the baseline: ")
    study = ask([answers(45, "a"), answers(45, "c")], [answers(44, "b"), answers(44, "d")])
    (one,) = canaries(study, "platform", "own-cpu")
    assert (one.base_differ, one.otherwise) == (50, False), "so does the baseline from launch to launch"


def test_a_model_that_answers_nothing_right_cannot_tell(ask) -> None:
    (one,) = canaries(ask([answers(0, "a")] * 2, [answers(1, "a")] * 2), "platform", "own-cpu")
    assert one.verdict == "cannot tell"
    assert "fewer than 5 right answers" in one.words


def test_nothing_is_said_where_nothing_was_asked(tmp_path: Path) -> None:
    synthetic.make_results(tmp_path, requests=20)
    merge.merge(tmp_path / "results")
    comparison = compare(Study(tmp_path / "results", "demo"))
    assert comparison
    assert comparison.quality == []


def test_a_damaged_file_is_said_and_holds_nothing_back(ask) -> None:
    study = ask([answers(45, "a")] * 2, [answers(30, "b")] * 2)
    file = next(study.results.glob("launches/*own*/attempt-0/quality.json"))
    file.write_text("[")
    (warning,) = merge.merge(study.results).warnings
    assert "quality.json" in warning
    assert len(canaries(Study(study.results, "demo"), "platform", "own-cpu")) == 1
