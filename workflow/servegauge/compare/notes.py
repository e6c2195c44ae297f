"""What limits a comparison, in sentences."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from servegauge.compare.conditions import Condition, lifetime
from servegauge.compare.effect import FEWEST_FOR_VERDICT
from servegauge.compare.results import EXPLORATORY, Comparison
from servegauge.compare.verdicts import DIFFERENT
from servegauge.contract.metric import PRIMARY, TABLE, required_sample
from servegauge.contract.spec import canonical_json
from servegauge.dataset.study_view import doubts


def notes(result: Comparison, groups: Mapping[str, Mapping[str, list[Any]]], found: Sequence[Condition]) -> list[str]:
    """What limits the comparison, in sentences."""
    texts = list(result.notes)
    if result.again:
        wrong = [one for one in (*result.again.overall, *result.again.ratios) if one.family != EXPLORATORY]
        if wrong := [one for one in wrong if one.verdict in DIFFERENT]:
            names = ", ".join(dict.fromkeys(one.metric.title for one in wrong))
            texts.insert(0, f"A/A: the baseline differs from itself ({names}). What else is found here may be no more.")
        else:
            judged = sum(result.again.families[family] for family in (PRIMARY, TABLE))
            seen = f"no difference was found in {judged} comparisons" if judged else "nothing of that could be judged"
            texts.append(f"A/A: the baseline was measured against itself, and {seen}.")
    if result.ratios:
        fewest = min(ratio.pairs for ratio in result.ratios)
        if fewest < FEWEST_FOR_VERDICT:
            texts.append(
                f"A demonstration: some conditions have {fewest} repeat{'s' * (fewest != 1)} of a side, and no verdict "
                f"is given below {FEWEST_FOR_VERDICT}. `servegauge plan {result.study.name}` says how many it takes."
            )
        if unsupported := sum(not ratio.supported for ratio in result.ratios):
            need = required_sample(0.99)
            texts.append(
                f"{unsupported} of {len(result.ratios)} ratios are of a quantile for which their smallest cell has too "
                f"few answered requests (a p99 takes {need}); they are marked."
            )
        if flagged := len(
            {row["cell"] for levels in groups.values() for rows in levels.values() for row in rows if doubts(row)}
        ):
            texts.append(f"{flagged} of the compared cells {'is' if flagged == 1 else 'are'} flagged, and marked.")
    if refused := sum(one.unlike is not None for one in found):
        texts.append(
            f"{refused} of {len(found)} conditions did not carry the same load on both sides; their latencies are not "
            "compared."
        )
    if unpaired := sum(one.unpaired for one in found):
        texts.append(
            f"{unpaired} measured cell{'s have' if unpaired > 1 else ' has'} no partner of the same repeat on the "
            f"other side and stay{'s' * (unpaired == 1)} out of the ratios."
        )
    servers: dict[str, set[Any]] = defaultdict(set)
    for one in found:
        for row in one.rows:
            servers[row["launch"]].add(lifetime(row))
    if split := sum(len(of_launch) > 1 for of_launch in servers.values()):
        texts.append(
            f"{split} launch{'es were' if split > 1 else ' was'} measured by several servers, started anew after a "
            "job or a server ended. A cell stands for the server that measured it; over conditions such a launch is "
            "one repeat, as the others are. The order of measuring says how far apart they were."
        )
    texts += _versions(result, found)
    base = canonical_json(result.baseline)
    compared = {(one.key, canonical_json(one.level)) for one in found}
    wanted = [(key, canonical_json(level)) for key in groups for level in result.levels[1:]]
    if lost := [pair for pair in wanted if pair not in compared]:
        without = sum(base not in groups[key] for key, _ in lost)
        which = f", in {without} of them the baseline" if without else ""
        count = f"{len(lost)} comparisons are" if len(lost) > 1 else "1 comparison is"
        texts.append(f"{count} missing because a side was not measured{which}.")
    return texts


def _versions(result: Comparison, found: Sequence[Condition]) -> list[str]:
    """What builds of one framework say that they are, where such are compared; that they are the same is a doubt."""
    if result.factor != "framework" or not any("@" in str(level) for level in result.levels):
        return []
    versions_of: dict[str, set[str]] = defaultdict(set)
    for one in found:
        for row in one.rows:
            versions_of[row["framework"]].add(result.study.version_of(row) or "no version")
    if not versions_of:
        return []
    texts = [f"{name} says {' and '.join(sorted(versions))}" for name, versions in versions_of.items()]
    names: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, versions in versions_of.items():
        names[(name.partition("@")[0], *sorted(versions))].append(name)
    texts = [f"Versions, as the servers say: {', '.join(texts)}."]
    for (_, *told_by), same in names.items():
        if len(same) > 1 and told_by != ["no version"]:
            texts.append(f"{' and '.join(same)} say the same version: what differs is the build, or chance.")
    return texts
