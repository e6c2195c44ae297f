"""Graded questions, made from a seed: small tasks with one right answer, so that no data set and no licence is needed.

They say whether a server still answers as it did, not how good a model is: a model that answers most of them without an
option and fewer with it answers otherwise with it. No right answer stands in its question where a copy of the question,
of its first, last or longest word or number would be graded as right: a server that only echoes gets none.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass

ANSWER_TOKENS = 256  # room for a model that thinks aloud; the grade looks for the answer in what it says
_WORDS = (
    *("river", "candle", "orange", "window", "metal", "forest", "button", "silver", "garden", "bridge", "pencil"),
    *("yellow", "rocket", "basket", "winter", "marble", "circle", "ticket", "harbour", "cotton", "thunder", "velvet"),
)


@dataclass(frozen=True)
class Item:
    """One question: its kind, what is sent, and the right answer as text."""

    kind: str
    question: str
    answer: str

    @property
    def prompt(self) -> str:
        """The question for an endpoint without chat."""
        return f"Question: {self.question}\nAnswer:"

    def correct(self, text: str) -> bool:
        """Whether `text` gives the right answer, by the rule of the item's kind."""
        return _RULES[self.kind](text, self.answer)


def items(count: int = 50, seed: int = 0) -> list[Item]:
    """`count` items, kinds in turn; the first n of a longer list are the same."""
    drawn = random.Random(f"graded {seed}")  # a text: the same on every version of Python
    kinds = list(_MAKERS)
    return [_MAKERS[kinds[number % len(kinds)]](drawn) for number in range(count)]


def _sum(drawn: random.Random) -> Item:
    one, other = drawn.randint(100, 999), drawn.randint(100, 999)
    return Item("number", f"What is {one} + {other}? Reply with the number alone.", str(one + other))


def _product(drawn: random.Random) -> Item:
    one, other = drawn.randint(11, 39), drawn.randint(3, 9)
    return Item("number", f"What is {one} * {other}? Reply with the number alone.", str(one * other))


def _largest(drawn: random.Random) -> Item:
    *others, largest = sorted(drawn.sample(range(100, 999), 6))
    drawn.shuffle(others)
    others.insert(drawn.randint(1, 4), largest)  # neither first nor last: the end of an echo is graded
    told = ", ".join(map(str, others))
    return Item("number", f"Which is the largest of {told}? Reply with the number alone.", str(largest))


def _replace(drawn: random.Random) -> Item:
    *words, instead = drawn.sample(_WORDS, 7)
    out = drawn.choice(words[1:-1])
    told, answer = " ".join(words), " ".join(instead if word == out else word for word in words)
    return Item("words", f"Repeat these words with {instead} in place of {out}, and say nothing else: {told}", answer)


def _reverse(drawn: random.Random) -> Item:
    words = drawn.sample(_WORDS, 4)
    told = " ".join(words)
    return Item("words", f"Write these words in reverse order, and nothing else: {told}", " ".join(reversed(words)))


def _sorted(drawn: random.Random) -> Item:
    words = drawn.sample(_WORDS, 4)
    while words == sorted(words):
        drawn.shuffle(words)
    told = " ".join(words)
    return Item("words", f"Write these words in alphabetical order, and nothing else: {told}", " ".join(sorted(words)))


def _json(drawn: random.Random) -> Item:
    wanted = {drawn.choice(_WORDS): drawn.randint(1, 99), "name": drawn.choice(_WORDS)}
    told = " and ".join(f"the key {key!r} with the value {json.dumps(value)}" for key, value in wanted.items())
    return Item("json", f"Write one JSON object with {told}, and nothing else.", json.dumps(wanted))


def _next(drawn: random.Random) -> Item:
    start, step = drawn.randint(1, 50), drawn.randint(2, 12)
    told = ", ".join(str(start + step * place) for place in range(5))
    return Item("number", f"Which number comes next: {told}? Reply with the number alone.", str(start + 5 * step))


_MAKERS: dict[str, Callable[[random.Random], Item]] = {
    "sum": _sum, "product": _product, "largest": _largest, "replace": _replace, "reverse": _reverse, "sorted": _sorted,
    "json": _json, "next": _next,
}  # fmt: skip


def _number(text: str, answer: str) -> bool:
    """The last number of the first line that has one: models repeat the question first, and ramble afterwards."""
    for line in _visible(text).splitlines():
        if found := re.findall(r"-?\d+", re.sub(r"(?<=\d),(?=\d{3}\b)", "", line)):
            return str(found[-1]) == answer
    return False


def _words(text: str, answer: str) -> bool:
    """The words in order, whatever stands between and around them, on one line."""
    wanted = answer.split()
    lines = [re.findall(r"[a-z]+", line.lower()) for line in _visible(text).splitlines()]
    return any(line[place : place + len(wanted)] == wanted for line in lines for place in range(len(line)))


def _object(text: str, answer: str) -> bool:
    """The first {...} of the text, read as JSON."""
    shown = _visible(text)
    for found in re.finditer(r"\{", shown):
        try:
            value, _ = json.JSONDecoder().raw_decode(shown, found.start())
        except ValueError:
            continue
        return bool(value == json.loads(answer))
    return False


def _visible(text: str) -> str:
    """What comes after a model's thoughts, where it shows them."""
    return text.rpartition("</think>")[2]


_RULES: dict[str, Callable[[str, str], bool]] = {"number": _number, "words": _words, "json": _object}
