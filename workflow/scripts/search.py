"""What the hyperparameter search saw, one panel per dataset; not in the paper.

input:  slices, the slice-<k>.csv files of one cell (.../<dataset>/<cell>/search/slice-<k>.csv), all datasets;
        choices, its hyperparameters.json files
output: the figure in one or more formats, told by the suffixes
params: datasets, cell
"""

from pathlib import Path

from introprior.reporting.figures.figure3 import search_figure
from introprior.reporting.figures.style import save
from introprior.reporting.job import job

with job(snakemake):
    params, paths = snakemake.params, [Path(path) for path in snakemake.input.slices]
    slices = {dataset: [path for path in paths if path.parts[-4] == dataset] for dataset in params.datasets}
    save(search_figure(slices, snakemake.input.choices, params.cell), snakemake.output)
