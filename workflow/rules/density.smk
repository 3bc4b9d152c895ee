# Two dimensions: hyperparameters, searched or published; training of all seeds as one ensemble; evaluation.
# Trainings and evaluations of a cell are one job for all datasets, or one for each (density.members_per_job).
MEMBERS = "all datasets, {wildcards.cell}" if CONFIG.density.together else "{wildcards.dataset} {wildcards.cell}"


rule search:
    input:
        prior("evaluation.search"),
        points,
    output:
        PATHS.slice,
    log:
        f"{PATHS.logs}/density/{{dataset}}/{{cell}}/search-{{slice}}.log",
    benchmark:
        f"{PATHS.benchmarks}/density/{{dataset}}/{{cell}}/search-{{slice}}.tsv"
    wildcard_constraints:
        slice="[0-9]+",
    priority: 2  # trainings wait for them
    conda:
        ENVIRONMENT
    resources:
        **asked("search"),
    params:
        options=options(jobs.search),
        state=PATHS.state,
    message:
        "{wildcards.dataset} {wildcards.cell}: search, slice {wildcards.slice} (progress: {log})"
    shell:
        "exec introprior search --options {params.options:q} --output {output:q} --state {params.state:q} > {log:q} 2>&1"


rule select:
    input:
        sources("evaluation.selection"),
        slices=slices,
    output:
        PATHS.hyperparameters,
    log:
        f"{PATHS.logs}/density/{{dataset}}/{{cell}}/hyperparameters.log",
    wildcard_constraints:
        cell=SEARCHED,
    priority: 2  # trainings wait for them
    localrule: True
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
        PATHS.hyperparameters,
    log:
        f"{PATHS.logs}/density/{{dataset}}/{{cell}}/hyperparameters.log",
    wildcard_constraints:
        cell=f"(?!(?:{SEARCHED})/)[^/]+",
    priority: 2  # trainings wait for them
    localrule: True
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
        points,
        hyperparameters=of_cell(PATHS.hyperparameters),
    output:
        model=of_cell(PATHS.ensemble),
        history=of_cell(PATHS.cell_history),
    log:
        first(PATHS.log_2d),
    benchmark:
        first(f"{PATHS.benchmarks}/density/{{dataset}}/{{cell}}/train.tsv")
    priority: 1  # long jobs begin first, lest one core is left with them at the end
    conda:
        ENVIRONMENT
    resources:
        **asked("train"),
    params:
        options=options(jobs.train),
        state=PATHS.state,
    message:
        f"{MEMBERS}: training (progress: {{log}})"
    shell:
        "exec introprior train --options {params.options:q} --hyperparameters {input.hyperparameters:q}"
        " --output {output.model:q} --history {output.history:q} --state {params.state:q} > {log:q} 2>&1"


rule evaluate:
    input:
        prior("evaluation.density", *measuring("energies", "samples")),
        points,
        model=of_cell(PATHS.ensemble),
    output:
        metrics=of_cell(PATHS.cell_metrics),
        panels=of_cell(PATHS.cell_panels),
    log:
        first(f"{PATHS.logs}/density/{{dataset}}/{{cell}}/evaluate.log"),
    benchmark:
        first(f"{PATHS.benchmarks}/density/{{dataset}}/{{cell}}/evaluate.tsv")
    conda:
        ENVIRONMENT
    resources:
        **asked("evaluate"),
    params:
        options=options(jobs.evaluate),
        metrics=computed("energies", "samples"),
    message:
        f"{MEMBERS}: evaluation"
    shell:
        "introprior evaluate --model {input.model:q} --options {params.options:q}"
        " --metrics {output.metrics:q} --panels {output.panels:q} > {log:q} 2>&1"


rule density:
    input:
        each(PATHS.cell_metrics, CONFIG.density_cells),
        [table(number) for number in DENSITY_TABLES],
        [figure(name) for name in DENSITY_FIGURES],
    localrule: True
    message:
        "All cells in two dimensions are trained, measured and shown."
