# What the paper says in words, tested; and the results page, with pictures of every run.

PAGE_RUNS = list(shown_runs(CONFIG, PATHS))
CLAIMED = dict(zip(("results", "chosen", "histories"), claimed(CONFIG, PATHS)))
PAGE_FIGURES = [
    figure(name) for name in [*DENSITY_FIGURES, *IMAGE_FIGURES, "theory"] if name.split("-")[0] in CONFIG.page.figures
]


rule claims:
    input:
        sources("reporting.claims", data=["paper/claims.yaml"], script="claims.py"),
        **CLAIMED,
    output:
        reported(f"{PATHS.claims}/claims.csv", "claims", "Verdicts", "Claims of the paper"),
        reported(f"{PATHS.claims}/tests.csv", "claims", "Tests", "Claims of the paper"),
        f"{PATHS.claims}/claims.md",
    log:
        f"{PATHS.logs}/claims.log",
    localrule: True
    conda:
        ENVIRONMENT
    resources:
        **asked("table"),
    params:
        **jobs.named(CONFIG),
    message:
        "What the paper says in words, tested"
    script:
        "../scripts/claims.py"


rule page:
    input:
        sources(
            *("reporting.page.build", "reporting.page.pictures"),
            data=[f"reporting/page/page.{kind}" for kind in ("html", "css", "js")],
            script="page.py",
        ),
        rules.claims.output,
        [table(number) for number in CONFIG.page.tables],
        PAGE_FIGURES,
        [run.beside("history.csv") for run in PAGE_RUNS],
        [path for run in PAGE_RUNS if run.panels for path in (*run.measured, run.beside("panels.npz"))],
    output:
        PATHS.index,
        expand(f"{PATHS.page}/{{name}}.csv", name=("options", "facts", "runs", "verdicts")),
        [f"{PATHS.page}/runs/{run.name}.svg" for run in PAGE_RUNS],
        [f"{PATHS.page}/runs/{run.name}.png" for run in PAGE_RUNS if run.panels],
    log:
        f"{PATHS.logs}/page.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 8  # of which Snakemake gives what there is
    resources:
        **asked("figure"),
    params:
        configuration=CONFIG.identity,
    message:
        "The results page: {output[0]}"
    script:
        "../scripts/page.py"
