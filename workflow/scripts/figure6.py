"""Figure 6: t-SNE of the latent space.

input:  panels, the panels.npz files of all cells and r_entropy, of one seed; chosen, the r_entropy.json files
output: the figure in one or more formats, told by the suffixes
params: datasets (blocks), cells (panels)
"""

from introprior.reporting.image_figures import figure6
from introprior.reporting.job import job
from introprior.reporting.style import save

with job(snakemake):
    runs, params = snakemake.input, snakemake.params
    save(figure6(runs.panels, runs.chosen, params.datasets, params.cells), snakemake.output)
