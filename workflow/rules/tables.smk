# The five tables: tidy numbers, Markdown and LaTeX, each with a companion that sets the published values beside ours.
from introprior.reporting.tables.latex import pdflatex_available

TABLE_RULES = {
    1: (f"{len(CONFIG.tables.table1)} cells", list(CONFIG.tables.table1)),
    2: (f"images, {len(CONFIG.tables.table2)} cells", list(CONFIG.tables.table2)),
    3: ("hyperparameters", [TABLE3_CELL]),
    4: ("the baseline under several settings", list(TABLE4_SETTINGS.values())),
    5: (f"images, {len(CONFIG.tables.table5)} cells", list(CONFIG.tables.table5)),
}

for number, (shown, cells) in TABLE_RULES.items():
    alike, category = (
        (IMAGE_TABLES, "Image generation") if number in IMAGE_TABLES else (DENSITY_TABLES, "Density estimation in 2D")
    )
    (csv, *alone), (csv_beside, *beside) = table(number)[:3], table(number)[3:]
    caption = {4: "table1", 5: "table2"}.get(number, f"table{number}")

    rule:
        name:
            f"table{number}"
        input:
            sources(
                *("reporting.tables.comparison", "experiment.cells", "experiment.families"),
                data=[f"paper/table{n}.csv" for n in alike],
                script="table.py",
            ),
            **measured(number, cells),
        output:
            reported(csv, caption, f"Table {number}", category),
            *alone,
            reported(csv_beside, caption, f"Table {number}, beside the paper", category),
            *beside,
        log:
            f"{PATHS.logs}/tables/table{number}.log",
        localrule: True
        conda:
            ENVIRONMENT
        resources:
            **asked("table"),
        params:
            **request(number, cells),
            number=number,
        message:
            f"Table {number}: {shown}"
        script:
            "../scripts/table.py"


rule tables_pdf:
    input:
        sources("reporting.tables.latex", script="tables_pdf.py"),
        tables=[path for number in TABLE_RULES for path in table(number) if path.endswith(".tex")],
    output:
        reported(f"{PATHS.tables}/tables.pdf", "tables", "All tables", "Density estimation in 2D"),
    log:
        f"{PATHS.logs}/tables/tables_pdf.log",
    localrule: True
    conda:
        ENVIRONMENT
    resources:
        **asked("tables_pdf"),
    message:
        "All tables in one PDF"
    script:
        "../scripts/tables_pdf.py"


rule tables:
    input:
        [table(number) for number in TABLE_RULES],
        # Only where LaTeX is installed: Markdown and CSV can be read without.
        rules.tables_pdf.output if pdflatex_available() else [],
    localrule: True
    message:
        "All tables are made."
