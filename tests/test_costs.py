"""The built-in rates: sensible in every direction, and of the size that was measured."""

from __future__ import annotations

import copy
import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from introprior.experiment import configuration, planning
from introprior.operations import costs

ROOT = Path(__file__).resolve().parents[1]
CONFIG = configuration.defaults(ROOT / "workflow/schemas/config.schema.yaml")
JOBS = planning.jobs(CONFIG)
RULES = sorted({job.rule for job in JOBS})
DEVICES = ("gpu", "cpu")


def changed(path: str, value: object) -> dict:
    """The paper's configuration but for one key."""
    config = copy.deepcopy(CONFIG)
    *sections, key = path.split(".")
    place = config
    for section in sections:
        place = place[section]
    place[key] = value
    return config


def first(rule: str, **wildcards: str) -> dict[str, str]:
    """The wildcards of a rule's first job that has these."""
    found = (job.wildcards for job in JOBS if job.rule == rule)
    return next(names for names in found if wildcards.items() <= names.items())


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_its_price(rule):
    for names in (job.wildcards for job in JOBS if job.rule == rule):
        for device in DEVICES:
            assert 0 < costs.seconds(CONFIG, rule, names, device) < 1e8
        assert costs.runtime(CONFIG, rule, names) >= 10
        assert costs.mem_mb(CONFIG, rule, names) >= 100
        assert costs.disk(CONFIG, rule, names) > 0


@pytest.mark.parametrize(
    ("rule", "path", "value"),
    [
        ("train", "density.training.iterations", 60_000),
        ("train", "density.training.batch_size", 1024),
        ("train", "density.training.hidden_width", 512),
        ("train", "density.seeds", list(range(40))),
        ("search", "density.training.iterations", 60_000),
        ("search", "density.search.members_per_job", 210),
        ("evaluate", "density.evaluation.grid", 4096),
        ("warmup", "images.training.warmup_epochs", 40),
        ("game", "images.training.epochs", 300),
        ("game", "images.by_dataset.MNIST.widths", [256, 512]),
        ("clipping_study", "figure2.epochs", 200),
        ("classifier", "images.evaluation.classifier_epochs", 50),
        ("reference", "images.evaluation.samples", 60_000),
        ("distances", "images.evaluation.epochs", [0, 30, 80, 120, 160, 200, 219]),
        ("warmup_distances", "images.evaluation.epochs", [0, 10, 80]),
        ("evaluate_images", "images.evaluation.samples", 60_000),
        ("probe", "images.probes.svm_iterations", [2000, 20_000]),
        ("encoder_study", "figureS2.iterations", 20_000),
    ],
)
def test_more_work_takes_longer(rule, path, value):
    config = changed(path, value)
    names = {"dataset": "MNIST"} if rule == "classifier" else first(rule, **{"cell": "sg"} if rule == "search" else {})
    less, more = ([costs.seconds(each, rule, names, device) for device in DEVICES] for each in (CONFIG, config))
    assert more[0] >= less[0]  # a GPU is not always full
    assert more[1] > 1.05 * less[1]


def test_more_components_take_no_less():
    def taken(rule: str, components: int, device: str) -> float:
        name = f"mog{components}"
        names = {"dataset": "Rings", "cell": name} if rule == "train" else {
            "dataset": "MNIST", "cell": name, "family": name, "r_entropy": "0", "seed": "0"
        }  # fmt: skip
        return costs.seconds(CONFIG, rule, names, device)

    for rule in ("train", "warmup", "game"):
        for device in DEVICES:
            times = [taken(rule, components, device) for components in (2, 10, 64, 500, 5000)]
            assert times == sorted(times)
            assert times[-1] > 1.2 * times[0]


def test_more_needs_no_less_memory_or_disk():
    game, train = first("game", dataset="CIFAR-10"), first("train", dataset="Rings", cell="mog64")
    for path, value, rule, names in (
        ("images.by_dataset.CIFAR-10.batch_size", 256, "game", game),
        ("images.by_dataset.CIFAR-10.widths", [512, 512, 512], "game", game),
        ("density.seeds", list(range(200)), "train", train),
        ("density.training.monte_carlo_samples", 2000, "train", train),
    ):
        assert costs.mem_mb(changed(path, value), rule, names) > costs.mem_mb(CONFIG, rule, names)
    for path, value, rule, names in (
        ("images.evaluation.epochs", [0, 80, 81, 82, 83, 84, 85, 86], "game", game),
        ("density.seeds", list(range(20)), "train", train),
    ):
        assert costs.disk(changed(path, value), rule, names) > costs.disk(CONFIG, rule, names)


def test_nobody_asks_for_more_than_may_be_asked_for():
    for most in (10, 60, 2880):
        config = changed("max_runtime", most)
        for rule in RULES:
            for names in (job.wildcards for job in JOBS if job.rule == rule):
                asked = costs.runtime(config, rule, names)
                assert 10 <= asked <= most
                assert asked == most or asked * 60 >= 2 * costs.seconds(config, rule, names)
    assert costs.runtime(changed("max_runtime", 60), "game", first("game")) == 60


def test_a_cpu_is_given_its_time():
    cpu = changed("device", "cpu")
    assert costs.runtime(cpu, "train", first("train", cell="sg")) > costs.runtime(
        CONFIG, "train", first("train", cell="sg")
    )


def test_networks_are_counted_as_they_are():
    from introprior.game.networks import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder

    def mean(*networks) -> float:
        return sum(parameter.numel() for network in networks for parameter in network.parameters()) / 2

    for shape, latent_dim, widths in (
        ((1, 28, 28), 32, (64, 128)),
        ((3, 32, 32), 128, (64, 128, 256)),
        ((3, 32, 32), 10, (24,)),
    ):
        real = mean(ConvEncoder(shape, latent_dim, widths), ConvDecoder(shape, latent_dim, widths))
        assert costs._convolutions(shape, widths, latent_dim).parameters == pytest.approx(real, rel=0.05)
    import torch

    sizes = 2, 2, 256, 4, torch.Generator().manual_seed(0)
    assert costs._mlp(256, 4, 2).parameters == pytest.approx(mean(MLPEncoder(*sizes), MLPDecoder(*sizes)), rel=0.02)


def test_multiply_adds_are_counted_as_they_are():
    """By torch's own counter, at widths that no kernel has to fill up."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from introprior.game.networks import ConvDecoder, ConvEncoder

    shape, latent_dim, widths = (3, 32, 32), 64, (32, 64)
    encoder, decoder = ConvEncoder(shape, latent_dim, widths).eval(), ConvDecoder(shape, latent_dim, widths).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(torch.zeros(1, 1, *shape))
        decoder(torch.zeros(1, 1, latent_dim))
    counted = counter.get_total_flops() / 2 / 2  # two per multiply-add, two networks
    assert costs._convolutions(shape, widths, latent_dim).work.convolved == pytest.approx(counted, rel=0.02)


def test_the_measured_hours_on_a_cpu():
    """What the committed outcomes took: one seed in 2D an hour, fmnist-small 52 minutes on two cores."""
    provenance = json.loads((ROOT / "results/reference/8Gaussian-sg-dt/provenance.json").read_text())
    config = changed("density.seeds", [0])
    names = {"dataset": "8Gaussian", "cell": "sg-dt"}
    told = sum(costs.seconds(config, rule, names, "cpu") for rule in ("train", "evaluate"))
    assert provenance["seconds"] / 2 < told < 2 * provenance["seconds"]
    small = planning.resolve([ROOT / "config/fmnist-small.yaml"], ROOT)
    provenance = json.loads((ROOT / "results/reference/fmnist-small/provenance.json").read_text())
    told = sum(costs.seconds(small, job.rule, job.wildcards, "cpu") for job in planning.jobs(small, ["images"]))
    assert provenance["seconds"] < told < 2.5 * provenance["seconds"]  # two cores


@pytest.mark.parametrize(("cell", "members"), [("sg", 2), ("mog64-lc-ip", 8)])
def test_memory_suffices_and_is_not_boundless(tmp_path, cell, members):
    """Maximal resident memory of a real training at the paper's sizes, but for its length."""
    config = changed("density.seeds", list(range(members)))
    config["device"] = "cpu"
    options = planning.options(config, "train", {"dataset": "8Gaussian", "cell": cell})
    options["training"] |= {"iterations": 6, "warmup_iterations": 3, "mixture_warmup_iterations": 1}
    code = "import resource, sys; from introprior.cli import main; main(sys.argv[1:]);"
    code += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)"
    arguments = ["train", "--options", json.dumps(options), "--betas", "0.2", "0.3", "0.9", "--device", "cpu"]
    files = ["--output", str(tmp_path / "ensemble.pt"), "--history", str(tmp_path / "history.csv")]
    command, alone = [sys.executable, "-c", code, *arguments, *files], {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=alone)
    resident = float(done.stdout.split()[-1])
    with open(tmp_path / "history.csv", newline="") as stream:
        assert len({row["seed"] for row in csv.DictReader(stream)}) == members
    assert resident < costs.mem_mb(config, "train", {"dataset": "8Gaussian", "cell": cell}) < 5 * resident
    size = (tmp_path / "ensemble.pt").stat().st_size
    assert costs.disk(config, "train", {"dataset": "8Gaussian", "cell": cell}) == pytest.approx(size, rel=0.2)
