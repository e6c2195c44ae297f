"""The page docs/frameworks.md: which neutral option each framework has and how, made from the frameworks' own files."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from servegauge.cli.docs import between, table
from servegauge.frameworks import frameworks
from servegauge.frameworks.base import LAYOUT, OPTIONS, Context, Framework
from servegauge.launch.recorders.scrape import COMMON

BEGIN, END = "<!-- made from the files: begin -->", "<!-- made from the files: end -->"
KEY = "$KEY"
PAGE = Path("docs/frameworks.md")


def page(found: str) -> str:
    """The page `found` with its generated part made anew; people's text around it stays."""
    return between(found, BEGIN, END, f"\n\n{generated()}\n")


def pages() -> dict[Path, str]:
    return {PAGE: page(PAGE.read_text(encoding="utf-8"))}


def generated() -> str:
    """The generated part: how far each was tried, options, layout, differences, metrics."""
    known = list(frameworks().values())
    parts = [
        "## How far each was tried\n",
        table(
            [
                "framework", "tried with", "source of its options", "weights", "GPU", "API key by", "metrics at",
                "traced with",
            ],
            [
                [
                    f"`{one.name}` {one.title}", one.exercised, one.source, one.weights,
                    "needed" if one.needs_gpu else "-", one.api_key, cell(one.metrics_path),
                    cell(", ".join(one.profilers)),
                ]
                for one in known
            ],
        ),
        "## Options\n",
        "`a / b`: true / false. A default in brackets is set where the study does not say otherwise; "
        "`context_tokens` is then the model's.\n",
        table(
            ["option", *(f"`{one.name}`" for one in known)],
            [[f"`{name}`: {text}", *(option(one, name) for one in known)] for name, text in OPTIONS.items()]
            + [[f"`{name}`: {text}", *(cell(one.layout.get(name)) for one in known)] for name, text in LAYOUT.items()],
        ),
        "## Where the same name means something else\n",
        table(
            ["framework", "option", "difference"],
            [[f"`{one.name}`", f"`{name}`", text] for one in known for name, text in one.differences.items()],
        ),
        "## Metrics under common names\n",
        table(
            ["common name", *(f"`{one.name}`" for one in known if one.metrics)],
            [
                [f"`{name}`: {text}", *(cell(" + ".join(one.metrics.get(name, ()))) for one in known if one.metrics)]
                for name, (text, _, _) in COMMON.items()
            ],
        ),
    ]  # fmt: skip
    return "\n".join(parts)


def option(framework: Framework, name: str) -> str:
    """One cell of the table of options: how it is given, the default that we set, and the words that exist."""
    how = framework.supported.get(name)
    if how is None:
        return "no"
    text = f"`{how.strip()}`" if how.lstrip("/ ").startswith(("-", "YAML")) or how.isupper() else how
    if words := list(framework.choices.get(name, ())):
        text += ": " + ", ".join(words)
    if name in framework.fair_defaults:
        text += f" [{str(framework.fair_defaults[name]).lower()}]"
    return text


def cell(text: str | None) -> str:
    """`text` as code, or a dash."""
    return f"`{text}`" if text else "-"


def as_text(framework: Framework, ctx: Context) -> str:
    """What starts one instance, for people: variables, command and configuration files, the key's value left out."""
    lines = [f"{name}={shlex.quote(value)}" for name, value in sorted(framework.environment(ctx).items())]
    lines += ["", *_lines(framework.argv(ctx))]
    for name, text in framework.files(ctx).items():
        lines += ["", f"# {name}", text.rstrip()]
    text = "\n".join(lines).strip() + "\n"
    return text.replace(ctx.api_key, KEY) if ctx.api_key else text


def _lines(words: list[str]) -> list[str]:
    """One option with its values a line."""
    lines: list[str] = []
    for word in words:
        quoted = shlex.quote(_portable(word))
        if (word.startswith("-") and not word.lstrip("-").isdigit()) or not lines:
            lines.append(quoted)
        else:
            lines[-1] += f" {quoted}"
    return lines


def _portable(word: str) -> str:
    """A path into this package, or of this interpreter, without what differs between machines."""
    package = str(Path(__file__).parents[2])
    return word.replace(package, "servegauge") if package in word else word.replace(sys.executable, "python3")
