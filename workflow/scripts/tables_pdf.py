"""All tables in one PDF; for machines that have pdflatex.

input:  tables, the LaTeX files in the order of their pages
output: the PDF
"""

from introprior.reporting.job import job
from introprior.reporting.tables.latex import compile_tables

with job(snakemake):
    compile_tables(snakemake.input.tables, snakemake.output[0])
