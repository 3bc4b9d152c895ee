"""All tables, LaTeX files in the order of their pages, in one PDF; for machines that have pdflatex."""

from introprior.reporting.job import job
from introprior.reporting.tables.latex import compile_tables

with job(snakemake):
    compile_tables(snakemake.input.tables, snakemake.output[0])
