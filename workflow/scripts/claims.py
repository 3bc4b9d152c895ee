"""The claims of the paper, tested on its numbers and on ours: claims.csv, tests.csv and claims.md.

input:  results, chosen, histories; see introprior.reporting.claims.tested
params: what gen, rec and entropy are called
"""

from pathlib import Path

from introprior.reporting.claims import tested, write
from introprior.reporting.job import job

with job(snakemake):
    files = (snakemake.input.get(name, ()) for name in ("results", "chosen", "histories"))
    write(Path(snakemake.output[0]).parent, *tested(*files, **dict(snakemake.params.items())))
