"""Figure S3 (supplement, Figure 3): soft clipping against range and steepness.

output: the figure in one or more formats, told by the suffixes
params: clip_steepness (the K in use)
"""

from introprior.reporting.figures.method import figure_s3
from introprior.reporting.figures.style import save
from introprior.reporting.job import job

with job(snakemake):
    save(figure_s3(snakemake.params.clip_steepness), snakemake.output)
