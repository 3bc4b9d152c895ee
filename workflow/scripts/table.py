"""One table and its companion beside the paper's numbers, each as CSV, Markdown and LaTeX, beside the first output.

input:  results; Tables 2 and 5: chosen; see introprior.reporting.tables.comparison.write
params: number, and what the table is asked to show, see introprior.reporting.tables.sheets.Request
"""

from pathlib import Path

from introprior.reporting.job import job
from introprior.reporting.tables.comparison import write
from introprior.reporting.tables.sheets import Request

with job(snakemake):
    params, files = dict(snakemake.params.items()), snakemake.input
    number, folder = str(params.pop("number")), Path(snakemake.output[0]).parent
    write(number, Request(**params), folder, files.results, files.get("chosen", ()))
