"""Claims: every kind against a computation by hand, verdicts, and what the paper's own numbers say."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from scipy import stats

from introprior import cli, paper
from introprior.reporting import claims
from introprior.reporting.claims import Claim, Sample
from introprior.reporting.read import Choice
from tests.commands import refused

ROOT = Path(__file__).parents[1]
ONE = {"statement": "It is better.", "where": "Table 1", "kind": "compare", "datasets": ["Rings"], "metrics": ["KL"]}
ONE |= {"pairs": [["mog64-ip", "sg"]]}


Values = tuple[float | None, ...]


def sample(*values: float | None) -> Sample:
    """Of seeds 0, 1, ...; None where one diverged."""
    run = {"dataset": "", "cell": "", "metric": ""}
    rows = [run | {"seed": s, "value": math.nan if value is None else value} for s, value in enumerate(values)]
    return claims.measured(rows, {})["", "", ""]


def compared(ours: Values, reference: Values, **claim: object) -> tuple[pd.Series, pd.Series]:
    """The verdict on `ONE`, changed by ``claim``, and its only test."""
    numbers = {("Rings", "mog64-ip", "KL"): sample(*ours), ("Rings", "sg", "KL"): sample(*reference)}
    verdicts, tests = claims.evaluate({"it": Claim.read(ONE | claim, "claims")}, "ours", numbers)
    return verdicts.iloc[0], tests.iloc[0]


def test_shared_seeds_are_paired():
    a, b = (9.0, 8.5, 9.4, 8.8), (10.0, 9.9, 10.1, 9.2)
    verdict, row = compared(a, b)
    known = stats.ttest_rel(b, a)  # a lower KL is better: positive for the claim
    assert (row.method, row.n, row.reference_n) == ("paired", 4, 4)
    assert row.effect == pytest.approx(sum(b) / 4 - sum(a) / 4)
    assert row.p == pytest.approx(known.pvalue)
    assert (row.low, row.high) == pytest.approx(known.confidence_interval(0.95))
    assert row.percent == pytest.approx(100 * row.effect / (sum(b) / 4))
    assert (verdict["verdict"], row.outcome) == ("supported", "for")


def test_means_and_deviations_are_tested_by_welch():
    known = stats.ttest_ind_from_stats(19.62, 0.57 * 5**0.5 / 2, 5, 17.7, 0.25 * 5**0.5 / 2, 5, equal_var=False)
    claim = ONE | {"table": 1, "datasets": ["Checkerboard"], "pairs": [["mog64-lc-ip", "sg"]]}
    _, tests = claims.evaluate({"it": Claim.read(claim, "claims")}, "published")
    (row,) = tests.to_dict("records")
    assert (row["method"], row["n"], row["outcome"]) == ("Welch", paper.SEEDS, "for")
    assert row["p"] == row["p_holm"] == pytest.approx(known.pvalue)
    a, b = (spread**2 / 4 for spread in (0.57, 0.25))  # squared standard errors: s^2 n / (n - 1) / n
    half = math.sqrt(a + b) * stats.t.ppf(0.975, (a + b) ** 2 / (a**2 / 4 + b**2 / 4))
    assert (row["effect"], row["low"], row["high"]) == pytest.approx((1.92, 1.92 - half, 1.92 + half))


def test_an_equivalence_needs_its_whole_interval_within_the_margin():
    reference = (10.0, 10.2, 9.8, 10.0)
    for values, outcome in (
        ((10.1, 10.2, 9.9, 10.0), "for"),
        ((12.1, 12.2, 11.9, 12.0), "against"),
        ((11.0, 9.0, 10.9, 10.0), "open"),
    ):
        _, row = compared(values, reference, kind="equivalent", margin=0.1)
        inside = row.low > -1 and row.high < 1
        outside = row.low > 1 or row.high < -1
        assert row.outcome == outcome == ("for" if inside else "against" if outside else "open")
        if inside:
            each = [one - other for one, other in zip(values, reference, strict=True)]
            below = stats.ttest_1samp(each, 1, alternative="less")
            above = stats.ttest_1samp(each, -1, alternative="greater")
            assert row.p == pytest.approx(2 * max(below.pvalue, above.pvalue))


def test_an_order_is_between_datasets_and_a_tie_is_none():
    claim = {"statement": "More.", "kind": "order", "datasets": ["CIFAR-10"], "than": ["MNIST", "FMNIST"]}
    claim |= {"where": "Table 2", "metrics": ["r_entropy"], "cells": ["mog100-ip"]}
    order = {"it": Claim.read(claim, "")}
    taken = {"CIFAR-10": 10.0, "MNIST": 1.0, "FMNIST": 10.0}
    chosen = {(dataset, "mog100-ip"): Choice(value, (0.0, 10.0)) for dataset, value in taken.items()}
    verdicts, tests = claims.evaluate(order, "ours", claims.measured([], chosen))
    assert tests["outcome"].tolist() == ["for", "against"]
    assert (verdicts["verdict"][0], verdicts["low"][0], verdicts["high"][0]) == ("contradicted", 1, 1)
    alone = {key: choice._replace(candidates=(10.0,)) for key, choice in chosen.items()}  # nothing was chosen
    verdicts, _ = claims.evaluate(order, "ours", claims.measured([], alone))
    assert verdicts["verdict"][0] == "not run"


@pytest.mark.parametrize(
    ("free", "outcome"),
    [([1.0, 5.0], "for"), ([1.0, 2.0], "against"), ([1.0, math.nan], "for")],
    ids=["passes the margin", "stays", "diverges"],
)
def test_an_explosion_is_a_log_variance_beyond_the_margin_or_a_loss_that_is_not_finite(free, outcome):
    run = {"dataset": "CIFAR-10", "seed": 0}
    clipped, unclipped = (run | {"cell": f"mog100-lc-ip{rest}"} for rest in ("", "-unclipped"))
    rows = [clipped | {"quantity": "prior_logvar_max", "value": value} for value in (0.5, 1.0)]
    for quantity in ("prior_logvar_max", "encoder_loss"):
        rows += [unclipped | {"quantity": quantity, "value": value} for value in free]
    claim = claims.read()["clipping-is-needed"]
    verdicts, tests = claims.evaluate({"it": claim}, "ours", claims.largest(rows))
    assert tests["outcome"].tolist() == [outcome]
    assert verdicts["verdict"].tolist() == ["supported" if outcome == "for" else "contradicted"]


def test_holm_by_hand():
    found = claims.holm(pd.Series([0.01, math.nan, 0.04, 0.03, 0.5]))
    assert found.tolist() == pytest.approx([0.04, math.nan, 0.09, 0.09, 0.5], nan_ok=True)
    assert claims.holm(pd.Series([0.9, 0.8])).tolist() == [1, 1]


BETTER, WORSE, EITHER = ((9.0, 9.1, 8.9, 9.02), (11.0, 11.1, 10.9, 11.02), (9.0, 11.0, 10.5, 9.6))


@pytest.mark.parametrize(
    ("need", "of", "verdict"),
    [
        ("all", [BETTER, BETTER, BETTER], "supported"),
        ("all", [BETTER, BETTER, EITHER], "undecided"),
        ("all", [BETTER, WORSE, None], "contradicted"),
        ("most", [BETTER, BETTER, WORSE], "supported"),
        ("most", [BETTER, EITHER, None], "undecided"),
        ("most", [WORSE, WORSE, EITHER], "contradicted"),
        ("most", [None, None, None], "not run"),
    ],
)
def test_a_verdict_counts_what_is_established(need, of, verdict):
    datasets = ["8Gaussian", "Rings", "2Spirals"]
    numbers = {(dataset, "sg", "KL"): sample(10.0, 10.1, 9.9, 10.0) for dataset in datasets}
    numbers |= {(dataset, "mog64-ip", "KL"): sample(*v) for dataset, v in zip(datasets, of, strict=True) if v}
    claim = Claim.read(ONE | {"need": need, "datasets": datasets}, "claims")
    verdicts, tests = claims.evaluate({"it": claim}, "ours", numbers)
    found = verdicts.iloc[0]
    assert found["verdict"] == verdict
    assert (found["low"], found["high"]) == (of.count(BETTER), 3 - of.count(WORSE))
    assert found["missing"] == of.count(None) == (tests["outcome"] == "not run").sum()
    assert (tests["p_holm"].dropna() >= tests["p"].dropna()).all()


def test_diverged_seeds_are_left_out_and_counted_and_one_seed_establishes_nothing():
    _, row = compared((9.0, None, 9.2), (10.0, 10.1, 10.3))
    assert (row.n, row.diverged, row.method) == (2, 1, "paired")
    assert row.effect == pytest.approx(1.05)  # of seeds 0 and 2
    _, row = compared((None,), (10.0,))
    assert claims.formatted(row)["outcome"] == "open, 1 diverged"
    _, row = compared((9.0,), (10.0,))
    assert (row.outcome, row.effect, bool(row.favours)) == ("open", 1, True)


def test_images_are_compared_at_the_chosen_r_entropy():
    run = {"dataset": "MNIST", "cell": "mog10", "seed": 0, "metric": "knn_few"}
    rows = [run | {"r_entropy": r, "value": value} for r, value in ((0.0, 0.5), (10.0, 0.9))]
    found = claims.measured(rows, {("MNIST", "mog10"): Choice(10.0, (0.0, 10.0))})
    assert found["MNIST", "mog10", "knn_few"].mean == 0.9
    assert found["MNIST", "mog10", "r_entropy"].mean == 10


@pytest.fixture(scope="module")
def published() -> tuple[pd.DataFrame, pd.DataFrame]:
    return claims.evaluate(claims.read(), "published")


def test_the_published_numbers_answer_every_claim_that_has_some(published):
    verdicts, tests = published
    assert verdicts["claim"].tolist() == list(claims.read())
    without = verdicts.loc[verdicts["verdict"] == "not published", "claim"].tolist()
    assert without == ["clipping-is-needed"]  # of which the paper shows a figure
    others = tests[~tests["claim"].isin(without)]
    assert others["effect"].notna().all()
    assert set(others["outcome"]) <= {"for", "against", "open"}
    intervals = others[others["claim"] != "cifar-needs-entropy"]
    (spreadless,) = intervals[intervals["low"].isna()].to_dict("records")  # 0.0, without ± in Table 5
    assert (spreadless["dataset"], spreadless["cell"], spreadless["mean"]) == ("CIFAR-10", "mog10-lc-ip", 0)
    intervals = intervals.dropna(subset="low")
    assert (intervals["low"] < intervals["effect"]).all()
    assert (intervals["effect"] < intervals["high"]).all()
    assert (verdicts["tests"] == tests.groupby("claim", sort=False).size().to_numpy()).all()


def test_the_page_on_claims_is_what_the_command_prints(capsys):
    assert cli.main(["claims"]) == 0
    printed = capsys.readouterr().out
    assert (ROOT / "docs" / "claims.md").read_text() == printed
    for anchor in re.findall(r"\]\(#([\w-]+)\)", printed):
        assert f"\n## {anchor}\n" in printed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "comparison"}, "it: kind: must be 'compare', 'equivalent', 'order' or 'diverges', is 'comparison'"),
        ({"pairs": [["mog64-ip", "gs"]]}, "it: pairs[0][1]: unknown cell 'gs'"),
        ({"pairs": [["mog64-ip"]]}, "it: pairs[0]: must be two cells, are 1"),
        ({"pairs": []}, "it: pairs: is missing; give it to a claim of the kind compare"),
        ({"margin": 0.1}, "it: margin: is not for a claim of the kind compare"),
        ({"kind": "equivalent"}, "it: margin: is missing; give it to a claim of the kind equivalent"),
        ({"metrics": ["kl"]}, "it: metrics: unknown metric 'kl'; did you mean 'KL'?"),
        ({"metrics": ["entropy_pooled"]}, "it: direction: is missing; entropy_pooled has none of its own"),
        ({"where": None}, "it: where: must be text, is empty"),
        ({"sayings": 1}, "it: unknown key 'sayings'"),
    ],
)
def test_wrong_claims_get_one_line(tmp_path, change, said):
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump({"it": ONE | change}))
    refused(lambda: claims.read(path), f"{path}: {said}")
