"""Graded questions: the same from the same seed, and graded by what is right in an answer, not by how it is dressed."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from servegauge.workloads.graded import Item, items


def test_they_are_drawn_by_the_seed_and_a_longer_list_begins_alike() -> None:
    assert items(50, 3) == items(80, 3)[:50]
    assert items(50, 3) != items(50, 4)
    fifty = items()
    assert len({item.question for item in fifty}) == 50
    assert Counter(item.kind for item in fifty).keys() == {"number", "copy", "json"}
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
        ("copy", 'Sure! "river candle, orange"', True),
        ("copy", "River Candle Orange", True),
        ("copy", "river orange candle", False),
        ("copy", "river candle", False),
        ("copy", "river\ncandle\norange", False),
        ("json", '```json\n{"a": 5, "b": "x"}\n```', True),
        ("json", '{"b": "x", "a": 5} and more', True),
        ("json", '{"a": "5", "b": "x"}', False),
        ("json", '{"a": 5, "b": "x", "c": 1}', False),
        ("json", '{"a": 5', False),
    ],
)
def test_grades(kind: str, text: str, right: bool) -> None:
    answers = {"number": "1151", "copy": "river candle orange", "json": json.dumps({"a": 5, "b": "x"})}
    assert Item(kind, "?", answers[kind]).correct(text) is right
