"""Small readers of what servers print, shared by the frameworks' files."""

from __future__ import annotations

import datetime
import re


def first_number(text: str | None) -> int | None:
    """The first whole number in `text`, or None."""
    found = re.search(r"-?\d+", text or "")
    return int(found[0]) if found else None


def key_values(text: str) -> dict[str, str]:
    """`a=1, b='x'` as a dict; of a key that stands there twice, the first."""
    pairs: dict[str, str] = {}
    for name, value in re.findall(r"(\w+)=('[^']*'|[^\s,(){}]+)", text):
        pairs.setdefault(name, value.strip("'"))
    return pairs


def labels_of(metrics: str, name: str) -> dict[str, str]:
    """Labels of the first sample called `name` in a Prometheus text, or nothing."""
    found = re.search(rf"^{re.escape(name)}\{{(.*)\}} ", metrics, re.MULTILINE)
    return dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', found[1])) if found else {}


def seconds(log: str, stamp: str, form: str, first: str, last: str) -> float | None:
    """Seconds from the first line with the text `first` to the first one after it with `last`, by their time stamps.

    `stamp` is a regular expression whose group 1 is the stamp, `form` its strptime format. None where one is missing.
    """
    moments = []
    lines = iter(log.splitlines())
    for text in (first, last):
        found = next((re.search(stamp, line) for line in lines if text in line and re.search(stamp, line)), None)
        if found is None:
            return None
        # A year makes 29 February readable for formats that have none.
        moments.append(datetime.datetime.strptime(f"2024 {found[1]}", f"%Y {form}"))
    return (moments[1] - moments[0]).total_seconds()
