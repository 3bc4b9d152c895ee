"""What the hyperparameter search saw: one panel per dataset. Not in the paper.

input:  slices, the slice-<k>.csv files of one cell, all datasets; choices, its hyperparameters.json files
output: the figure in one or more formats, told by the suffixes
params: datasets, cell
"""

from introprior.reporting.figures import save, search_figure
from introprior.reporting.job import logged

with logged(snakemake.log):
    params = snakemake.params
    save(search_figure(snakemake.input.slices, snakemake.input.choices, params.datasets, params.cell), snakemake.output)
