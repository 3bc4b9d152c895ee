"""A figure, in one or more formats, told by the suffixes of the output.

input:  files by the name of their reader, see introprior.reporting.figures.READERS
params: figure (its name), and what else its `draw` takes
"""

from introprior.reporting.figures import draw
from introprior.reporting.figures.style import save
from introprior.reporting.job import job

with job(snakemake):
    params = dict(snakemake.params.items())
    inputs = {kind: [paths] if isinstance(paths, str) else paths for kind, paths in snakemake.input.items()}
    save(draw(params.pop("figure"), inputs, **params), snakemake.output)
