"""Generated and reconstructed images of one dataset.

input:  panels, the panels.npz files of all cells and r_entropy, of one seed; chosen, the r_entropy.json file
output: the figure in one or more formats, told by the suffixes
params: dataset, cells (lines)
"""

from pathlib import Path

from introprior.reporting.figures.images import samples_figure
from introprior.reporting.figures.style import save
from introprior.reporting.job import job

with job(snakemake):
    runs, params = snakemake.input, snakemake.params
    chosen = [runs.chosen] if isinstance(runs.chosen, str | Path) else runs.chosen
    save(samples_figure(runs.panels, chosen, params.dataset, params.cells), snakemake.output)
