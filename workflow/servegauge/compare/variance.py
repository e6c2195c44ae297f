"""Where numbers scatter: requests inside a cell, cells of a launch, launches, their order, nodes, days.

Assumption: on top of what the study varies on purpose (a mean of its own for each condition and level), independent
random parts add up in the logarithm. Their variances are the ones that make sums of squares come out as expected
(ANOVA; in unbalanced data MINQUE with equal weights, which is the same where data are balanced). A negative solution is
written as 0. A part that the data cannot tell from another is None with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

WORDS = {
    "request": "requests inside a cell: longer windows help",
    "cell": "cells of a launch: more cells a launch help",
    "launch": "launches: more repeats help",
    "order": "places in a block: balance the order",
    "node": "nodes: repeat on more nodes",
    "day": "days: repeat on more days",
}
"""Every part, and what to do where it is the one that limits."""

ORDER = tuple(WORDS)


@dataclass(frozen=True)
class Component:
    """One part of the scatter. `deviation` is the root of `variance`, of the logarithm; `share` is of the sum."""

    part: str
    variance: float | None
    share: float | None
    groups: int
    reason: str | None = None

    @property
    def deviation(self) -> float | None:
        return None if self.variance is None else math.sqrt(self.variance)


def components(
    logs: Sequence[float],
    fixed: Sequence[Hashable],
    groups: Mapping[str, Sequence[Hashable]],
    sampling: Sequence[float | None] | None = None,
) -> list[Component]:
    """The parts of the scatter of `logs`, shape (cells,), largest unit last.

    `fixed`: what each cell measures (condition and level): each has its own mean. `groups`: part -> the group of each
    cell, for example launch ids. `sampling`: variance of each cell's logarithm that its requests explain; what is left
    of the cells' own scatter is the part "cell". None: request and cell are not distinguished.
    """
    values = np.asarray(logs, dtype=float)
    count = len(values)
    centre = _indicators(fixed)
    freedom = count - centre.shape[1]
    parts = [part for part in ORDER if part in groups]
    if freedom < 1:
        reason = "nothing was repeated"
        return [Component(part, None, None, 0, reason) for part in ("request", "cell", *parts)]
    projected = _project(sparse.identity(count, format="csr"), centre)
    designs: dict[str, sparse.csr_matrix] = {}
    reasons: dict[str, str] = {}
    sizes: dict[str, int] = {}
    kept: list[sparse.csr_matrix] = [projected]
    for part in parts:
        indicators = _indicators(groups[part])
        sizes[part] = indicators.shape[1]
        design = _project(indicators, centre)
        if sizes[part] < 2 or abs(design).sum() < 1e-9:
            reasons[part] = f"one {part}" if sizes[part] < 2 else f"each level of the study has its own {part}"
            continue
        trial = [*kept, design]
        if np.linalg.cond(_gram(trial)) > 1e8:
            other = next((name for name, one in designs.items() if _same(one, design)), "another part")
            reasons[part] = f"{part} and {other} cannot be distinguished"
            continue
        kept, designs[part] = trial, design
    residual = values - _fitted(values, centre)
    squares = np.array([float(np.sum((design.T @ residual) ** 2)) for design in kept])
    solved = np.linalg.solve(_gram(kept), squares)
    found = {"cells": max(0.0, float(solved[0]))}
    found |= {part: max(0.0, float(value)) for part, value in zip(designs, solved[1:], strict=True)}
    request = None
    if sampling is not None and all(one is not None for one in sampling) and count:
        request = min(float(np.mean([one for one in sampling if one is not None])), found["cells"])
    total = math.fsum(found.values())

    def component(part: str, variance: float | None, size: int, reason: str | None = None) -> Component:
        share = variance / total if variance is not None and total > 0 else None
        return Component(part, variance, share, size, reason)

    untold = None if request is not None else "the statistic has no interval inside its cells"
    rest = found["cells"] - (request or 0.0)
    together = None if request is not None else "with the requests inside it"
    result = [component("request", request, count, untold), component("cell", rest, count, together)]
    return result + [component(part, found.get(part), sizes.get(part, 0), reasons.get(part)) for part in parts]


def limiting(found: Sequence[Component]) -> str | None:
    """Which part limits, and what to do about it, in words; None where nothing scatters."""
    known = [one for one in found if one.share]
    if not known:
        return None
    largest = max(known, key=lambda one: one.share or 0.0)
    return f"{largest.share:.0%} of the variance is between {WORDS[largest.part]}"


def _indicators(names: Sequence[Hashable]) -> sparse.csr_matrix:
    """One column per group, ones where a cell belongs to it."""
    place = {name: index for index, name in enumerate(dict.fromkeys(names))}
    columns = [place[name] for name in names]
    data = np.ones(len(columns))
    return sparse.csr_matrix((data, (np.arange(len(columns)), columns)), shape=(len(columns), len(place)))


def _project(design: sparse.csr_matrix, centre: sparse.csr_matrix) -> sparse.csr_matrix:
    """`design` less its means inside the groups of `centre`."""
    sizes = sparse.diags(1.0 / np.asarray(centre.sum(axis=0)).ravel())
    return (design - centre @ (sizes @ (centre.T @ design))).tocsr()


def _fitted(values: np.ndarray, centre: sparse.csr_matrix) -> np.ndarray:
    return centre @ ((centre.T @ values) / np.asarray(centre.sum(axis=0)).ravel())


def _gram(designs: Sequence[sparse.csr_matrix]) -> np.ndarray:
    """tr(M Zi Zi' M Zj Zj') for all pairs: what the sums of squares of each part expect of each variance."""
    size = len(designs)
    gram = np.empty((size, size))
    for row in range(size):
        for column in range(row, size):
            product = designs[row].T @ designs[column]
            gram[row, column] = gram[column, row] = float(product.multiply(product).sum())
    return gram


def _same(one: sparse.csr_matrix, other: sparse.csr_matrix) -> bool:
    """Whether two parts group the cells alike."""
    return np.linalg.cond(_gram([one, other])) > 1e8
