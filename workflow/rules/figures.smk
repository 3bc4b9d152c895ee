# The figures of paper and supplement, a look at the search behind Table 3, and grids of images.
rule figure2:
    input:
        sources("reporting.figures.curves", "experiment.cells", script="figure2.py"),
        histories=clipped("history.csv"),
        distances=clipped("distances.csv"),
    output:
        reported(figure("figure2"), ".png", "figure2", "Figure 2", "Image generation"),
    log:
        f"{LOGS}/figures/figure2.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        cell=FIGURE2["cell"],
        metric=f"{PRIMARY}_gen",
    message:
        "Figure 2: log-variances of the prior with and without clipping"
    script:
        "../scripts/figure2.py"


rule figure3:
    input:
        sources("reporting.figures.figure3", "experiment.cells", script="figure3.py"),
        panels=each(CELL_PANELS, config["figure3"]["cells"]),
    output:
        reported(figure("figure3"), ".png", "figure3", "Figure 3"),
    log:
        f"{LOGS}/figures/figure3.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        datasets=DENSITY_DATASETS,
        cells=config["figure3"]["cells"],
    message:
        "Figure 3: data, samples, densities and latent spaces"
    script:
        "../scripts/figure3.py"


rule figure4:
    input:
        sources("reporting.figures.curves", "experiment.cells", script="figure4.py"),
        histories=runs(f"{RUN}/history.csv", MIXTURES, r_entropy=config["figure4"]["r_entropy"]),
        distances=runs(f"{RUN}/distances.csv", MIXTURES, r_entropy=config["figure4"]["r_entropy"]),
    output:
        reported(figure("figure4"), ".png", "figure4", "Figure 4", "Image generation"),
    log:
        f"{LOGS}/figures/figure4.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        datasets=IMAGE_DATASETS,
        cells=MIXTURES,
        r_entropy=config["figure4"]["r_entropy"],
        seeds=config["images"]["seeds"],
        metric=f"{PRIMARY}_gen",
    message:
        "Figure 4: responsibilities and distances over training"
    script:
        "../scripts/figure4.py"


rule figure5:
    input:
        sources("reporting.figures.images", "experiment.cells", script="figure5.py"),
        panels=runs(f"{RUN}/panels.npz", LATENTS["cells"], seeds=[LATENTS["seed"]]),
        chosen=expand(CHOSEN, dataset=IMAGE_DATASETS),
    output:
        reported(figure("figure5"), ".png", "figure5", "Figure 5", "Image generation"),
    log:
        f"{LOGS}/figures/figure5.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        datasets=IMAGE_DATASETS,
        cells=LATENTS["cells"],
    message:
        "Figure 5: the first two latent dimensions"
    script:
        "../scripts/figure5.py"


rule figure6:
    input:
        sources("reporting.figures.images", "experiment.cells", script="figure6.py"),
        panels=runs(f"{RUN}/panels.npz", LATENTS["cells"], seeds=[LATENTS["seed"]]),
        chosen=expand(CHOSEN, dataset=IMAGE_DATASETS),
    output:
        reported(figure("figure6"), ".png", "figure6", "Figure 6", "Image generation"),
    log:
        f"{LOGS}/figures/figure6.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        datasets=IMAGE_DATASETS,
        cells=LATENTS["cells"],
    message:
        "Figure 6: latent spaces by t-SNE"
    script:
        "../scripts/figure6.py"


rule samples:
    input:
        sources("reporting.figures.images", "experiment.cells", script="samples.py"),
        panels=lambda wildcards: runs(
            f"{RUN}/panels.npz", LATENTS["cells"], seeds=[LATENTS["seed"]], datasets=[wildcards.dataset]
        ),
        chosen=CHOSEN,
    output:
        reported(figure("samples-{dataset}"), ".png", "samples", "Images, {dataset}", "Image generation"),
    log:
        f"{LOGS}/figures/samples-{{dataset}}.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        dataset="{dataset}",
        cells=LATENTS["cells"],
    message:
        "{wildcards.dataset}: generated and reconstructed images"
    script:
        "../scripts/samples.py"


rule figureS2:
    input:
        sources("reporting.figures.method", "experiment.cells", script="figureS2.py"),
        study=STUDY.format(dataset=FIGURE_S2["dataset"]),
    output:
        reported(figure("figureS2"), ".png", "figureS2", "Figure S2", "Method"),
    log:
        f"{LOGS}/figures/figureS2.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=2000,
        runtime=10,
    message:
        "Figure S2: the encoder overfitted in three configurations"
    script:
        "../scripts/figureS2.py"


rule figureS3:
    input:
        sources("reporting.figures.method", "experiment.cells", script="figureS3.py"),
    output:
        reported(figure("figureS3"), ".png", "figureS3", "Figure S3", "Method"),
    log:
        f"{LOGS}/figures/figureS3.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        clip_steepness=config["images"]["training"]["clip_steepness"],
    message:
        "Figure S3: soft clipping"
    script:
        "../scripts/figureS3.py"


rule search_figure:
    input:
        sources("reporting.figures.figure3", "experiment.cells", data=["paper/table3.csv"], script="search.py"),
        slices=lambda wildcards: [path for dataset in DENSITY_DATASETS for path in slices(wildcards, dataset=dataset)],
        choices=expand(HYPERPARAMETERS, dataset=DENSITY_DATASETS, allow_missing=True),
    output:
        reported(figure("search-{cell}"), ".png", "search", "Search of {cell}"),
    log:
        f"{LOGS}/figures/search-{{cell}}.log",
    wildcard_constraints:
        cell=configuration.searched(config),
    conda:
        ENVIRONMENT
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        datasets=DENSITY_DATASETS,
        cell="{cell}",
    message:
        "What the search of {wildcards.cell} saw"
    script:
        "../scripts/search.py"


localrules:
    figure2,
    figure3,
    figure4,
    figure5,
    figureS2,
    figureS3,
    figures,
    samples,
    search_figure,


rule figures:
    input:
        [figure(name) for name in [*DENSITY_FIGURES, *IMAGE_FIGURES]],
    message:
        "All figures are made."
