"""What the paper says in words, tested: against the published numbers, which needs no training, and against ours.

``paper/claims.yaml`` has the claims. Each comes down to tests, one for every dataset, metric and comparison: an effect,
positive where it points the claim's way, with a 95 % interval over seeds (Student's t). Seeds that both sides share are
paired, else the test is Welch's; of published means and standard deviations it always is. The p-values of a claim's
tests are corrected by Holm's method, so that a test is established, for or against the claim, at 5 % for the claim as a
whole; intervals are those of single tests. Of a claim that needs all or most of its tests at least those established
for it hold, and at most those not established against it: it is supported where the least is enough, contradicted where
the most is not, undecided between.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import pandas as pd
from pydantic import model_validator
from scipy import stats

from introprior import paper
from introprior.experiment.config import Configuration, read_yaml
from introprior.experiment.fields import Cell, Listed, Model, Positive, Some, Text, blamed, wrong
from introprior.experiment.jobs import named
from introprior.metrics.registry import ENTROPIES, METRICS, metric
from introprior.operations.files import write_text, written
from introprior.reporting import read as load
from introprior.reporting.read import Choices, Rows
from introprior.reporting.tables.sheets import published as published_table

LEVEL = 0.05
"""Of the corrected tests; the intervals hold 1 - LEVEL."""

ESTABLISHED = ("for", "against")
LARGEST = "prior_logvar_max"
"""Of a history; claims of the kind ``diverges`` are about it."""
MISSING = {"published": "not published", "ours": "not run"}
"""What a test or claim is for which a source has no numbers."""

METHOD = (
    "A test is one dataset, metric and comparison. Its effect is positive where it points the claim's way, with a 95 % "
    "interval over seeds (Student's t): paired where both sides share seeds, else Welch's. p is two-sided and "
    "corrected by Holm's method within the claim; below 0.05 the test is established, for or against the claim. At "
    "least as many tests hold as are established for the claim, at most as many as are not established against it: "
    "supported where the least is enough, contradicted where the most is not, undecided between. A published ± is read "
    "as the standard deviation (divided by n) over five seeds in 2D and three on images."
)

Key = tuple[str, str, str]
"""Dataset, cell, metric."""


class Claim(Model):
    """A claim of the paper; ``claims.yaml`` tells what its keys mean."""

    statement: Text
    where: Text
    kind: Literal["compare", "equivalent", "order", "diverges"]
    need: Literal["all", "most"] = "all"
    table: int | None = None
    datasets: Some[Text]
    metrics: Some[Text]
    pairs: Listed[Listed[Cell]] = ()
    cells: Listed[Cell] = ()
    than: Listed[Text] = ()
    direction: Literal["lower", "higher"] | None = None
    margin: Positive | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        needed = {
            "pairs": self.kind != "order",
            "cells": self.kind == "order",
            "than": self.kind == "order",
            "margin": self.kind in ("equivalent", "diverges"),
        }
        for key, wanted in needed.items():
            if bool(getattr(self, key)) is not wanted:
                problem = "is missing; give it to" if wanted else "is not for"
                raise wrong(key, f"{problem} a claim of the kind {self.kind}")
        for i, pair in enumerate(self.pairs):
            if len(pair) != 2:
                raise wrong(f"pairs[{i}]", f"must be two cells, are {len(pair)}")
        for name in self.metrics:
            if self.kind == "diverges" or name in ("gen", "rec"):
                continue
            with blamed("metrics"):
                known = metric(ENTROPIES[0] if name == "entropy" else name)
            if self.kind == "compare" and not (known.direction or self.direction):
                raise wrong("direction", f"is missing; {name} has none of its own")
        return self

    @property
    def comparisons(self) -> Iterator[Comparison]:
        """What is tested."""
        for dataset, name in product(self.datasets, self.metrics):
            for cell, reference in self.pairs:
                yield Comparison(dataset, name, cell, reference, (dataset, reference))
            for cell, other in product(self.cells, self.than):
                yield Comparison(dataset, name, cell, other, (other, cell))


class Comparison(NamedTuple):
    """A cell on a dataset, and what it is set beside by a metric: another cell, or dataset, and which these are."""

    dataset: str
    metric: str
    cell: str
    reference: str
    beside: tuple[str, str]


_MEASURED = (
    *("mean", "reference_mean", "effect", "low", "high", "percent", "percent_low", "percent_high"),
    *("p", "n", "reference_n", "diverged"),
)


@dataclass(frozen=True)
class Sample:
    """A metric of a cell on a dataset.

    Attributes:
        mean, spread: over ``n`` seeds that gave a number; the standard deviation with ddof = 1, NaN where unknown.
        seeds: their values; of published numbers there are none.
        diverged: how many seeds gave no number.
    """

    mean: float
    spread: float
    n: int
    seeds: Mapping[int, float] = field(default_factory=dict)
    diverged: int = 0


class Difference(NamedTuple):
    """Between two samples: its standard error and degrees of freedom, NaN where fewer than two seeds tell."""

    effect: float
    error: float
    freedom: float
    method: str


Numbers = Mapping[Key, Sample]
PathLike = str | Path


def read(path: str | Path | None = None) -> dict[str, Claim]:
    """The claims by name, the paper's unless a file is given.

    Raises:
        UserError: the first thing that is wrong: file, claim, key, what is wrong with it.
    """
    path = path or Path(str(resources.files(paper) / "claims.yaml"))
    return {name: Claim.read(values, f"{path}: {name}") for name, values in read_yaml([path]).items()}


# ---- Numbers ----


def published(table: int | None) -> dict[Key, Sample]:
    """The numbers of one of the paper's tables; none without a table.

    Its spreads have ddof = 0 and become those of a sample: sqrt(n / (n - 1)) times as large.
    """
    if table is None:
        return {}
    n = paper.IMAGE_SEEDS if table in (2, 5) else paper.SEEDS
    rows = published_table(str(table)).itertuples()
    scale = math.sqrt(n / (n - 1))
    return {(row.dataset, row.cell, row.metric): Sample(row.paper_mean, row.paper_spread * scale, n) for row in rows}


def measured(runs: Rows, chosen: Choices) -> dict[Key, Sample]:
    """Ours, see :mod:`introprior.reporting.read`: of images at the chosen r_entropy, which is a metric where one was
    chosen among several."""
    values: dict[Key, dict[int, float]] = {}
    for run in runs:
        choice = chosen.get((run["dataset"], run["cell"]))
        if "r_entropy" not in run or (choice and run["r_entropy"] == choice.r_entropy):
            values.setdefault((run["dataset"], run["cell"], run["metric"]), {})[run["seed"]] = run["value"]
    found = {key: _sample(by_seed) for key, by_seed in values.items()}
    for (dataset, cell), choice in chosen.items():
        if len(choice.candidates) > 1:
            found[dataset, cell, "r_entropy"] = Sample(choice.r_entropy, math.nan, 1)
    return found


def largest(histories: Rows) -> dict[Key, Sample]:
    """The prior's largest log-variance in each run; none of a run whose losses ceased to be finite."""
    values: dict[Key, dict[int, float]] = {}
    for row in histories:
        by_seed = values.setdefault((row["dataset"], row["cell"], LARGEST), {})
        if row["quantity"].endswith("_loss") and not math.isfinite(row["value"]):
            by_seed[row["seed"]] = math.nan
        elif row["quantity"] == LARGEST:
            by_seed[row["seed"]] = max(row["value"], by_seed.get(row["seed"], -math.inf))  # NaN, once there, stays
    return {key: _sample(by_seed) for key, by_seed in values.items()}


def _sample(by_seed: Mapping[int, float]) -> Sample:
    seeds = {seed: value for seed, value in by_seed.items() if math.isfinite(value)}
    values = pd.Series(seeds, dtype=float)
    return Sample(float(values.mean()), float(values.std()), len(seeds), seeds, len(by_seed) - len(seeds))


def difference(one: Sample, other: Sample) -> Difference:
    """One minus the other: over the seeds that both have where these are two or more, else by Welch's formula."""
    if len(shared := sorted(one.seeds.keys() & other.seeds.keys())) > 1:
        each = pd.Series([one.seeds[seed] - other.seeds[seed] for seed in shared])
        return Difference(float(each.mean()), float(each.sem()), len(shared) - 1, "paired")
    variances = [sample.spread**2 / sample.n if sample.n > 1 else math.nan for sample in (one, other)]
    total = sum(variances)
    freedom = math.nan
    if total > 0:
        freedom = total**2 / sum(v**2 / (s.n - 1) for v, s in zip(variances, (one, other), strict=True))
    return Difference(one.mean - other.mean, math.sqrt(total), freedom, "" if math.isnan(freedom) else "Welch")


# ---- Tests ----


def evaluate(
    claims: Mapping[str, Claim], source: str, ours: Numbers | None = None, **called: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Verdicts on claims, and the tests behind them.

    Args:
        claims: by name.
        source: ``published`` or ``ours``.
        ours: the latter's numbers.
        called: what ``gen``, ``rec`` and ``entropy`` are called there, if not as in the paper's tables.

    Returns:
        A row per claim, ``low`` and ``high`` the fewest and the most of its tests that hold; and a row per test, with
        what :data:`METHOD` says, and effect and interval in per cent of the size of the reference's mean.
    """
    called = named(Configuration()) | called
    verdicts, tests = [], []
    for name, claim in claims.items():
        numbers = published(claim.table) if ours is None else ours
        found = pd.DataFrame([_test(claim, numbers, called, each) for each in claim.comparisons])
        found["p_holm"] = holm(found["p"])
        if claim.kind in ("compare", "equivalent"):
            established = found["outcome"].isin(ESTABLISHED) & (found["p_holm"] < LEVEL)
            found["outcome"] = found["outcome"].where(established | (found["outcome"] == "missing"), "open")
        found["outcome"] = found["outcome"].replace("missing", MISSING[source])
        found.insert(0, "source", source)
        found.insert(1, "claim", name)
        tests.append(found)
        verdicts.append({"source": source, "claim": name, **_verdict(claim, found, source)})
    return pd.DataFrame(verdicts), pd.concat(tests, ignore_index=True)


def _verdict(claim: Claim, tests: pd.DataFrame, source: str) -> dict[str, Any]:
    """The row of a claim."""
    outcomes = tests["outcome"].value_counts()
    count = len(tests)
    low, against, missing = (int(outcomes.get(name, 0)) for name in ("for", "against", MISSING[source]))
    high = count - against
    needed = count if claim.need == "all" else count // 2 + 1
    if missing == count:
        verdict = MISSING[source]
    else:
        verdict = "supported" if low >= needed else "contradicted" if high < needed else "undecided"
    counts = {"tests": count, "favourable": int(tests["favours"].sum()), "low": low, "high": high, "missing": missing}
    known = {name: getattr(claim, name) for name in ("kind", "need", "statement", "where")}
    return {"verdict": verdict, **counts, **known}


def _test(claim: Claim, numbers: Numbers, called: Mapping[str, str], compared: Comparison) -> dict[str, Any]:
    """One test, before it is corrected: its outcome is where it points, or that a number is missing."""
    name = called.get(compared.metric, compared.metric)
    row: dict[str, Any] = {**compared._asdict(), "metric": name}
    one, other = numbers.get((compared.dataset, compared.cell, name)), numbers.get((*row.pop("beside"), name))
    if one is None or other is None:
        return row | dict.fromkeys(_MEASURED, math.nan) | {"favours": False, "method": "", "outcome": "missing"}
    effect, error, freedom, method = difference(one, other)
    effect *= _sign(claim, name)
    half = error * float(stats.t.isf(LEVEL / 2, freedom))
    p_for, p_against = _p(claim, effect, error, freedom, other)
    outcome = "open" if math.isnan(p_for) else "for" if p_for <= p_against else "against"
    favours = effect > 0
    if claim.kind == "equivalent":
        favours = abs(effect) <= _margin(claim, other)
    if claim.kind in ("order", "diverges"):  # of what was chosen, or ran away, there is nothing to estimate
        favours = bool(one.diverged) or effect > (claim.margin or 0)
        outcome = "for" if favours else "against"
    bounds = (effect, effect - half, effect + half)
    size = abs(other.mean) / 100 or math.nan
    counts = (one.n, other.n, one.diverged + other.diverged)
    values = (one.mean, other.mean, *bounds, *(bound / size for bound in bounds), min(p_for, p_against), *counts)
    measures = dict(zip(_MEASURED, values, strict=True))
    return row | measures | {"favours": favours, "method": method, "outcome": outcome}


def _sign(claim: Claim, name: str) -> int:
    """Of a difference that points the claim's way; an equivalence has no way, and is about the difference as it is."""
    better = METRICS[name].direction if claim.kind == "compare" else ""
    return -1 if claim.direction == "lower" or (better == "↓" and not claim.direction) else 1


def _p(claim: Claim, effect: float, error: float, freedom: float, other: Sample) -> tuple[float, float]:
    """Two-sided p-values for the claim and against it; of an equivalence those of two one-sided tests (TOST)."""
    if not error > 0 or claim.kind in ("order", "diverges"):
        return math.nan, math.nan
    margin = _margin(claim, other)
    above, below = ((effect + shift) / error for shift in (margin, -margin))
    if claim.kind == "equivalent":
        inside = max(stats.t.sf(above, freedom), stats.t.cdf(below, freedom))
        outside = min(stats.t.sf(below, freedom), stats.t.cdf(above, freedom))
        return min(2 * float(inside), 1.0), min(2 * float(outside), 1.0)
    return min(2 * float(stats.t.sf(above, freedom)), 1.0), min(2 * float(stats.t.cdf(above, freedom)), 1.0)


def _margin(claim: Claim, other: Sample) -> float:
    return (claim.margin or 0) * abs(other.mean)


def holm(p: pd.Series) -> pd.Series:
    """p-values corrected by Holm's step-down method; NaN is no test."""
    ordered = p.dropna().sort_values()
    factors = range(len(ordered), 0, -1)
    return (ordered * list(factors)).cummax().clip(upper=1).reindex(p.index)


# ---- Files ----


def tested(
    results: Iterable[PathLike], chosen: Iterable[PathLike], histories: Iterable[PathLike], **called: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Verdicts and tests of the published numbers, and of ours as far as there are any, see :func:`evaluate`.

    Args:
        results, chosen, histories: ``metrics.csv`` and ``probes.csv``, ``r_entropy.json``, and ``history.csv`` of the
            runs of Figure 2.
        called: see :func:`evaluate`.
    """
    ours: dict[Key, Sample] = {}
    if results := list(results):
        ours |= measured(load.metrics(results), load.choices(chosen) if (chosen := list(chosen)) else {})
    if histories := list(histories):
        ours |= largest(load.histories(histories))
    found = [evaluate(read(), "published"), evaluate(read(), "ours", ours, **called)]
    verdicts, tests = (pd.concat(parts, ignore_index=True) for parts in zip(*found, strict=True))
    return verdicts, tests


def write(folder: Path, verdicts: pd.DataFrame, tests: pd.DataFrame) -> None:
    """Write ``claims.csv``, ``tests.csv`` and ``claims.md`` into a folder."""
    for name, rows in (("claims", verdicts), ("tests", tests)):
        with written(folder / f"{name}.csv") as temporary:
            rows.to_csv(temporary, index=False)
    write_text(folder / "claims.md", markdown(verdicts, tests))


def markdown(verdicts: pd.DataFrame, tests: pd.DataFrame) -> str:
    """Verdicts of each source side by side, then the tests of every claim."""
    sources = list(dict.fromkeys(verdicts["source"]))
    said = verdicts.set_index(["claim", "source"])
    lines = ["# What the paper says in words", "", METHOD, "", f"| claim | where | {' | '.join(sources)} |"]
    lines.append("| :--- | :--- |" + " :--- |" * len(sources))
    for name in said.index.unique("claim"):
        first = said.loc[name, sources[0]]
        answers = " | ".join(summary(said.loc[name, source]) for source in sources)
        lines.append(f"| [{first['statement']}](#{name}) | {first['where']} | {answers} |")
    for (name, source), rows in tests.groupby(["claim", "source"], sort=False):
        if source == sources[0]:
            lines += ["", f"## {name}", "", said.loc[name, source]["statement"]]
        if said.loc[name, source]["verdict"] == MISSING[source]:
            lines += ["", f"*{source}*: {MISSING[source]}."]
            continue
        lines += ["", f"| {source} | metric | of | beside | means | effect | p | |", "|" + " :--- |" * 8]
        lines += [f"| {' | '.join(formatted(row).values())} |" for row in rows.to_dict("records")]
    return "\n".join(lines) + "\n"


def summary(row: Mapping[str, Any]) -> str:
    """``**supported**: 15 to 16 of 16 hold, 16 point its way``."""
    if row["verdict"] in MISSING.values():
        return str(row["verdict"])
    return (
        f"**{row['verdict']}**: {row['low']} to {row['high']} of {row['tests']} hold, {row['favourable']} point its way"
    )


def formatted(row: Mapping[str, Any]) -> dict[str, str]:
    """A test in words, for a table: its dataset, metric, sides, means, effect with its interval, p, outcome."""
    shown = {
        "dataset": row["dataset"],
        "metric": METRICS[row["metric"]].label() if row["metric"] in METRICS else row["metric"],
        "cell": row["cell"],
        "reference": row["reference"],
    }
    if row["outcome"] in MISSING.values():
        return shown | {"means": "", "effect": "", "p": "", "outcome": row["outcome"]}
    interval = "" if math.isnan(row["low"]) else f" [{row['low']:.3g}, {row['high']:.3g}]"
    outcome = row["outcome"] + (f", {row['diverged']:g} diverged" if row["diverged"] else "")
    return shown | {
        "means": f"{row['mean']:.4g}, {row['reference_mean']:.4g}",
        "effect": f"{row['effect']:.3g}{interval}".replace("-", "−"),
        "p": "" if math.isnan(row["p_holm"]) else f"{row['p_holm']:.2g}",
        "outcome": outcome,
    }
