"""Tables of what the comparison found."""

from __future__ import annotations

import pyarrow as pa

from servegauge.contract.columns import WORD, WORDS, column, table_schema
from servegauge.contract.study_tables import STUDY

COMPARISON = table_schema(
    "comparison",
    "Every ratio to the baseline, in each condition and over all of them, with what its verdict rests on.",
    [
        STUDY,
        column("factor", WORD, "the compared axis", null=False),
        column("level", WORD, "the compared value of that axis", null=False),
        column("baseline", WORD, "the value that it is divided by", null=False),
        column("condition", pa.string(), "the other axes that the study varies, as JSON; null: over all conditions"),
        column("conditions", pa.int32(), "conditions that the row stands for", "conditions"),
        column("metric", WORD, "what is compared: a statistic of a cell", null=False),
        column("unit", WORD, "unit of value and base_value"),
        column("more_is_better", pa.bool_(), "a ratio above 1 is a gain"),
        column("value", pa.float64(), "geometric mean over the level's launches, in unit"),
        column("base_value", pa.float64(), "geometric mean over the baseline's launches, in unit"),
        column("ratio", pa.float64(), "value / base_value; null where a side has no finite value above 0", "1"),
        column("low", pa.float64(), "lower end of the ratio's 95 % interval, not corrected for a family", "1"),
        column("high", pa.float64(), "upper end of the ratio's 95 % interval, not corrected for a family", "1"),
        column("p", pa.float64(), "p value of 'no difference': t test on logarithms of launches' statistics"),
        column("p_equal", pa.float64(), "p value of 'a difference of the margin or more' (two one-sided t tests)"),
        column("p_exact", pa.float64(), "p value of 'no difference' by exact sign flips, from 6 pairs"),
        column("p_adjusted", pa.float64(), "p adjusted for the family"),
        column("p_equal_adjusted", pa.float64(), "p_equal adjusted for the family"),
        column("family", WORD, "primary (over conditions) | table (by condition) | exploratory (everything else)"),
        column("family_size", pa.int32(), "comparisons of the family that are judged", "comparisons"),
        column("method", WORD, "Holm | Benjamini-Hochberg"),
        column("alpha", pa.float64(), "adjusted p value below which a verdict is given"),
        column("margin", pa.float64(), "difference that does not matter: equality is within it", "1"),
        column(
            "verdict",
            WORD,
            "slower | faster | ... but within the margin | equal | undecided | not judged | "
            "not comparable | below the instrument",
            null=False,
        ),
        column("reason", pa.string(), "why not judged, not comparable or below the instrument"),
        column("pairs", pa.int32(), "launches of the smaller side", "launches"),
        column("paired", pa.bool_(), "launches of the same repeat were compared with each other"),
        column("launches", pa.int32(), "launches of the level", "launches"),
        column("base_launches", pa.int32(), "launches of the baseline", "launches"),
        column("unpaired", pa.int32(), "measured cells without a partner in their repeat, left out", "cells"),
        column("deviation", pa.float64(), "deviation between launches of a side, of the logarithm", "1"),
        column(
            "repeats_needed", pa.int32(), "about how many repeats in all would decide; null unless undecided", "repeats"
        ),
        column("requests", pa.int32(), "requests ok in the smallest cell", "requests"),
        column("success", pa.float64(), "requests ok / requests of the level's windows", "1"),
        column("base_success", pa.float64(), "requests ok / requests of the baseline's windows", "1"),
        column("supported", pa.bool_(), "the smallest cell carries a 95 % interval of this quantile"),
        column("flags", WORDS, "flags of the cells of both sides"),
        column("flagged", pa.int32(), "cells of the level with a flag", "cells"),
        column("base_flagged", pa.int32(), "cells of the baseline with a flag", "cells"),
        column("instrument_s", pa.float64(), "largest error of the instrument among the cells", "s"),
        column("warnings", WORDS, "what to doubt, in words"),
        column("sentence", pa.string(), "the verdict as a sentence to quote"),
    ],
)

EXPECTATIONS = table_schema(
    "expectations",
    "Every published figure of a study beside the measured one, with its verdict. docs/studies.md says how.",
    [
        STUDY,
        column("position", pa.int32(), "place in the study's `expects`, from 0; a pair of values has three rows"),
        column("about", pa.string(), "what the figure is, in the study's words"),
        column("metric", WORD, "what was published: a statistic of a cell, a probe's, or a model's", null=False),
        column("kind", WORD, "value | ratio", null=False),
        column("unit", WORD, "unit of published and measured; 1 for a ratio"),
        column("where", pa.string(), "the cells, in words; of a ratio both sides"),
        column("published_low", pa.float64(), "the published figure, or the lower end of its range, in unit"),
        column("published_high", pa.float64(), "the same, or the upper end of its range, in unit"),
        column("published_deviation", pa.float64(), "published standard deviation, in unit; null: not published"),
        column("published_n", pa.int32(), "values that the published mean is of; null: not published", "values"),
        column("gpu", WORD, "GPU that it was published for; null: not published, or it needs none"),
        column("cite", pa.string(), "where it was published"),
        column("stated", pa.bool_(), "published without a protocol of how it was measured"),
        column("wrong", pa.string(), "why the published figure contradicts what is known for certain"),
        column("tolerance", pa.float64(), "difference up to which it counts as reproduced", "1"),
        column("measured", pa.float64(), "geometric mean over launches, a probe's median, or computed; in unit"),
        column("launches", pa.int32(), "launches, or samples of a probe, that the measured figure is of"),
        column("difference", pa.float64(), "measured / published - 1", "1"),
        column("low", pa.float64(), "lower end of the difference's 95 % interval", "1"),
        column("high", pa.float64(), "upper end of the difference's 95 % interval", "1"),
        column(
            "verdict",
            WORD,
            "reproduced | differs | undecided | not judged | not comparable | not measured",
            null=False,
        ),
        column("reason", pa.string(), "why not reproduced or not judged"),
        column("pair_p", pa.float64(), "of a ratio: Welch's p value of 'the two published means are equal'"),
        column(
            "pair_needed",
            pa.int32(),
            "of a ratio: fewest values a side at which the published pair could be told apart; null: not up to 1000",
            "values",
        ),
        column("pair", pa.string(), "whether the published pair can be told apart, in words"),
    ],
)

VARIANCE = table_schema(
    "variance",
    "Where each metric scatters, by study: parts of the variance of its logarithm. docs/statistics.md has the model.",
    [
        STUDY,
        column("metric", WORD, "a statistic of a cell", null=False),
        column("part", WORD, "request | cell | launch | order | node | day", null=False),
        column("variance", pa.float64(), "variance of the logarithm; null where it cannot be told", "1"),
        column("deviation", pa.float64(), "root of variance", "1"),
        column("share", pa.float64(), "variance / sum over the parts", "1"),
        column("groups", pa.int32(), "how many of this part there are"),
        column("reason", pa.string(), "why it cannot be told"),
        column("limits", pa.string(), "the part that scatters most, and what to do"),
    ],
)
