"""Graded questions: the same from the same seed, and graded by what is right in an answer, not by how it is dressed."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable

import pytest

from servegauge.compare.quality import FEWEST_CORRECT
from servegauge.workloads.graded import Item, items


def test_they_are_drawn_by_the_seed_and_a_longer_list_begins_alike() -> None:
    assert items(50, 3) == items(80, 3)[:50]
    assert items(50, 3) != items(50, 4)
    fifty = items()
    assert len({item.question for item in fifty}) == 50
    assert Counter(item.kind for item in fifty).keys() == {"number", "words", "json"}
    # A change of the questions makes answers of before and after no pairs.
    assert fifty[0] == Item("number", "What is 101 + 249? Reply with the number alone.", "350")


@pytest.mark.parametrize("item", items(16), ids=lambda item: item.question[:20])
def test_its_own_answer_is_right_and_nothing_else_is(item: Item) -> None:
    assert item.correct(item.answer)
    assert item.correct(f'<think>no, {"9" * 5} {{"a": 1}}</think>\n  {item.answer}\n')
    assert not item.correct("")
    assert not item.correct("I do not know 7, sorry {}")
    other = next(one for one in items(60)[16:] if one.kind == item.kind and one.answer != item.answer)
    assert not item.correct(other.answer)


@pytest.mark.parametrize(
    ("kind", "text", "right"),
    [
        ("number", "1,151", True),
        ("number", "464 + 687 = 1151.", True),
        ("number", "The answer is:\n**1151**", True),
        ("number", "1151\nQuestion: What is 3 + 4?\n7", True),
        ("number", "11510", False),
        ("number", "115", False),
        ("words", 'Sure! "river candle, orange"', True),
        ("words", "River Candle Orange", True),
        ("words", "river orange candle", False),
        ("words", "river candle", False),
        ("words", "river\ncandle\norange", False),
        ("json", '```json\n{"a": 5, "b": "x"}\n```', True),
        ("json", '{"b": "x", "a": 5} and more', True),
        ("json", '{"a": "5", "b": "x"}', False),
        ("json", '{"a": 5, "b": "x", "c": 1}', False),
        ("json", '{"a": 5', False),
    ],
)
def test_grades(kind: str, text: str, right: bool) -> None:
    answers = {"number": "1151", "words": "river candle orange", "json": json.dumps({"a": 5, "b": "x"})}
    assert Item(kind, "?", answers[kind]).correct(text) is right


def numbers(text: str) -> list[str]:
    return re.findall(r"\d+", text) or ["0"]


TRIVIAL: dict[str, Callable[[str], str]] = {
    "nothing": lambda asked: "",
    "a blank": lambda asked: " \n",
    "echo": lambda asked: asked,
    "echo without its last line": lambda asked: asked.rpartition("\n")[0],
    "quoted echo": lambda asked: f'"{asked}"',
    "what stands behind the colon": lambda asked: asked.rpartition("\nAnswer:")[0].rpartition(": ")[2],
    "first word": lambda asked: asked.split()[0],
    "last word": lambda asked: asked.split()[-1],
    "longest word": lambda asked: max(asked.split(), key=len),
    "first number": lambda asked: numbers(asked)[0],
    "last number": lambda asked: numbers(asked)[-1],
    "number of words": lambda asked: str(len(asked.split())),
    **{f"always {text}": lambda asked, text=text: text for text in ("0", "1", "42", "100", "999", "yes", "{}", "[]")},
}


@pytest.mark.parametrize("answers", TRIVIAL)
def test_who_does_not_work_gets_none_right(answers: str) -> None:
    for seed in range(3):
        for form in ("prompt", "question"):
            right = [item for item in items(50, seed) if item.correct(TRIVIAL[answers](getattr(item, form)))]
            # One number for all questions is right by chance, of fewer than the least that say something.
            assert len(right) < (FEWEST_CORRECT if answers.startswith("always") else 1), right
