# Figure 3, and a look at the search behind Table 3.
import re


rule figure3:
    input:
        sources("figure3", "figure3.py"),
        panels=each(PANELS, config["figure3"]["cells"]),
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
        datasets=DATASETS,
        cells=config["figure3"]["cells"],
    message:
        "Figure 3: data, samples, densities and latent spaces"
    script:
        "../scripts/figure3.py"


rule search_figure:
    input:
        sources("search_figure", "search.py"),
        slices=lambda wildcards: [path for dataset in DATASETS for path in slices(wildcards, dataset=dataset)],
        choices=expand(HYPERPARAMETERS, dataset=DATASETS, allow_missing=True),
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
        datasets=DATASETS,
        cell="{cell}",
    message:
        "What the search of {wildcards.cell} saw"
    script:
        "../scripts/search.py"


localrules:
    figure3,
    figures,
    search_figure,


rule figures:
    input:
        figure("figure3"),
        [
            path
            for cell in TABLE3_CELLS
            if re.fullmatch(configuration.searched(config), cell)
            for path in figure(f"search-{cell}")
        ],
    message:
        "All figures are made."
