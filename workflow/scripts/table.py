"""One table and its companion beside the paper's numbers, each as CSV, Markdown and LaTeX.

input:  results, the metrics.csv files of all datasets and cells (Table 3: the hyperparameters.json files)
output: table<number>.csv first; the other five files lie beside it
params: number ("1", "3" or "4"), datasets, cells, seeds, spread ("std" or "sem"), scale (a sentence for the caption)
"""

from pathlib import Path

from introprior.reporting.comparison import write_both
from introprior.reporting.job import logged
from introprior.reporting.tables import Request

with logged(snakemake.log):
    params = snakemake.params
    request = Request(tuple(params.datasets), tuple(params.cells), tuple(params.seeds), params.spread, params.scale)
    write_both(str(params.number), snakemake.input.results, request, Path(snakemake.output[0]).parent)
