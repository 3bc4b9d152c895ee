"""Figure 3: data, samples, densities and latent spaces.

input:  panels, the panels.npz files of all datasets and cells, in any order
output: the figure in one or more formats, told by the suffixes
params: datasets (rows), cells (groups of columns)
"""

from introprior.reporting.figures.figure3 import figure3
from introprior.reporting.figures.style import save
from introprior.reporting.job import job

with job(snakemake):
    save(figure3(snakemake.input.panels, snakemake.params.datasets, snakemake.params.cells), snakemake.output)
