# Lets `snakemake` work from here; everything is in workflow/.
include: "workflow/Snakefile"
