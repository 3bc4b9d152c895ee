# Image datasets and what is known of each before any model: prepared arrays, features and their statistics.


rule prepare:
    input:
        preparing,
    output:
        prepared("train", "test"),
    log:
        f"{PATHS.logs}/data/{{dataset}}.log",
    retries: 2  # servers fail, and files that are whole are not downloaded again
    localrule: True
    conda:
        ENVIRONMENT
    resources:
        **asked("prepare"),
    params:
        folder=lambda wildcards, output: os.path.dirname(output[0]),
        unverified=lambda wildcards: checked(jobs.unverified, CONFIG, wildcards.dataset),
        own=lambda wildcards: checked(jobs.pictures, CONFIG, wildcards.dataset),
    message:
        "{wildcards.dataset}: found or downloaded, checked and converted"
    shell:
        "introprior prepare --dataset {wildcards.dataset:q} --output {params.folder:q} {params.own:q}"
        + given("--source", CONFIG.images.source)
        + ("" if CONFIG.images.verify else " --no-verify")
        + " > {log:q} 2>&1"


rule inception:
    output:
        PATHS.inception,
    log:
        f"{PATHS.logs}/data/inception.log",
    retries: 2
    localrule: True
    conda:
        ENVIRONMENT
    resources:
        **asked("inception"),
    message:
        "Inception's weights, checked"
    shell:
        "introprior weights --output {output:q}"
        + given("--source", CONFIG.images.evaluation.weights)
        + " > {log:q} 2>&1"


rule classifier:
    input:
        sources("metrics.classifier", "data.images.splits"),
        data=prepared("train", "test"),
    output:
        PATHS.classifier,
    log:
        f"{PATHS.logs}/images/{{dataset}}/classifier.log",
    benchmark:
        f"{PATHS.benchmarks}/images/{{dataset}}/classifier.tsv"
    conda:
        ENVIRONMENT
    resources:
        **asked("classifier"),
    params:
        data=data_folder,
        options=options(jobs.classifier),
    message:
        "{wildcards.dataset}: a classifier, whose features stand in for Inception's"
    shell:
        "introprior classifier --data {params.data:q} --options {params.options:q} --output {output:q} > {log:q} 2>&1"


rule reference:
    input:
        sources("evaluation.images"),
        data=prepared("train"),
        extractor=extractor,
    output:
        PATHS.reference,
    log:
        f"{PATHS.logs}/images/{{dataset}}/reference-{{features}}.log",
    benchmark:
        f"{PATHS.benchmarks}/images/{{dataset}}/reference-{{features}}.tsv"
    conda:
        ENVIRONMENT
    resources:
        **asked("reference"),
    params:
        data=data_folder,
        options=options(jobs.reference),
        network=lambda wildcards: "classifier" if extractor(wildcards) == PATHS.classifier else "weights",
    message:
        "{wildcards.dataset}: reference statistics for {wildcards.features}"
    shell:
        "introprior reference --data {params.data:q} --options {params.options:q}"
        " --{params.network} {input.extractor:q} --output {output:q} > {log:q} 2>&1"
