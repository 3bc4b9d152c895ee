"""Figure 6: t-SNE of the latent space.

input:  panels, the panels.npz files of all cells and r_entropy, of one seed; chosen, the r_entropy.json files
output: the figure in one or more formats, told by the suffixes
params: datasets (blocks), cells (panels)
"""

from introprior.reporting.figures.images import figure6
from introprior.reporting.figures.style import save
from introprior.reporting.job import job

with job(snakemake):
    runs, params = snakemake.input, snakemake.params
    save(figure6(runs.panels, runs.chosen, params.datasets, params.cells), snakemake.output)
