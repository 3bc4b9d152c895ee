"""Figure 3: data, samples, densities and latent spaces.

input:  panels, the panels.npz files: all cells of the first dataset, all of the second, ...
output: the figure in one or more formats, told by the suffixes
params: datasets, cells
"""

from introprior.reporting.figures import figure3, save
from introprior.reporting.job import logged

with logged(snakemake.log):
    save(figure3(snakemake.input.panels, snakemake.params.datasets, snakemake.params.cells), snakemake.output)
