# The figures of paper and supplement, a look at the search behind Table 3, and grids of images.
from introprior.experiment.config.shown import FIGURES as FIGURES_SHOWN

DENSITY, IMAGES, METHOD = "Density estimation in 2D", "Image generation", "Method"


SPACES = {"image_panels": panels(), "chosen": expand(PATHS.chosen, dataset=IMAGE_DATASETS)}
GRID = {"datasets": IMAGE_DATASETS, "cells": LATENTS["cells"]}
FIGURE3_CELLS = list(CONFIG.figure3.cells)
FIGURE4 = {"r_entropy": list(CONFIG.figure4.r_entropy)}

# Of each figure its category, its inputs, and what it shows.
FIGURE_RULES = {
    "figure2": (
        IMAGES,
        curves(clipped),
        {"cell": CONFIG.figure2.cell, "metric": f"{PRIMARY}_gen"},
    ),
    "figure3": (
        DENSITY,
        {"density_panels": each(PATHS.cell_panels, FIGURE3_CELLS)},
        {"datasets": DENSITY_DATASETS, "cells": FIGURE3_CELLS},
    ),
    "figure4": (
        IMAGES,
        curves(lambda name: runs(f"{PATHS.run}/{name}", MIXTURES, **FIGURE4)),
        GRID | FIGURE4 | {"cells": MIXTURES, "seeds": list(CONFIG.images.seeds), "metric": f"{PRIMARY}_gen"},
    ),
    "figure5": (IMAGES, SPACES, GRID),
    "figure6": (IMAGES, SPACES, GRID),
    "figureS2": (METHOD, {"study": PATHS.study.format(dataset=CONFIG.figureS2.dataset)}, {}),
    "figureS3": (METHOD, {}, {"clip_steepness": CONFIG.images.training.clip_steepness}),
    "theory": (METHOD, {"games": PATHS.theory, "play": PATHS.play}, {}),
    "samples": (
        IMAGES,
        {"image_panels": lambda wildcards: panels(datasets=[wildcards.dataset]), "chosen": PATHS.chosen},
        {"dataset": "{dataset}", "cells": LATENTS["cells"]},
    ),
    "search": (
        DENSITY,
        {
            "slices": lambda wildcards: [path for d in DENSITY_DATASETS for path in slices(wildcards, dataset=d)],
            "hyperparameters": expand(PATHS.hyperparameters, dataset=DENSITY_DATASETS, allow_missing=True),
        },
        {"datasets": DENSITY_DATASETS, "cell": "{cell}"},
    ),
}

for name, (category, inputs, shows) in FIGURE_RULES.items():
    title, shown = FIGURES_SHOWN[name]
    file = {"samples": "samples-{dataset}", "search": "search-{cell}"}.get(name, name)

    rule:
        name:
            name if name != "search" else "search_figure"
        input:
            sources(
                *("reporting.figures", f"reporting.figures.{name}", "experiment.cells", "experiment.families"),
                data=["paper/table3.csv"] * (name == "search"),
                script="figure.py",
            ),
            **inputs,
        output:
            f"{PATHS.figures}/{file}.pdf",
            reported(f"{PATHS.figures}/{file}.png", "figure5" if name == "figure6" else name, title, category),
        log:
            f"{PATHS.logs}/figures/{file}.log",
        wildcard_constraints:
            **({"cell": SEARCHED} if name == "search" else {}),
        localrule: name != "figure6"
        conda:
            ENVIRONMENT
        resources:
            **asked(name if name == "figure6" else "figure"),
        params:
            **shows,
            figure=name,
        message:
            f"{title}: {shown}".replace("{", "{wildcards.")
        script:
            "../scripts/figure.py"


rule theory_games:
    input:
        sources("evaluation.theory"),
    output:
        games=PATHS.theory,
        play=PATHS.play,
    log:
        f"{PATHS.logs}/theory.log",
    benchmark:
        f"{PATHS.benchmarks}/theory.tsv"
    conda:
        ENVIRONMENT
    resources:
        **asked("theory_games"),
    message:
        "The theory: random games solved, one played"
    shell:
        "exec introprior theory --output {output.games:q} --play {output.play:q} > {log:q} 2>&1"


rule figures:
    input:
        [figure(name) for name in [*DENSITY_FIGURES, *IMAGE_FIGURES]],
    localrule: True
    message:
        "All figures are made."
