# What serving a large language model costs on a platform.
#
#   results/plan/<study>.json                    the study, expanded into launches and cells
#   results/workloads/<workload>/                frozen prompts and arrival times, the same on every platform
#   results/launches/<launch>/attempt-<k>.json   the outcome of one job: one server lifetime
#   results/cells/<cell>/                        one measured cell, whole or absent
#   results/probes/<platform>/                   what the platform itself can do
#   results/dataset/*.parquet                    everything, tidy
#   results/report/<study>.html                  the answer
from snakemake.utils import min_version

min_version("9.19")


configfile: "config/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/inputs.smk"
include: "workflow/rules/plan.smk"
include: "workflow/rules/launch.smk"
include: "workflow/rules/probe.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        # Named here too: a report that is up to date would hide that an attempt is missing.
        PIPELINE.attempt_files(),
        PIPELINE.trace_files(),
        PIPELINE.probe_files() if PIPELINE.asks_for_probes else [],
        f"results/report/{PIPELINE.name}.html",


onstart:
    cancel_on_signals(PIPELINE.name)
    print(PIPELINE.total(), file=sys.stderr)


onsuccess:
    sys.exit(finished())


onerror:
    cut_off()
