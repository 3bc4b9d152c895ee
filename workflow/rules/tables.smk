# The five tables: tidy numbers, Markdown and LaTeX, each with a companion that sets the published values beside ours.
from introprior.reporting.tables.latex import pdflatex_available


rule table1:
    input:
        sources(
            "reporting.tables.comparison",
            "experiment.cells",
            data=[f"paper/table{n}.csv" for n in (1, 3, 4)],
            script="table.py",
        ),
        results=each(CELL_METRICS, TABLE1_CELLS),
    output:
        reported(table(1), ".csv", "table1", "Table 1"),
    log:
        f"{LOGS}/tables/table1.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        number=1,
        datasets=DENSITY_DATASETS,
        cells=TABLE1_CELLS,
        seeds=config["density"]["seeds"],
        spread=configuration.spread(config),
        scale=scale("seeds", "training", "search", "evaluation"),
    message:
        "Table 1: the six cells"
    script:
        "../scripts/table.py"


rule table2:
    input:
        sources(
            "reporting.tables.comparison",
            "experiment.cells",
            data=[f"paper/table{n}.csv" for n in (2, 5)],
            script="table.py",
        ),
        results=image_results(config["tables"]["table2"]),
        chosen=expand(CHOSEN_TABLE2, dataset=IMAGE_DATASETS),
    output:
        reported(table(2), ".csv", "table2", "Table 2", "Image generation"),
    log:
        f"{LOGS}/tables/table2.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        **image_table(2),
    message:
        "Table 2: images, 100 components"
    script:
        "../scripts/table.py"


rule table3:
    input:
        sources(
            "reporting.tables.comparison",
            "experiment.cells",
            data=[f"paper/table{n}.csv" for n in (1, 3, 4)],
            script="table.py",
        ),
        results=each(HYPERPARAMETERS, TABLE3_CELLS),
    output:
        reported(table(3), ".csv", "table3", "Table 3"),
    log:
        f"{LOGS}/tables/table3.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        number=3,
        datasets=DENSITY_DATASETS,
        cells=TABLE3_CELLS,
        seeds=[],  # nor a spread: one run per setting
        spread="std",
        scale=scale("training", "search"),
    message:
        "Table 3: hyperparameters"
    script:
        "../scripts/table.py"


rule table4:
    input:
        sources(
            "reporting.tables.comparison",
            "experiment.cells",
            data=[f"paper/table{n}.csv" for n in (1, 3, 4)],
            script="table.py",
        ),
        results=each(CELL_METRICS, TABLE4_CELLS),
    output:
        reported(table(4), ".csv", "table4", "Table 4"),
    log:
        f"{LOGS}/tables/table4.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        number=4,
        datasets=DENSITY_DATASETS,
        cells=TABLE4_CELLS,
        seeds=config["density"]["seeds"],
        spread=configuration.spread(config),
        scale=scale("seeds", "training", "search", "evaluation"),
    message:
        "Table 4: the baseline under several settings"
    script:
        "../scripts/table.py"


rule table5:
    input:
        sources(
            "reporting.tables.comparison",
            "experiment.cells",
            data=[f"paper/table{n}.csv" for n in (2, 5)],
            script="table.py",
        ),
        results=image_results(config["tables"]["table5"]),
        chosen=expand(CHOSEN, dataset=IMAGE_DATASETS),
    output:
        reported(table(5), ".csv", "table5", "Table 5", "Image generation"),
    log:
        f"{LOGS}/tables/table5.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        **image_table(5),
    message:
        "Table 5: images, 10 and 100 components"
    script:
        "../scripts/table.py"


rule tables_pdf:
    input:
        sources("reporting.tables.latex", script="tables_pdf.py"),
        tables=[path for number in range(1, 6) for path in table(number) if path.endswith(".tex")],
    output:
        reported([f"{TABLES}/tables.pdf"], ".pdf", "tables", "All tables"),
    log:
        f"{LOGS}/tables/tables_pdf.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=1000,
        runtime=10,
    message:
        "All tables in one PDF"
    script:
        "../scripts/tables_pdf.py"


localrules:
    table1,
    table2,
    table3,
    table4,
    table5,
    tables,
    tables_pdf,


rule tables:
    input:
        [table(number) for number in range(1, 6)],
        # Only where LaTeX is installed: Markdown and CSV can be read without.
        rules.tables_pdf.output if pdflatex_available() else [],
    message:
        "All tables are made."
