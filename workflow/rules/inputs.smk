"""What a study needs before it can be measured: engines' environments and models. Made here, never in a job."""


localrules:
    build_environment,
    build_tiny_model,
    fetch_model,


rule build_environment:
    output:
        ".cache/envs/{environment}/ready.json",
    log:
        "logs/build_environment/{environment}.log",
    conda:
        "../../envs/driver.yaml"
    message:
        "install the environment {wildcards.environment}"
    shell:
        "python scripts/build_environment.py --folder {wildcards.environment:q} 2>&1 | tee {log:q}"


rule build_tiny_model:
    output:
        ".cache/models/random-llama-{size}.json",
    log:
        "logs/build_tiny_model/{size}.log",
    conda:
        "../../envs/driver.yaml"
    message:
        "make the random-weight model {wildcards.size}"
    shell:
        "python scripts/build_tiny_model.py --size {wildcards.size:q} 2>&1 | tee {log:q}"


rule fetch_model:
    output:
        ".cache/models/{repository}@{revision}/fetched.json",
    log:
        "logs/fetch_model/{repository}@{revision}.log",
    conda:
        "../../envs/driver.yaml"
    message:
        "fetch {wildcards.repository} at {wildcards.revision} from the hub"
    shell:
        "python scripts/fetch_model.py --folder {wildcards.repository:q}@{wildcards.revision:q} 2>&1 | tee {log:q}"
