"""What differs between the launches that are compared, beside what the study varies: read from their launch.json."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from servegauge.contract.spec import canonical_json

LONGEST = 300  # characters of a value; the whole one is in attempts.parquet
_SKIPPED = ("time", "study", "spec", "submission", "version")  # each launch's own by nature, or reported elsewhere
_SAID_OTHERWISE = re.compile(
    # The commit and diff_sha256 say it shorter; the platform's name heads the column, its description is a person's
    # words; how a hash was come by says nothing of the bytes.
    r"workflow: (changed|untracked|untracked_count|described)$|platform file: (name|description)$"
    r"|servers: .*evidence\.raw\.|models: .*\.how$"
)
_MOMENTARY = re.compile(  # another value at every look
    r"load_average|uptime|available|free|since_boot|temperature|clock.*mhz|power|startup_s|ready_s|monotonic|processes|\bpid\b|\bport\b"
)


NOT_KEPT = "(not kept)"  # redact.py's mark for a variable whose value is not kept
PORT = re.compile(r"(--port)[ =]\d+")


@dataclass(frozen=True)
class Fact:
    """One fact: its name as `group: key`, and its values by level, each level's distinct values in one text."""

    name: str
    values: tuple[str, ...]

    @property
    def group(self) -> str:
        return self.name.split(": ")[0]


@dataclass
class Differences:
    """Facts that differ between levels, that vary from launch to launch anyhow, and that are equal everywhere."""

    differ: list[Fact] = field(default_factory=list)
    vary: list[Fact] = field(default_factory=list)
    equal: list[Fact] = field(default_factory=list)


def between(levels: Sequence[Iterable[Mapping[str, Any]]]) -> Differences:
    """Sort the facts of the launches (launch.json records) of each level."""
    flat = [[dict(facts(record)) for record in records] for records in levels]
    names = list(dict.fromkeys(name for level in flat for one in level for name in one))
    found = Differences()
    for name in names:
        values = [[one.get(name, "not recorded") for one in level] for level in flat]
        distinct = [list(dict.fromkeys(level)) for level in values]
        fact = Fact(name, tuple("; ".join(_short(value) for value in level) for level in distinct))
        every = {value for level in distinct for value in level}
        if len(every) == 1:
            found.equal.append(fact)
        elif not _MOMENTARY.search(name) and (all(len(level) <= 1 for level in distinct) or _apart(distinct, values)):
            found.differ.append(fact)
        else:
            found.vary.append(fact)
    return found


def _apart(distinct: Sequence[Sequence[str]], values: Sequence[Sequence[str]]) -> bool:
    """No value is on two levels, and not merely because every launch has a value of its own (a port, a time)."""
    every = [value for level in distinct for value in level]
    launches = sum(len(level) for level in values)
    return len(set(every)) == len(every) and len(every) < launches


def facts(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and value of every fact in a launch.json: provenance, the platform's file, what the server says."""
    for group, values in (record.get("provenance") or {}).items():
        if group not in _SKIPPED:
            for name, value in _flat(f"{group}: ", "", values):
                if value != NOT_KEPT and not _SAID_OTHERWISE.match(name):
                    yield name, value
    spec = record.get("spec") or {}
    for part in ("platform", "options", "environment"):
        prefix = "platform file: " if part == "platform" else f"study: {part}."
        yield from (
            (name, value) for name, value in _flat(prefix, "", spec.get(part)) if not _SAID_OTHERWISE.match(name)
        )
    starts = record.get("server_starts") or []
    recorded = "servers" in (record.get("provenance") or {})
    instances = (starts[0].get("instances") or []) if starts and not recorded else []
    if instances:
        evidence = instances[0].get("evidence") or {}
        reported = {name: evidence.get(name) for name in ("version", "effective", "kv_blocks", "kv_block_tokens")}
        yield from _flat("server says: ", "", reported)


def _flat(prefix: str, key: str, value: Any) -> Iterator[tuple[str, str]]:
    """Leaves of nested facts; `{"value", "source", "reason"}` counts as its value, or as why there is none."""
    if isinstance(value, Mapping) and "value" in value and value.keys() <= {"value", "source", "reason", "evidence"}:
        if value["value"] is None:
            yield prefix + (key or "all"), f"not known: {value.get('reason')}"
        else:
            yield from _flat(prefix, key, value["value"])
    elif isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _flat(prefix, f"{key}.{name}" if key else str(name), item)
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        for number, item in enumerate(value):
            yield from _flat(prefix, f"{key}.{number}" if key else str(number), item)
    elif isinstance(value, list) and key.rpartition(".")[2] == "argv":
        yield prefix + key, PORT.sub(r"\1 PORT", " ".join(map(str, value)))  # a free one, another every time
    elif value not in (None, {}, []):
        yield prefix + (key or "all"), value if isinstance(value, str) else canonical_json(value)


def _short(value: str) -> str:
    return value if len(value) <= LONGEST else value[: LONGEST - 1] + "…"


def record_of(attempt: Mapping[str, Any]) -> dict[str, Any]:
    """The launch.json in a row of ATTEMPTS."""
    return json.loads(attempt["provenance"]) if attempt.get("provenance") else {}
