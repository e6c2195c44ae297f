"""From measured cells to the dataset and a study's report."""


localrules:
    merge_dataset,
    render_report,


rule merge_dataset:
    input:
        plan="results/plan/{study}.json",
        attempts=dataset_needs,
        traces=PIPELINE.trace_files(),
        probes=PIPELINE.probe_files() if PIPELINE.asks_for_probes else [],
    output:
        # The tables hold every study and grow in place; this stamp says that they hold what this study has now.
        "results/dataset/merged/{study}.json",
    log:
        "logs/merge_dataset/{study}.log",
    conda:
        "../../envs/driver.yaml"
    message:
        "merge everything measured into results/dataset/"
    shell:
        "python scripts/merge_dataset.py --results results --stamp {output:q} 2>&1 | tee {log:q}"


rule render_report:
    input:
        "results/dataset/merged/{study}.json",
    output:
        page=report(
            "results/report/{study}.html",
            caption="../report/page.rst",
            category="{study}",
            labels={"what": "the whole report"},
        ),
        # One for each declaration in servegauge/report/figures/.
        figures=[
            report(
                f"results/report/{{study}}/{figure.name}.svg",
                caption="../report/figures.rst",
                category="{study}",
                labels={"what": figure.what},
            )
            for figure in PIPELINE.figures
        ],
        comparison=report(
            "results/report/{study}/comparison.csv",
            caption="../report/comparison.rst",
            category="{study}",
            labels={"what": "every ratio"},
        ),
        phases=report(
            "results/report/{study}/phase-table.csv",
            caption="../report/phases.rst",
            category="{study}",
            labels={"what": "phases on CPU and GPU, as a table"},
        ),
        traces="results/report/{study}/phases.csv",
    log:
        "logs/render_report/{study}.log",
    conda:
        "../../envs/driver.yaml"
    params:
        captions={figure.name: figure.caption for figure in PIPELINE.figures},
    message:
        "write the report of study {wildcards.study}"
    shell:
        "python scripts/render_report.py {wildcards.study:q} --results results --out {output.page:q} 2>&1 | tee {log:q}"
