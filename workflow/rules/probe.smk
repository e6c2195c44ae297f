"""What each platform of the study can do by itself, beside what the server makes of it."""


localrules:
    probe,
    probes,


rule probe:
    input:
        probe_needs,
    output:
        "results/probes/{platform}-{probes}.json",
    log:
        "logs/probe/{platform}-{probes}.log",
    conda:
        "../../envs/driver.yaml"
    resources:
        machine=1,
    params:
        names=PIPELINE.probe_names,
        size=PIPELINE.probe_size,
        processes=PIPELINE.probe_processes,
        models=PIPELINE.probe_models,
        tp=PIPELINE.probe_tp,
        submit=PIPELINE.submit,
        poll_s=PIPELINE.poll_s,
    message:
        "probe the platform {wildcards.platform}: {params.names}"
    shell:
        "exec python scripts/probe.py --platform {wildcards.platform:q} --probes {params.names:q} {params.size}"
        " --processes {params.processes} --models {params.models:q} --tp {params.tp:q} --submit {params.submit:q} --poll-s {params.poll_s}"
        " --log {log:q} --stamp {output:q}"


rule probes:
    input:
        PIPELINE.probe_files(),
