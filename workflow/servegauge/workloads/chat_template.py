"""A model's chat template, rendered as servers render it: what the model sees for a list of messages.

Templates are written for transformers, which gives them more than jinja has: loop controls, `generation` blocks around
what is trained on, `strftime_now`, `raise_exception`, and a `tojson` that escapes nothing. They run in jinja's sandbox.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2.ext
import jinja2.sandbox
from jinja2 import nodes

from servegauge.base.errors import UserError

# The date of every rendered prompt: workloads are frozen, so their text must not depend on the day. It is the date that
# Llama's templates put where they are given none; servers put today's, which is as long.
FROZEN = datetime.datetime(2024, 7, 26)


class _Generation(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}`: its body, in a scope of its own."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(["name:endgeneration"], drop_needle=True)).set_lineno(line)


class ChatTemplate:
    """A template and the folder that it is of. UserError where it is none."""

    def __init__(self, source: str, folder: Path) -> None:
        self.folder = folder
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
        )
        environment.globals |= {"raise_exception": _refuse, "strftime_now": FROZEN.strftime}
        environment.filters["tojson"] = _to_json
        try:
            self._template = environment.from_string(source)
            self.takes_parts = _takes_parts(environment.parse(source))
        except jinja2.TemplateError as error:
            raise UserError(f"the chat template of {folder} failed: {error}") from error

    def render(self, messages: Sequence[Mapping[str, Any]], special_tokens: Mapping[str, str]) -> str:
        """The text for `messages`, with the answer's opening. UserError where the template fails or cannot take them.

        Content that is a list of parts goes to a template that reads parts as it is; others get its texts, a line each,
        as servers do it.
        """
        given = [self._message(message) for message in messages]
        try:
            return self._template.render(
                messages=given, add_generation_prompt=True, tools=None, documents=None, **special_tokens
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise UserError(f"the chat template of {self.folder} failed: {error}") from error

    def _message(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        content = message.get("content")
        if not isinstance(content, list):
            return message
        texts = [text_of_part(part) for part in content]
        return message if self.takes_parts else {**message, "content": "\n".join(texts)}


def text_of_part(part: Any) -> str:
    """The text of one part of a message. UserError for a part of another type: nobody can count its tokens here."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict) or not isinstance(part.get("text"), str):
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        raise UserError(f"a message has a part of type {kind!r}; only parts with a text can be counted: take it out")
    return part["text"]


def _takes_parts(tree: nodes.Template) -> bool:
    """True where the template goes through a message's content part by part."""
    names = {"content"}
    for assigned in tree.find_all(nodes.Assign):
        if isinstance(assigned.target, nodes.Name) and _is_content(assigned.node, names):
            names.add(assigned.target.name)
    return any(_is_content(loop.iter, names) for loop in tree.find_all(nodes.For))


def _is_content(node: nodes.Node, names: set[str]) -> bool:
    """True for `message.content`, `message['content']`, a name that holds it, or a filter on one of these."""
    if isinstance(node, nodes.Filter):
        return node.node is not None and _is_content(node.node, names)
    if isinstance(node, nodes.Name):
        return node.name in names
    if isinstance(node, nodes.Getattr):
        return node.attr == "content"
    return isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and node.arg.value == "content"


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)
