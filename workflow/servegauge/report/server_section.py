"""How the servers started, and what was in effect in them beside what was asked."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from servegauge.base.text import quantity
from servegauge.dataset.study_view import Study
from servegauge.frameworks.reported_config import LEFT_TO_THE_SERVER, same


@dataclass(frozen=True)
class Start:
    """The starts of a framework on a platform with compile caches in one state (None: not recorded)."""

    framework: str
    platform: str
    cache: str | None
    starts: int
    ready_s: float  # the median of them
    parts: str  # medians, largest first


@dataclass(frozen=True)
class Setting:
    """An option, or a choice of the server's own, with its values over the launches of a framework."""

    framework: str
    name: str
    asked: str
    effective: str
    differs: bool
    platforms: str


@dataclass(frozen=True)
class ServerSection:
    starts: list[Start]
    settings: list[Setting]

    def __bool__(self) -> bool:
        return bool(self.starts or self.settings)


def server_section(study: Study) -> ServerSection:
    """From the attempts of the study's launches whose servers got ready."""
    attempts = [row for row in study.attempts if row["startup_s"] is not None]
    return ServerSection(list(_starts(attempts)), list(_settings(attempts)))


def _starts(attempts: Iterable[Mapping[str, Any]]) -> Iterable[Start]:
    groups: dict[tuple[str, str, str | None], list[Mapping[str, Any]]] = defaultdict(list)
    for row in attempts:
        groups[row["framework"], row["platform"], row["compile_cache"]].append(row)
    for (framework, platform, cache), rows in sorted(groups.items(), key=str):
        seconds: dict[str, list[float]] = defaultdict(list)
        for row in rows:
            for part, took in json.loads(row["startup_parts"] or "{}").items():
                seconds[part].append(took)
        medians = sorted(((statistics.median(took), part) for part, took in seconds.items()), reverse=True)
        parts = ", ".join(f"{part} {quantity(took, 's')}" for took, part in medians)
        ready = statistics.median(row["startup_s"] for row in rows)
        yield Start(framework, platform, cache, len(rows), ready, parts)


def _settings(attempts: Iterable[Mapping[str, Any]]) -> Iterable[Setting]:
    found: dict[tuple[str, str, str, str, bool], set[str]] = defaultdict(set)
    everywhere: dict[str, set[str]] = defaultdict(set)
    for row in attempts:
        everywhere[row["framework"]].add(row["platform"])
        for name, one in json.loads(row["settings"] or "{}").items():
            asked, effective = one["asked"], one["effective"]
            left = asked in LEFT_TO_THE_SERVER
            differs = not left and effective is not None and not same(asked, effective)
            words = "left to it" if left else _word(asked), "not told" if effective is None else _word(effective)
            found[row["framework"], name, *words, differs].add(row["platform"])
    for (framework, name, asked, effective, differs), platforms in sorted(found.items()):
        where = "all" if platforms == everywhere[framework] else ", ".join(sorted(platforms))
        yield Setting(framework, name, asked, effective, differs, where)


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
