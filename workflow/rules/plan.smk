"""From a study file to its launches, cells and frozen workloads."""


localrules:
    write_plan,
    compile_workloads,


rule write_plan:
    input:
        PIPELINE.study_files(),
    output:
        "results/plan/{study}.json",
    log:
        "logs/write_plan/{study}.log",
    conda:
        "../../envs/driver.yaml"
    message:
        "expand study {wildcards.study} into launches and cells"
    shell:
        "python scripts/write_plan.py {wildcards.study:q} --out {output:q} 2>&1 | tee {log:q}"


rule compile_workloads:
    input:
        plan="results/plan/{study}.json",
        tokenizers=workload_needs,
    output:
        "results/workloads/{study}.json",
    log:
        "logs/compile_workloads/{study}.log",
    conda:
        "../../envs/driver.yaml"
    threads: 2
    message:
        "freeze the workloads of study {wildcards.study}"
    shell:
        "python scripts/compile_workloads.py --plan {input.plan:q} --processes {threads} --out {output:q} 2>&1 | tee {log:q}"
