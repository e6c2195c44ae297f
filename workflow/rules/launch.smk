"""One job per launch: one server lifetime, its cells in order. `submit.py` decides where the job runs."""

# Where they submit by themselves, they run on the login node; `inline` measures where the rule runs.
if PIPELINE.submit != "inline":

    localrules:
        measure_launch,
        measure_cell,


rule measure_launch:
    input:
        launch_needs,
        launch_earlier,
        # The plan and the workloads must be there; that they are newer says nothing about this launch.
        plan=ancient(f"results/plan/{PIPELINE.name}.json"),
        workloads=ancient(f"results/workloads/{PIPELINE.name}.json"),
    output:
        "results/launches/{launch}/attempt-{attempt}.json",
    log:
        "logs/measure_launch/{launch}-attempt-{attempt}.log",
    priority: launch_priority
    conda:
        "../../envs/driver.yaml"
    resources:
        # Two launches never share the machine; the local profile has one, a Slurm profile sets no limit.
        machine=1,
    params:
        message=launch_message,
        submit=PIPELINE.submit,
        poll_s=PIPELINE.poll_s,
        cells=PIPELINE.glob,
        look=launch_look,
        probes=launch_probes,
    message:
        "{params.message}"
    shell:
        "exec python scripts/measure_launch.py --plan {input.plan:q} --launch {wildcards.launch:q}"
        " --attempt {wildcards.attempt} --submit {params.submit:q} --poll-s {params.poll_s}"
        " --cells {params.cells:q} {params.look} {params.probes} --log {log:q} --out {output:q}"


localrules:
    traces,


rule traces:
    """Only the traces of the study: `trace:` says of which cells."""
    input:
        PIPELINE.trace_files(),


rule measure_cell:
    input:
        cell_needs,
        plan=ancient(f"results/plan/{PIPELINE.name}.json"),
        workloads=ancient(f"results/workloads/{PIPELINE.name}.json"),
    output:
        "results/cells/{cell}/cell.json",
    log:
        "logs/measure_cell/{cell}.log",
    conda:
        "../../envs/driver.yaml"
    resources:
        machine=1,
    params:
        submit=PIPELINE.submit,
        poll_s=PIPELINE.poll_s,
    message:
        "measure the cell {wildcards.cell} in a launch of its own"
    shell:
        "exec python scripts/measure_cell.py --plan {input.plan:q} --cell {wildcards.cell:q}"
        " --submit {params.submit:q} --poll-s {params.poll_s} --log {log:q} --out {output:q}"
