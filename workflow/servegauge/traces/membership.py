"""Which steps held a request's prefill. Engines do not name requests in their labels, so tokens or time must tell.

Engines take prompts in the order in which they came. A label says how many requests of how many tokens are in prefill;
handed out in the order of sending, these tokens end where each prompt ends. Where the labels do not say it, or the sums
do not agree (preempted requests, another order), a request whose sending and first token enclose a single step with
prefill is in that step. Of all others nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from servegauge.traces.requests import Sent

TOKENS, TIME = "tokens", "time"


@dataclass(frozen=True)
class Prefill:
    """A step with prefill: its index, its beginning and the end of its work (ns), and what its label says.

    `lacks`: what the capture does not hold of it, None where it is whole.
    """

    index: int
    start: int
    end: int
    requests: int | None
    tokens: int | None
    lacks: str | None = None


@dataclass(frozen=True)
class Member:
    """The steps of one request's prefill, in order; `how` is TOKENS or TIME."""

    steps: tuple[Prefill, ...]
    how: str


def members(
    steps: Sequence[Prefill], traffic: Sequence[Sent], begin: int, end: int, slack: int = 0
) -> list[Member | str]:
    """For each of `traffic` (by time of sending) its prefill, or why it is unknown.

    `steps` are in order; the capture lasts from `begin` to `end`; `slack` is how far the clocks can be apart, ns.
    """
    by_tokens, why = _by_tokens(steps, traffic, begin, slack)
    found: list[Member | str] = []
    for index, one in enumerate(traffic):
        if index in by_tokens:
            found.append(Member(tuple(steps[number] for number in by_tokens[index]), TOKENS))
            continue
        token = one.first_token
        inside = [step for step in steps if token is not None and one.sent <= step.start and step.end <= token]
        if one.sent < begin or token is None or token > end:
            found.append("the capture does not hold all from its sending to its first token")
        elif len(inside) == 1:
            found.append(Member((inside[0],), TIME))
        elif not inside:
            found.append("no step with prefill lies between its sending and its first token")
        else:
            found.append(f"{len(inside)} steps with prefill lie between its sending and its first token, and {why}")
    return found


def _by_tokens(
    steps: Sequence[Prefill], traffic: Sequence[Sent], begin: int, slack: int
) -> tuple[dict[int, list[int]], str]:
    """Index in `traffic` -> positions in `steps`; and what is wrong with the labels for those that are not there."""
    if any(step.requests is None or step.tokens is None for step in steps):
        return {}, "the labels do not say whose"
    order = [
        index for index, one in enumerate(traffic) if one.first_token is not None and one.first_token + slack >= begin
    ]
    if any(traffic[index].tokens is None for index in order):
        return {}, "the lengths of the prompts are not known"
    old = [index for index in order if traffic[index].sent < begin]
    # Of those sent before the capture began, the last few may still wait for their prefill: whatever explains most.
    walks = [_walk(steps, traffic, order[len(old) - waiting :], slack) for waiting in range(len(old) + 1)]
    most = max(explained for _, explained in walks)
    if not most:
        return {}, "the labels' tokens are not those of the requests in the order of sending"
    best = [found for found, explained in walks if explained == most]
    agreed = {index: held for index, held in best[0].items() if all(other.get(index) == held for other in best[1:])}
    why = "the labels' tokens can be handed out in more than one way"
    if most < len(steps):
        why = f"from step {steps[most].index} on the labels' tokens are not those of the requests in order"
    return agreed, why


def _walk(
    steps: Sequence[Prefill], traffic: Sequence[Sent], order: Sequence[int], slack: int
) -> tuple[dict[int, list[int]], int]:
    """Hand the tokens of each step to the requests of `order`; those that are complete, and how many steps agree."""
    left = {index: traffic[index].tokens or 0 for index in order}
    held: dict[int, list[int]] = {index: [] for index in order}
    complete: dict[int, list[int]] = {}
    for number, step in enumerate(steps):
        waiting = [index for index in left if traffic[index].sent <= step.start + slack][: step.requests or 0]
        if not waiting or len(waiting) < (step.requests or 0):
            return complete, number
        rest = (step.tokens or 0) - sum(left[index] for index in waiting[:-1])
        if not 0 < rest <= left[waiting[-1]]:
            return complete, number
        taken = dict.fromkeys(waiting[:-1], 0) | {waiting[-1]: left[waiting[-1]] - rest}
        done = [index for index, remaining in taken.items() if not remaining]
        if any(step.end > (traffic[index].first_token or 0) + slack for index in done):
            return complete, number  # its first token came before this work was done: it is another's
        for index in waiting:
            held[index].append(number)
            left[index] = taken[index]
        for index in done:
            complete[index] = held[index]
            del left[index]
    return complete, len(steps)
