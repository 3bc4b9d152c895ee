"""Figure 2: the prior's log-variances with and without clipping, and what becomes of the distance to the data.

input:  histories, distances, the history.csv and distances.csv files of both runs
output: the figure in one or more formats, told by the suffixes
params: cell (the clipped one), metric
"""

from introprior.reporting.figures.curves import figure2
from introprior.reporting.figures.style import save
from introprior.reporting.job import job

with job(snakemake):
    runs, params = snakemake.input, snakemake.params
    save(figure2(runs.histories, runs.distances, params.metric, params.cell), snakemake.output)
