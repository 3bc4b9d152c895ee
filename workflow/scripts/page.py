"""The results page, index.html, with pictures of every run and CSV files beside it.

input:  what it shows; it is found by the configuration, whose identity is a parameter
"""

from pathlib import Path

from introprior.experiment.config import Configuration
from introprior.reporting.job import job
from introprior.reporting.page.build import write

with job(snakemake):
    write(Configuration.read(snakemake.config, "configuration"), Path(snakemake.output[0]).parent, snakemake.threads)
