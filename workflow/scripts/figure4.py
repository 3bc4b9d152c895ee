"""Figure 4: entropy of the responsibilities and distance to the data over training, for each r_entropy.

input:  histories, distances, the history.csv and distances.csv files of all runs, in any order
output: the figure in one or more formats, told by the suffixes
params: datasets (rows), cells (those with a mixture), r_entropy, seeds, metric
"""

from introprior.reporting.figures.curves import figure4
from introprior.reporting.figures.style import save
from introprior.reporting.job import job

with job(snakemake):
    runs, params = snakemake.input, snakemake.params
    shown = (params.datasets, params.cells, params.r_entropy, params.seeds, params.metric)
    save(figure4(runs.histories, runs.distances, *shown), snakemake.output)
