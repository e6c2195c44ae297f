"""The graded questions of a launch: sent after its cells, graded, and never a reason to fail."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from servegauge.frameworks.base import Reply
from servegauge.launch import quality
from servegauge.workloads.graded import items


class Server:
    """Answers with what it is given, in turn; keeps what it was asked."""

    def __init__(self, *replies: Reply) -> None:
        self.replies, self.asked = list(replies), []
        self.client = self

    def post(self, path: str, body: Any, timeout_s: float) -> Reply:
        self.asked.append((path, body))
        return self.replies[min(len(self.asked), len(self.replies)) - 1]


def live(server: Server, stop: bool = False) -> Any:
    return SimpleNamespace(
        servers=[server],
        stop=lambda: stop,
        launch=SimpleNamespace(model={"name": "m"}),
        without_secrets=lambda text: text.replace("sesame", "***"),
    )


def said(text: str, endpoint: str) -> Reply:
    choice = {"message": {"content": text}} if endpoint == "chat" else {"text": text}
    return Reply(200, json.dumps({"choices": [choice]}))


@pytest.mark.parametrize(("endpoint", "field"), [("chat", "messages"), ("completions", "prompt")])
def test_each_item_is_asked_once_at_temperature_0_and_graded(endpoint: str, field: str) -> None:
    wanted = items(3)
    server = Server(*(said(item.answer, endpoint) for item in wanted[:2]), said("nonsense", endpoint))
    rows = quality.ask(live(server), 3, endpoint)
    assert [row["correct"] for row in rows] == [True, True, False]
    assert [row["text"] for row in rows[:2]] == [item.answer for item in wanted[:2]]
    for (path, body), item in zip(server.asked, wanted, strict=True):
        assert path == quality.PATHS[endpoint]
        assert (body["temperature"], body["stream"], body["model"]) == (0, False, "m")
        assert item.question in json.dumps(body[field], ensure_ascii=False)


@pytest.mark.parametrize(
    "reply", [Reply(500, "key sesame"), Reply(200, "[]"), Reply(200, '{"choices": []}'), Reply(0, "gone")]
)
def test_no_answer_is_a_row_with_its_reason_and_three_of_them_end_it(reply: Reply) -> None:
    server = Server(reply)
    rows = quality.ask(live(server), 50, "completions")
    assert len(rows) == len(server.asked) == 3
    assert all(row["correct"] is None and row["text"] is None and row["reason"] for row in rows)
    assert "sesame" not in json.dumps(rows)


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_a_model_that_thinks_until_the_limit_is_asked_every_question(field: str) -> None:
    message = {"role": "assistant", "content": None, field: "Let me add 100 and"}
    rows = quality.ask(live(Server(Reply(200, json.dumps({"choices": [{"message": message}]})))), 8, "chat")
    assert [(row["text"], row["correct"]) for row in rows] == [("", False)] * 8


def test_an_empty_answer_is_an_answer_and_a_job_that_ends_asks_nothing() -> None:
    assert [row["correct"] for row in quality.ask(live(Server(said("", "chat"))), 5, "chat")] == [False] * 5
    assert quality.ask(live(Server(said("", "chat")), stop=True), 5, "chat") == []
