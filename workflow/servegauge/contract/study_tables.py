"""Tables of what studies ask for: their text, their cells, and the models and platforms as they were resolved.

With them the report needs nothing but the dataset: no study file, no plan, no folder of a model.
"""

from __future__ import annotations

import pyarrow as pa

from servegauge.contract.columns import KEYS, WORD, WORDS, column, key, table_schema

CELL, LAUNCH = KEYS
STUDY = key("study", "name of the study, a file in config/studies/")

STUDIES = table_schema(
    "studies",
    "One row per study: its question, its text and how it is compared.",
    [
        STUDY,
        column("question", pa.string(), "the question in the study's own words"),
        column("path", pa.string(), "the study file, relative to the repository"),
        column("sha256", pa.string(), "SHA-256 of the study file's bytes"),
        column("text", pa.string(), "the study file, verbatim"),
        column("compare_factor", WORD, "column whose levels are compared, for example platform"),
        column("compare_baseline", WORD, "level that the others are divided by"),
        column("compare_margin", pa.float64(), "difference that does not matter to the study; null: 0.02", "1"),
        column("compare_primary", WORDS, "metrics that the study is about; null: the report's own choice"),
        column("expects", pa.string(), "published figures of the study as JSON; null where it has none"),
        column("slos", pa.string(), "named limits of the study as JSON"),
        column("matrix", pa.string(), "axes of the study as JSON"),
        column("launches", pa.int32(), "launches that the study asks for", "launches"),
        column("cells", pa.int32(), "cells that the study asks for, skipped ones included", "cells"),
    ],
)

LOOKS = table_schema(
    "looks",
    "How wide the primary intervals of a study were between its repeats, where `job.stop` adds them as needed.",
    [
        STUDY,
        column("after", pa.int32(), "repeats that had been measured", "repeats", null=False),
        column("utc", pa.string(), "when, ISO 8601"),
        column("metric", WORD, "a primary metric, over all conditions; null: nothing could be compared"),
        column("level", WORD, "the compared value of the factor"),
        column("ratio", pa.float64(), "ratio to the baseline; null where it had none", "1"),
        column("low", pa.float64(), "lower end of its 95 % interval", "1"),
        column("high", pa.float64(), "upper end of its 95 % interval", "1"),
        column("half_width", pa.float64(), "root of high / low, less 1", "1"),
        column("asked", pa.float64(), "half width at which the study stops, as it says today", "1"),
        column("at_most", pa.int32(), "most repeats of the study", "repeats"),
        column("narrow", pa.bool_(), "every primary interval of this look was narrow enough", null=False),
    ],
)

STUDY_CELLS = table_schema(
    "study_cells",
    "Which study asks for which cell. A cell that two studies share is measured once and has a row for each.",
    [STUDY, CELL, LAUNCH, column("position", pa.int32(), "place of the cell in the study's plan, from 0")],
)

STUDY_MODELS = table_schema(
    "study_models",
    "The models of each study as they were when it was planned, with their own config.json.",
    [
        STUDY,
        key("model", "name of the model, a file in config/models/"),
        column("file", pa.string(), "the model's file and the study's defaults for it, resolved, as JSON"),
        column("config", pa.string(), "the model's config.json; null where it was not on the machine that merged"),
    ],
)

STUDY_PLATFORMS = table_schema(
    "study_platforms",
    "The platforms of each study as they were when it was planned, with the vendor's ceilings of one GPU.",
    [
        STUDY,
        key("platform", "name of the platform, a file in config/platforms/"),
        column("gpus_per_node", pa.int32(), "GPUs of a node; null or 0: the server runs on its CPUs", "GPUs"),
        column("vendor_bf16_tflops", pa.float64(), "the vendor's dense bf16 rate of one GPU", "TFLOP/s"),
        column("vendor_memory_gb_s", pa.float64(), "the vendor's memory bandwidth of one GPU", "GB/s"),
        column("file", pa.string(), "the platform's file, resolved, as JSON"),
    ],
)

QUALITY = table_schema(
    "quality",
    "The graded questions that launches answered after their cells (`job.quality_items`): one row per launch and item.",
    [
        LAUNCH,
        column("item", pa.int32(), "number of the item, from 0; the same number is the same question", null=False),
        column("kind", WORD, "how it is graded: number | copy | json", null=False),
        column("prompt_sha256", WORD, "SHA-256 of the question, in UTF-8"),
        column("text", pa.string(), "the answer; null: there was none"),
        column("correct", pa.bool_(), "it gives the right answer; null: there was none"),
        column("reason", pa.string(), "why there was no answer"),
    ],
)
