"""One table and its companion beside the paper's numbers, each as CSV, Markdown and LaTeX.

input:  results, the metrics.csv files of all datasets and cells (Tables 2 and 5: the probes.csv files too; Table 3: the
        hyperparameters.json files); Tables 2 and 5: chosen, the r_entropy.json files
output: table<number>.csv first; the other five files lie beside it
params: number (1 to 5), datasets, cells, seeds, spread ("std" or "sem"), scale (a sentence for the caption);
        Tables 2 and 5: primary (the distance, e.g. "fid_authors"), entropy (e.g. "entropy_per_batch"), svm_iterations
        and neighbours (two numbers each)
"""

from pathlib import Path

from introprior.reporting.job import job
from introprior.reporting.tables.common import Request
from introprior.reporting.tables.comparison import write_both
from introprior.reporting.tables.images import NUMBERS, ImageRequest

with job(snakemake):
    params, number, chosen = snakemake.params, str(snakemake.params.number), []
    shown = (tuple(params.datasets), tuple(params.cells), tuple(params.seeds), params.spread, params.scale)
    request = Request(*shown)
    if number in NUMBERS:
        probes = (tuple(params.svm_iterations), tuple(params.neighbours))
        request = ImageRequest(*shown, params.primary, params.entropy, *probes)
        chosen = snakemake.input.chosen
    write_both(number, snakemake.input.results, request, Path(snakemake.output[0]).parent, chosen)
