"""Numbers and texts as a person reads them: on the page, in the terminal and in a spreadsheet alike."""

from __future__ import annotations

import csv
import html
import io
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

# Controls but for the tab and the end of a line, what changes the direction or the place of what follows, what is not
# seen (tags, fillers), and halves of characters, which no file takes
_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164"
    r"\ud800-\udfff\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e007f]"
)
OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Of these, what a terminal acts upon."""
# What terminals obey and do not show, raw or written as an escape
_SEQUENCE = re.compile(
    r"(?:\x1b|\\(?:x1b|u001b|033|e))\[[0-?]*[ -/]*[@-~]|\x9b[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b\n]*(?:\x07|\x1b\\)"
    r"|\x1b[PX^_][^\x1b\n]*\x1b\\|\x1b[ -/]*[0-OQ-WYZ\\`-~]",
    re.I,
)
_ESCAPED = re.compile(
    r"\\+u(00(?:0[0-8bcef]|2[67]|3[acde]|1[0-9a-f]|[89a-f][0-9a-f])|0[1-9a-f][0-9a-f]{2}|[1-9a-f][0-9a-f]{3})",
    re.I | re.ASCII,
)  # of JSON
_FORMULA = re.compile(r"[=+\-@\t\r\n]")
_PLAIN_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?%?")


def visible(text: str) -> str:
    """`text` with control characters as escapes: `\\x1b[2J` is read, where the character would clear the screen."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def bare(text: str) -> str:
    """`text` as it is read: without terminals' sequences and unseen letters, each letter in its plain form."""
    text = html.unescape(text) if "&" in text and ";" in text else text
    text = _ESCAPED.sub(lambda match: chr(int(match[1], 16)), text)
    text = _CONTROL.sub(lambda match: match[0] if match[0] == "\r" else "", _SEQUENCE.sub("", text))
    return text if text.isascii() else unicodedata.normalize("NFKC", text)


def csv_cell(value: object) -> object:
    """A value for a CSV file: a text that a spreadsheet would take for a formula begins with an apostrophe."""
    if isinstance(value, str) and len(value) > 1 and _FORMULA.match(value) and not _PLAIN_NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def csv_text(columns: Iterable[str], rows: Iterable[Mapping[str, object]]) -> str:
    """A CSV file: a line with `columns`, then a line a row; what a row lacks, and None, is an empty field."""
    out, names = io.StringIO(), list(columns)
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([csv_cell(row.get(name)) for name in names] for row in rows)
    return out.getvalue()


def aligned(rows: Sequence[Sequence[str]], words: int = 1) -> list[str]:
    """The rows of a table as lines, columns side by side: the first `words` to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = [str.ljust if index < words else str.rjust for index in range(len(widths))]
    lines = [[side(text, width) for side, text, width in zip(sides, row, widths, strict=True)] for row in rows]
    return ["  ".join(line).rstrip() for line in lines]


def quantity(value: float | None, unit: str) -> str:
    """A value with its unit, three digits: `13.4 ms`, `12.1 s`, `128 tokens/s`; a dash where undefined."""
    return quantities((value,), unit, "")


def quantities(values: Sequence[float | None], unit: str, between: str) -> str:
    """Several values with one unit, as `13.3 → 17.0 ms`; the unit is chosen by the largest."""
    largest = max((abs(value) for value in values if value is not None), default=None)
    if largest is None:
        return "–"
    scale = 1.0
    if unit == "s" and largest < 1:
        scale, unit = (1e3, "ms") if largest >= 1e-4 or not largest else (1e6, "µs")
    texts = ["–" if value is None else _three(value * scale) for value in values]
    return f"{between.join(texts)} {'/s' if unit == '1/s' else unit}"


def _three(value: float) -> str:
    """Three significant digits without an exponent."""
    if not value:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(decimals, 6)}f}".replace(",", " ")


def ratio_text(value: float | None) -> str:
    """A ratio: three decimals near 1, where they matter, else three digits, two decimals at most."""
    if value is None:
        return "–"
    if 0.95 < value < 1.05:
        return f"{value:.3f}"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def range_text(low: float | None, high: float | None) -> str:
    """The ends of a ratio's interval with as many digits as keep them apart, at most four: `1.0994, 1.1006`."""
    if low is None or high is None:
        return "–"
    texts = [ratio_text(low), ratio_text(high)]
    for digits in (3, 4):
        if texts[0] == texts[1] and high < 10:
            texts = [f"{end:.{digits}f}" for end in (low, high)]
    return ", ".join(texts)


def share_text(value: float | None) -> str:
    """A share in per cent."""
    return "–" if value is None else f"{100 * value:.3g} %"


def p_text(value: float | None) -> str:
    """A p value: `0.031`, `< 0.001`; a dash where undefined."""
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.2g}" if value < 0.1 else f"{value:.2f}"
