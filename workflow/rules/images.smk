# Images: warm-ups, shared by all runs of a prior family; the game, one job a run; distances, evaluation, probes; which
# r_entropy is taken; and the two studies, of clipping (Figure 2) and of the encoder (Figure S2).

# How distances are taken: with which network, against which statistics.
NETWORK = "classifier" if CONFIG.images.evaluation.features == "classifier" else "weights"
EXTRACTOR = PATHS.classifier if NETWORK == "classifier" else PATHS.inception
REFERENCES = expand(PATHS.reference, features=sorted(jobs.features(CONFIG)), allow_missing=True)


rule warmup:
    input:
        prior("training.images"),
        data=prepared("train"),
    output:
        f"{PATHS.warmup}/warmup.pt",
    log:
        f"{PATHS.logs}/images/{{dataset}}/warmups/{{family}}/seed{{seed}}/warmup.log",
    benchmark:
        f"{PATHS.benchmarks}/images/{{dataset}}/warmups/{{family}}/seed{{seed}}/warmup.tsv"
    conda:
        ENVIRONMENT
    resources:
        **asked("warmup"),
    params:
        data=data_folder,
        options=options(jobs.warmup),
        state=PATHS.state,
    message:
        "{wildcards.dataset} {wildcards.family}: warm-up, seed {wildcards.seed} (progress: {log})"
    shell:
        "exec introprior warmup --data {params.data:q} --options {params.options:q}"
        " --output {output:q} --state {params.state:q} > {log:q} 2>&1"


rule game:
    input:
        prior("training.images"),
        data=prepared("train"),
        warmup=warmup_of("warmup.pt"),
    output:
        snapshots=f"{PATHS.run}/snapshots.pt",
        history=f"{PATHS.run}/history.csv",
    log:
        PATHS.log_images,
    benchmark:
        f"{PATHS.benchmarks}/images/{NAMED}/train.tsv"
    conda:
        ENVIRONMENT
    resources:
        **asked("game"),
    params:
        data=data_folder,
        options=options(jobs.game),
        state=PATHS.state,
    message:
        "{wildcards.dataset} {wildcards.cell}: training, r_entropy {wildcards.r_entropy}, seed {wildcards.seed} (progress: {log})"
    shell:
        "exec introprior train --data {params.data:q} --warmup {input.warmup:q} --options {params.options:q}"
        " --output {output.snapshots:q} --history {output.history:q} --state {params.state:q} > {log:q} 2>&1"


rule warmup_distances:
    input:
        prior("evaluation.images"),
        data=prepared("train"),
        model=f"{PATHS.warmup}/warmup.pt",
        references=REFERENCES,
        extractor=EXTRACTOR,
    output:
        f"{PATHS.warmup}/distances.csv",
    log:
        f"{PATHS.logs}/images/{{dataset}}/warmups/{{family}}/seed{{seed}}/distances.log",
    conda:
        ENVIRONMENT
    resources:
        **asked("warmup_distances"),
    params:
        data=data_folder,
        options=options(jobs.distances),
    message:
        "{wildcards.dataset} {wildcards.family}: distances in the warm-up, seed {wildcards.seed}"
    shell:
        "introprior distances --model {input.model:q} --data {params.data:q} --options {params.options:q}"
        f" --reference {{input.references:q}} --{NETWORK} {{input.extractor:q}}"
        " --output {output:q} > {log:q} 2>&1"


rule distances:
    input:
        prior("evaluation.images"),
        data=prepared("train"),
        model=f"{PATHS.run}/snapshots.pt",
        earlier=warmup_of("distances.csv"),
        references=REFERENCES,
        extractor=EXTRACTOR,
    output:
        f"{PATHS.run}/distances.csv",
    log:
        f"{PATHS.logs}/images/{NAMED}/distances.log",
    benchmark:
        f"{PATHS.benchmarks}/images/{NAMED}/distances.tsv"
    conda:
        ENVIRONMENT
    resources:
        **asked("distances"),
    params:
        data=data_folder,
        options=options(jobs.distances),
    message:
        "{wildcards.dataset} {wildcards.cell}: distances, r_entropy {wildcards.r_entropy}, seed {wildcards.seed}"
    shell:
        "introprior distances --model {input.model:q} --data {params.data:q} --options {params.options:q}"
        f" --reference {{input.references:q}} --{NETWORK} {{input.extractor:q}}"
        " --earlier {input.earlier:q} --output {output:q} > {log:q} 2>&1"


rule evaluate_images:
    input:
        prior("evaluation.images"),
        data=prepared("train", "test"),
        model=f"{PATHS.run}/snapshots.pt",
        distances=f"{PATHS.run}/distances.csv",
        references=REFERENCES,
        extractor=EXTRACTOR,
    output:
        metrics=f"{PATHS.run}/metrics.csv",
        codes=f"{PATHS.run}/codes.npz",
        panels=f"{PATHS.run}/panels.npz",
    log:
        f"{PATHS.logs}/images/{NAMED}/evaluate.log",
    benchmark:
        f"{PATHS.benchmarks}/images/{NAMED}/evaluate.tsv"
    conda:
        ENVIRONMENT
    resources:
        **asked("evaluate_images"),
    params:
        data=data_folder,
        options=options(jobs.evaluate_images),
    message:
        "{wildcards.dataset} {wildcards.cell}: evaluation, r_entropy {wildcards.r_entropy}, seed {wildcards.seed}"
    shell:
        "introprior evaluate --model {input.model:q} --data {params.data:q} --distances {input.distances:q}"
        f" --options {{params.options:q}} --reference {{input.references:q}} --{NETWORK} {{input.extractor:q}}"
        " --metrics {output.metrics:q} --codes {output.codes:q} --panels {output.panels:q} > {log:q} 2>&1"


rule probe:
    input:
        sources("metrics.probes", *measuring("probe")),
        codes=f"{PATHS.run}/codes.npz",
    output:
        f"{PATHS.run}/probes.csv",
    log:
        f"{PATHS.logs}/images/{NAMED}/probes.log",
    benchmark:
        f"{PATHS.benchmarks}/images/{NAMED}/probes.tsv"
    conda:
        ENVIRONMENT
    resources:
        **asked("probe"),
    params:
        options=options(jobs.probe),
        metrics=computed("probe"),
    message:
        "{wildcards.dataset} {wildcards.cell}: classifiers of codes, r_entropy {wildcards.r_entropy}, seed {wildcards.seed}"
    shell:
        "introprior probe --codes {input.codes:q} --options {params.options:q} --output {output:q} > {log:q} 2>&1"


rule choose_r_entropy:
    input:
        sources("evaluation.selection"),
        metrics=lambda wildcards: runs(f"{PATHS.run}/metrics.csv", IMAGE_CELLS, datasets=[wildcards.dataset]),
    output:
        PATHS.chosen,
    log:
        f"{PATHS.logs}/images/{{dataset}}/r_entropy.log",
    localrule: True
    conda:
        ENVIRONMENT
    resources:
        **asked("choose_r_entropy"),
    params:
        metric=f"{PRIMARY}_gen",
    message:
        "{wildcards.dataset}: the best r_entropy of each cell"
    shell:
        "introprior choose --metrics {input.metrics:q} --dataset {wildcards.dataset:q} --metric {params.metric:q}"
        " --output {output:q} > {log:q} 2>&1"


# So that Table 2 can be made without the cells of Table 5.
use rule choose_r_entropy as choose_r_entropy_table2 with:
    input:
        sources("evaluation.selection"),
        metrics=lambda wildcards: runs(f"{PATHS.run}/metrics.csv", CONFIG.tables.table2, datasets=[wildcards.dataset]),
    output:
        PATHS.chosen_table2,
    log:
        f"{PATHS.logs}/images/{{dataset}}/r_entropy-table2.log",
    localrule: True
    message:
        "{wildcards.dataset}: the best r_entropy of each cell of Table 2"


use rule game as clipping_study with:
    output:
        snapshots=f"{PATHS.clipping}/snapshots.pt",
        history=f"{PATHS.clipping}/history.csv",
    log:
        PATHS.log_clipping,
    benchmark:
        f"{PATHS.benchmarks}/clipping/{NAMED}/train.tsv"
    resources:
        **asked("clipping_study"),
    params:
        data=data_folder,
        options=options(jobs.clipping),
        # Of its own: where both train for as long, this run and one of the tables' are one and the same.
        state=f"{PATHS.state}/clipping",
    message:
        "Figure 2, {wildcards.cell}: training (progress: {log})"


use rule distances as clipping_distances with:
    input:
        prior("evaluation.images"),
        data=prepared("train"),
        model=f"{PATHS.clipping}/snapshots.pt",
        earlier=warmup_of("distances.csv"),
        references=REFERENCES,
        extractor=EXTRACTOR,
    output:
        f"{PATHS.clipping}/distances.csv",
    log:
        f"{PATHS.logs}/clipping/{NAMED}/distances.log",
    benchmark:
        f"{PATHS.benchmarks}/clipping/{NAMED}/distances.tsv"
    resources:
        **asked("clipping_distances"),
    message:
        "Figure 2, {wildcards.cell}: distances"


rule encoder_study:
    input:
        sources("evaluation.encoder_study", "evaluation.images"),
        data=prepared("train"),
        model=studied("snapshots.pt"),
        distances=studied("distances.csv"),
    output:
        PATHS.study,
    log:
        f"{PATHS.logs}/encoder/{{dataset}}.log",
    benchmark:
        f"{PATHS.benchmarks}/encoder/{{dataset}}.tsv"
    conda:
        ENVIRONMENT
    resources:
        **asked("encoder_study"),
    params:
        data=data_folder,
        options=options(jobs.overfit),
    message:
        "{wildcards.dataset}: an encoder overfitted to a handful of images"
    shell:
        "introprior overfit --model {input.model:q} --distances {input.distances:q} --data {params.data:q}"
        " --options {params.options:q} --output {output:q} > {log:q} 2>&1"


rule images:
    input:
        runs(f"{PATHS.run}/metrics.csv", IMAGE_CELLS),
        runs(f"{PATHS.run}/probes.csv", IMAGE_CELLS),
        [table(number) for number in IMAGE_TABLES],
        [figure(name) for name in IMAGE_FIGURES],
    localrule: True
    message:
        "All runs on images are trained, measured and shown."
