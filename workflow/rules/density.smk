# Two dimensions: hyperparameters (searched or published), training of all seeds as one ensemble, evaluation.


wildcard_constraints:
    dataset=r"[^/]+",
    cell=r"[^/]+",
    slice=r"\d+",


rule search:
    """Train and rank one slice of a cell's grid of hyperparameters."""
    message:
        "{wildcards.dataset} {wildcards.cell}: search, slice {wildcards.slice} (progress: {log})"
    input:
        sources("search"),
    output:
        SLICE,
    params:
        options=lambda wildcards: checked(
            configuration.search_options, config, wildcards.dataset, wildcards.cell, int(wildcards.slice)
        ),
    log:
        f"{LOGS}/density/{{dataset}}/{{cell}}/search-{{slice}}.log",
    benchmark:
        f"{BENCHMARKS}/density/{{dataset}}/{{cell}}/search-{{slice}}.tsv"
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=16000,
        runtime=1440,
    retries: 0  # an interrupted search goes on from its state instead
    conda:
        ENVIRONMENT
    shell:
        "introprior search --options {params.options:q} --output {output:q} --state {STATE:q} > {log:q} 2>&1"


rule select:
    """Choose the setting with the lowest histogram KL."""
    message:
        "{wildcards.dataset} {wildcards.cell}: hyperparameters from the search"
    input:
        sources("select"),
        slices=lambda wildcards: checked(search_slices, wildcards.dataset, wildcards.cell),
    output:
        HYPERPARAMETERS,
    log:
        f"{LOGS}/density/{{dataset}}/{{cell}}/hyperparameters.log",
    resources:
        mem_mb=1000,
        runtime=10,
    conda:
        ENVIRONMENT
    shell:
        "introprior select --slices {input.slices:q} --output {output:q} > {log:q} 2>&1"
