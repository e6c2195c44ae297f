"""What each platform of the study can do by itself, beside what the server makes of it."""


localrules:
    probe,
    probes,


rule probe:
    input:
        probe_needs,
        probe_after,
    output:
        "results/probes/{platform}-{probes}.json",
    log:
        "logs/probe/{platform}-{probes}.log",
    priority: probe_priority
    conda:
        "../../envs/driver.yaml"
    resources:
        machine=1,
    params:
        names=PIPELINE.probes.names,
        size="--quick" if PIPELINE.probes.size == "quick" else "",
        processes=PIPELINE.probes.processes,
        models=",".join(PIPELINE.probes.models),
        tp=",".join(map(str, PIPELINE.probes.tp)),
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
