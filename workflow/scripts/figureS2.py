"""Figure S2 (supplement, Figure 2): the encoder overfitted in three configurations.

input:  study, the archive of the encoder study
output: the figure in one or more formats, told by the suffixes
"""

from introprior.reporting.figures.method import figure_s2
from introprior.reporting.figures.style import save
from introprior.reporting.job import job

with job(snakemake):
    save(figure_s2(snakemake.input.study), snakemake.output)
