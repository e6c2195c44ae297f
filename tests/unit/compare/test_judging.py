"""Verdicts of a family, and how many repeats would decide what it leaves open."""

from __future__ import annotations

import numpy as np
import pytest

from servegauge.compare.compare import compare
from servegauge.compare.judging import judged_together
from servegauge.compare.power import repeats_to_decide
from servegauge.compare.results import EXPLORATORY, LEVELS
from servegauge.compare.verdicts import NOT_JUDGED, UNDECIDED
from servegauge.contract.metric import PRIMARY, TABLE
from tests.simulated_studies import Setting, simulated


@pytest.mark.parametrize(("family", "share"), [(PRIMARY, True), (TABLE, True), (EXPLORATORY, False)])
def test_what_is_undecided_needs_repeats_for_its_share_of_the_familys_error(family, share):
    """Holm gives the smallest p value its share of the level; Benjamini and Hochberg's largest has the whole."""
    found = compare(simulated(np.random.default_rng(1), Setting(repeats=3, deviation=0.03)))
    assert found
    members = found.ratios[:4]
    judged, size = judged_together(members, family, found.margin)
    assert size == 4
    undecided = [one for one in judged if one.verdict == UNDECIDED]
    assert undecided
    for one in undecided:
        alpha = LEVELS[family] / (size if share else 1)
        assert one.repeats_needed == repeats_to_decide(one.deviation, one.ratio, found.margin, alpha=alpha)


def test_what_may_not_be_judged_is_no_member():
    found = compare(simulated(np.random.default_rng(1), Setting(repeats=2)))
    assert found
    assert {one.verdict for one in found.ratios} == {NOT_JUDGED}
    judged, size = judged_together(found.ratios, TABLE, found.margin)
    assert size == 0
    assert {(one.verdict, one.p_adjusted, one.repeats_needed) for one in judged} == {(NOT_JUDGED, None, None)}
