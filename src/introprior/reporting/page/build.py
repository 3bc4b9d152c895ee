"""The results page: what was run, what came out, and whether it agrees with the paper.

Whatever number it shows is read from a CSV file: of the tables, of the claims, or one that is written here first. What
is not there yet is shown as missing, so a page can be made at any time.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from introprior.errors import UserError
from introprior.experiment.cells import Cell
from introprior.experiment.config import Configuration
from introprior.experiment.config.shown import FIGURES
from introprior.experiment.jobs import named
from introprior.experiment.paths import Paths
from introprior.metrics.registry import METRICS, of_kind
from introprior.operations import files, provenance
from introprior.reporting import claims, read
from introprior.reporting.page import Shown, shown
from introprior.reporting.tables import captions
from introprior.reporting.tables.sheets import shown as printed

TAIL = 12
"""Lines of a log."""

_PLACES = ("experiment", "device", "jobs_per_gpu", "gpu_memory_mb", "max_runtime", "checkpoint_seconds", "page")
_TESTED = ("percent", "percent_low", "percent_high", "mean", "reference_mean", "effect", "low", "high", "p_holm")
_SIDES = ("dataset", "metric", "cell", "reference", "outcome")
_WORDS = ("claim", "source", "verdict", "statement", "where", "need")
_SUMMARY = ("mean", "std", "sem", "n", "diverged", "paper_mean", "paper_spread")
_NOT_SHOWN = ("JSD_nats", "JSD_nats_floor")
_MARKS = {"yes": "✓", "no": "✗"}


def write(config: Configuration, results: Path, processes: int = 1) -> None:
    """Write ``index.html`` and the pictures and CSV files in ``page/``, from what lies in a folder of results.

    Args:
        processes: that draw the runs' pictures, which takes longest.

    Raises:
        UserError: a file that is damaged.
    """
    from introprior.reporting.page import pictures

    paths = Paths(results.name, str(results.parent))
    runs = [*shown(config, paths)]
    drawn = [run for run in runs if Path(run.beside("history.csv")).exists()]
    draw = partial(pictures.draw, folder=Path(paths.page, "runs"))
    if processes > 1:
        with ProcessPoolExecutor(processes) as pool:
            list(pool.map(draw, drawn))
    else:
        list(map(draw, drawn))
    frames = {"options": options(config), "runs": pd.DataFrame(map(fate, runs))}
    frames["facts"] = facts(results, frames["runs"])
    frames["verdicts"] = verdicts(config, Path(paths.tables))
    for name, frame in frames.items():
        with files.written(Path(paths.page, f"{name}.csv")) as temporary:
            frame.to_csv(temporary, index=False)
    tables = {name: records(pd.read_csv(Path(paths.page, f"{name}.csv"), dtype=str)) for name in frames}
    files.write_text(
        paths.index,
        _template().render(
            tables,
            experiment=config.experiment,
            scales=scales(config),
            claims=claimed(Path(paths.claims)),
            method=claims.METHOD,
            tables=[table(config, number, Path(paths.tables)) for number in config.page.tables],
            figures=pictured(config, results),
            tails={run.name: tail(Path(run.log)) for run in runs},
            labels={name: metric.label() for name, metric in METRICS.items() if name not in _NOT_SHOWN},
            there=lambda name: (results / name).exists(),
        ),
    )


def _template() -> jinja2.Template:
    folder = resources.files(__package__ or "")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.globals |= {name: (folder / f"page.{name}").read_text(encoding="utf-8") for name in ("css", "js")}
    environment.filters |= {"number": number}
    return environment.from_string((folder / "page.html").read_text(encoding="utf-8"))


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a CSV file, None where nothing stands."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def number(value: Any, digits: int = 3) -> str:
    """A number of a CSV file, rounded; a dash for none, and a real minus."""
    if value in (None, "") or math.isnan(float(value)):
        return "–"
    return f"{float(value):.{digits}g}".replace("-", "−") if abs(float(value)) < 1000 else f"{float(value):,.0f}"


# ---- What was run ----


def scales(config: Configuration) -> list[str]:
    """How the configuration differs from the paper's, a sentence for each half that the page shows."""
    paper, tables, found = Configuration(), {*config.page.tables}, []
    if tables & {1, 3, 4}:
        both = [captions.density_settings(c, ("seeds", "training", "search", "evaluation")) for c in (config, paper)]
        found.append(f"2D. {captions.scale_sentence(config.experiment, *both)}")
    if tables & {2, 5}:
        both = [captions.image_settings(c, config.images.datasets) for c in (config, paper)]
        found.append(f"Images. {captions.scale_sentence(config.experiment, *both)}")
    return found


def options(config: Configuration) -> pd.DataFrame:
    """Keys whose values differ from the paper's: key, here, paper."""
    here, paper = (captions.leaves(c.model_dump(mode="json", exclude={*_PLACES})) for c in (config, Configuration()))
    differ = [key for key in dict.fromkeys([*paper, *here]) if here.get(key) != paper.get(key)]
    values = ((key, *(captions.setting(values.get(key)) for values in (here, paper))) for key in differ)
    return pd.DataFrame(values, columns=["key", "here", "paper"])


def facts(results: Path, runs: pd.DataFrame) -> pd.DataFrame:
    """What the records of all jobs tell together, and how runs fared: fact, value."""
    found_records = map(provenance.read, sorted(results.rglob(f"*{provenance.SUFFIX}")))
    made = [record for record in found_records if not provenance.repeated(record)]
    hours: Counter[str] = Counter()
    for record in made:
        hours[record["device"]] += record["seconds"] / 3600
    found = [(f"runs: {status}", str(count)) for status, count in runs["status"].value_counts().items()]
    found.append(("jobs with a record", str(len(made))))
    found += [(f"hours on {device}", f"{spent:.2f}") for device, spent in sorted(hours.items())]
    found.append(("GPU-hours", f"{sum(spent for device, spent in hours.items() if device != 'cpu'):.2f}"))
    for title, values in (
        ("introprior", {f"{r['introprior']} ({(r['commit'] or 'no checkout')[:12]}{_dirty(r)})" for r in made}),
        ("code", {r["code"][:12] for r in made}),
        ("configuration", {(r["configuration"] or "by hand")[:12] for r in made}),
        *((name, {r["libraries"].get(name, "–") for r in made}) for name in ("python", "torch")),
    ):
        found.append((title, ", ".join(sorted(values)) or "–"))
    if made:
        found.append(("first and last job", " to ".join(f([r["started"] for r in made])[:10] for f in (min, max))))
    return pd.DataFrame(found, columns=["fact", "value"])


def _dirty(record: Mapping[str, Any]) -> str:
    return "-dirty" if (record["commit"] or "").endswith("-dirty") else ""


# ---- Runs ----


def fate(run: Shown) -> dict[str, Any]:
    """A row of ``runs.csv``: which run, what became of it, where and how long it was trained, its metrics as means over
    its seeds, and KL of fakes over KL of real data in the last tenth of the game."""
    named = {"run": run.name, "dataset": run.dataset, "cell": run.cell, "label": Cell.parse(run.cell).label}
    row: dict[str, Any] = named | {"r_entropy": run.r_entropy, "seeds": "", "status": "missing", "detail": ""}
    record = provenance.path_of(run.trained)
    if not record.exists() or not Path(run.beside("history.csv")).exists():
        return row
    made = provenance.read(record)
    members = [each for each in made["records"] if each["dataset"] == run.dataset]
    lost = [each for each in members if each["status"] != "ok"]
    of = f" ({len(lost)} of {len(members)} seeds)" if len(members) > 1 else ""
    row |= {"seeds": " ".join(map(str, made["seeds"])), "status": f"diverged{of}" if lost else "ok"}
    row |= {"detail": "; ".join(f"seed {each['seed']}: {each['detail']}" for each in lost)}
    row |= {name: made[name] for name in ("device", "seconds", "started", "commit")}
    history = pd.DataFrame(run.read(read.history, "history.csv"))
    step = "epoch" if "epoch" in history else "iteration"
    fakes = history[history["quantity"] == "fake_kl"]
    if len(fakes) and "real_kl" in set(history["quantity"]):
        late = history[history[step] >= fakes[step].max() - 0.1 * (fakes[step].max() - fakes[step].min())]
        means = late.groupby("quantity")["value"].mean()
        row["fake_over_real_kl"] = means["fake_kl"] / means["real_kl"]
    if measured := [path for path in run.measured if Path(path).exists()]:
        values = pd.DataFrame(read.of(measured[0], read.metrics(measured), dataset=run.dataset, cell=run.cell))
        row |= values.groupby("metric", sort=False)["value"].mean().to_dict()
    return row


def tail(log: Path) -> str:
    """The last lines of a log; of a progress bar what it said last."""
    if not log.exists():
        return ""
    lines = log.read_bytes().decode(errors="replace").split("\n")  # where text is read, every \r ends a line
    said = [line.rstrip("\r").rpartition("\r")[2] for line in lines]
    return "\n".join([line for line in said if line.strip()][-TAIL:])


# ---- Tables, claims, figures ----


def verdicts(config: Configuration, folder: Path) -> pd.DataFrame:
    """How many published values were set beside ours, could be judged, are met: table, published, judged, met."""
    rows = []
    for n in config.page.tables:
        compared = read.table(folder / f"table{n}_vs_paper.csv", ("metric", "within"), ())
        if compared is not None:
            known = compared["metric"].map(lambda name: name not in METRICS or METRICS[name].decimals is not None)
            answers = compared.loc[known, "within"].replace("", "NA")
            rows.append((n, len(answers), int((answers != "NA").sum()), int((answers == "yes").sum())))
    return pd.DataFrame(rows, columns=["table", "published", "judged", "met"])


def table(config: Configuration, n: int, folder: Path) -> dict[str, Any]:
    """A table as the page shows it: its caption, a column for each cell, a row for each dataset and metric."""
    texts = ("dataset", "cell", "metric")
    tidy = read.table(folder / f"table{n}.csv", texts, _SUMMARY)
    compared = read.table(folder / f"table{n}_vs_paper.csv", (*texts, "within"), _SUMMARY)
    if tidy is None or compared is None:
        return {"number": n, "rows": []}
    text = read.text(folder / f"table{n}_vs_paper.md").partition("\n")[0]
    caption = re.sub(r"\\(.)", r"\1", text.partition("** ")[2]).replace("&lt;", "<")
    spread, names = config.resolved_protocol.report.spread, named(config).values()
    hidden = of_kind("distance", "entropy").keys() - {*names}
    within = {(r.dataset, r.cell, r.metric): r for r in compared.itertuples()}
    columns = [*dict.fromkeys(tidy["cell"])]
    rows = []
    for (dataset, metric), values in tidy.groupby(["dataset", "metric"], sort=False):
        if metric in hidden or (metric in METRICS and str(n) not in METRICS[metric].tables):
            continue
        decimals = METRICS[metric].decimals if metric in METRICS else None
        by_cell = {row.cell: row for row in values.itertuples()}
        entries = [entry(by_cell.get(c), within.get((dataset, c, metric)), decimals, spread) for c in columns]
        rows.append(
            {"dataset": dataset, "metric": METRICS[metric].label() if metric in METRICS else metric}
            | {"entries": entries}
        )
    return {"number": n, "caption": caption, "rows": rows, "columns": [_head(cell) for cell in columns]}


def _head(cell: str) -> str:
    try:
        return Cell.parse(cell).label
    except UserError:  # a column that is quoted
        return cell.replace("_", " ")


def entry(row: Any, compared: Any, decimals: int | None, spread: str) -> dict[str, Any]:
    """One place of a table: ours, published, whether they agree, and what to sort by."""
    if row is None:
        return {"ours": "–", "paper": "", "mark": "", "sort": "", "note": ""}
    found = {"mark": _MARKS.get(compared.within, "") if compared is not None else "", "note": "", "sort": ""}
    found["paper"] = "" if pd.isna(row.paper_mean) else printed(row.paper_mean, row.paper_spread, decimals)
    if pd.isna(row.n):
        return found | {"ours": ""}
    if row.n == 0:
        return found | {"ours": "diverged" if row.diverged else "–"}
    note = f"{row.n:g} of {row.n + row.diverged:g} seeds" if row.diverged else ""
    return found | {"ours": printed(row.mean, getattr(row, spread), decimals), "note": note, "sort": row.mean}


def claimed(folder: Path) -> list[dict[str, Any]]:
    """The claims, each with its verdicts and tests by source; none where they were not tested."""
    verdict = read.table(folder / "claims.csv", _WORDS, ())
    tests = read.table(folder / "tests.csv", (*_WORDS[:2], *_SIDES), (*_TESTED, "diverged"))
    if verdict is None or tests is None:
        return []
    found = []
    for name, both in verdict.groupby("claim", sort=False):
        rows = tests[tests["claim"] == name]
        ends = rows[["percent", "percent_low", "percent_high"]].abs().max(axis=1).dropna()
        scale = max(1.2 * float(ends.quantile(0.8)), 1) if len(ends) else 1.0  # a few wide ones are cut
        sources = {}
        for row in both.to_dict("records"):
            own = rows[rows["source"] == row["source"]].to_dict("records")
            sources[row["source"]] = row | {"rows": [{**claims.formatted(r), **_drawn(r, scale)} for r in own]}
        found.append({"name": name, "sources": sources, **both.iloc[0][["statement", "where", "need"]].to_dict()})
    return found


def _drawn(row: Mapping[str, Any], scale: float) -> dict[str, Any]:
    """Where an effect and its interval lie on an axis from 0 to 100 with 50 for none; empty where there is no mean."""
    places = {}
    for name, value in (("dot", row["percent"]), ("left", row["percent_low"]), ("right", row["percent_high"])):
        places[name] = None if pd.isna(value) else round(50 + 50 * min(max(value / scale, -1), 1), 1)
    return places


def pictured(config: Configuration, results: Path) -> list[dict[str, str]]:
    """The figures that there are to be: file, title, what they show."""
    found = []
    for name in config.page.figures:
        title, what = FIGURES[name]
        instances: Iterable[str] = {"samples": config.images.datasets, "search": config.density_cells}.get(name, [""])
        for of in instances:
            file = f"{name}-{of}" if of else name
            if name != "search" or (results / f"figures/{file}.png").exists():
                found.append({"file": file, "title": title.format(dataset=of, cell=of), "what": what})
    return found
