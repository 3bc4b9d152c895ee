# Two dimensions: hyperparameters, searched or published; training of all seeds as one ensemble; evaluation.


rule search:
    input:
        prior("evaluation.search"),
    output:
        SLICE,
    log:
        f"{LOGS}/density/{{dataset}}/{{cell}}/search-{{slice}}.log",
    benchmark:
        f"{BENCHMARKS}/density/{{dataset}}/{{cell}}/search-{{slice}}.tsv"
    wildcard_constraints:
        slice="[0-9]+",
    conda:
        ENVIRONMENT
    resources:
        **asked("search"),
    params:
        options=options(jobs.search),
        state=STATE,
    message:
        "{wildcards.dataset} {wildcards.cell}: search, slice {wildcards.slice} (progress: {log})"
    shell:
        "exec introprior search --options {params.options:q} --output {output:q} --state {params.state:q} > {log:q} 2>&1"


rule select:
    input:
        sources("evaluation.selection"),
        slices=slices,
    output:
        HYPERPARAMETERS,
    log:
        f"{LOGS}/density/{{dataset}}/{{cell}}/hyperparameters.log",
    wildcard_constraints:
        cell=SEARCHED,
    conda:
        ENVIRONMENT
    resources:
        **asked("select"),
    message:
        "{wildcards.dataset} {wildcards.cell}: hyperparameters of the best setting"
    shell:
        "introprior select --dataset {wildcards.dataset:q} --cell {wildcards.cell:q}"
        " --slices {input.slices:q} --output {output:q} > {log:q} 2>&1"


rule published:
    output:
        HYPERPARAMETERS,
    log:
        f"{LOGS}/density/{{dataset}}/{{cell}}/hyperparameters.log",
    wildcard_constraints:
        cell=f"(?!(?:{SEARCHED})/)[^/]+",
    conda:
        ENVIRONMENT
    resources:
        **asked("select"),
    params:
        hyperparameters=options(jobs.hyperparameters),
    message:
        "{wildcards.dataset} {wildcards.cell}: published hyperparameters"
    shell:
        "introprior select --dataset {wildcards.dataset:q} --cell {wildcards.cell:q}"
        " --published {params.hyperparameters:q} --output {output:q} > {log:q} 2>&1"


rule train:
    input:
        prior("training.density"),
        hyperparameters=HYPERPARAMETERS,
    output:
        model=ENSEMBLE,
        history=CELL_HISTORY,
    log:
        f"{LOGS}/density/{{dataset}}/{{cell}}/train.log",
    benchmark:
        f"{BENCHMARKS}/density/{{dataset}}/{{cell}}/train.tsv"
    conda:
        ENVIRONMENT
    resources:
        **asked("train"),
    params:
        options=options(jobs.train),
        state=STATE,
    message:
        "{wildcards.dataset} {wildcards.cell}: training (progress: {log})"
    shell:
        "exec introprior train --options {params.options:q} --hyperparameters {input.hyperparameters:q}"
        " --output {output.model:q} --history {output.history:q} --state {params.state:q} > {log:q} 2>&1"


rule evaluate:
    input:
        prior("evaluation.density"),
        model=ENSEMBLE,
    output:
        metrics=CELL_METRICS,
        panels=CELL_PANELS,
    log:
        f"{LOGS}/density/{{dataset}}/{{cell}}/evaluate.log",
    benchmark:
        f"{BENCHMARKS}/density/{{dataset}}/{{cell}}/evaluate.tsv"
    conda:
        ENVIRONMENT
    resources:
        **asked("evaluate"),
    params:
        options=options(jobs.evaluate),
    message:
        "{wildcards.dataset} {wildcards.cell}: evaluation"
    shell:
        "introprior evaluate --model {input.model:q} --options {params.options:q}"
        " --metrics {output.metrics:q} --panels {output.panels:q} > {log:q} 2>&1"


localrules:
    density,
    published,
    select,


rule density:
    input:
        each(CELL_METRICS, CONFIG.density_cells),
        [table(number) for number in DENSITY_TABLES],
        [figure(name) for name in DENSITY_FIGURES],
    message:
        "All cells in two dimensions are trained, measured and shown."
