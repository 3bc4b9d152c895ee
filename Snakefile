# Lets `snakemake` work from here; everything is in workflow/. (An included file cannot name the default target.)
include: "workflow/Snakefile"


workflow.default_target = "all"
