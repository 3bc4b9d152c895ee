"""docs/add-a-prior.md, its code as it stands there: a family of priors from outside, through the whole workflow."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytest.importorskip("snakemake")

from runs import a_member, density_run

from introprior.errors import UserError
from introprior.experiment import families
from introprior.experiment.cells import Cell
from introprior.experiment.config import Configuration
from introprior.game.distributions import Posterior, Samples
from introprior.game.divergences import kl_monte_carlo
from introprior.game.priors import Start
from tests import warm
from tests.commands import rows
from tests.projects import Project

PAGE = (Path(__file__).parents[2] / "docs" / "add-a-prior.md").read_text()
TINY = """\
density:
  datasets: [8Gaussian]
  seeds: [0, 1]
  training: {iterations: 12, warmup_iterations: 4, mixture_warmup_iterations: 2, batch_size: 16,
             monte_carlo_samples: 3, hidden_width: 8, milestones: [9]}
  evaluation: {samples: 200, grid: 16, data_points: 32, monte_carlo_samples: 3}
"""


def block(language: str) -> str:
    """The page's block of code in a language."""
    (code,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return code


@pytest.fixture
def torus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The page's module, entered as a configuration enters it, and taken out again."""
    monkeypatch.delenv(families.PRIORS, raising=False)
    (tmp_path / "torus.py").write_text(block("python"))
    with monkeypatch.context() as patch:
        patch.setattr(families, "FAMILIES", known := dict(families.FAMILIES))
        patch.setattr("introprior.experiment.cells.FAMILIES", known)
        patch.setattr(families, "_FILES", {})
        patch.setenv(families.PRIORS, "")
        families.add(["torus"], "priors", [tmp_path])
        yield sys.modules[families.FAMILIES["torus"].module]


def test_the_density_integrates_to_one_and_samples_follow_it(torus):
    distribution = torus.TorusDistribution(torch.tensor([0.3]), torch.tensor([-0.7]))
    axis = torch.linspace(-8, 8, 1201, dtype=torch.float64)
    plane = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    density = distribution.log_prob(plane).exp()
    area = (axis[1] - axis[0]) ** 2
    assert (density.sum() * area).item() == pytest.approx(1, abs=2e-3)
    z = distribution.sample(200_000, 2, torch.Generator().manual_seed(0)).double()
    for function in (lambda z: z.norm(dim=-1), lambda z: z[:, 0] * z[:, 1], lambda z: z[:, 0].abs()):
        expected = (density * function(plane)).sum() * area
        assert function(z).mean().item() == pytest.approx(expected.item(), abs=0.02)
    mean_log = distribution.log_prob(z).mean()
    entropy = 0.5 * (1 + math.log(2 * math.pi)) - 0.7 + 2 * 0.3 + math.log(2 * math.pi)  # of log r, r^2, the angle
    assert -mean_log.item() == pytest.approx(entropy, abs=0.02)


def test_gradients_reach_every_parameter_in_both_roles(torus):
    prior = torus.Torus(torch.zeros(2, 1), torch.full((2, 1), -1.0))
    posterior = Posterior(torch.randn(2, 5, 2), torch.zeros(2, 5, 2))
    for loss in (
        lambda p: kl_monte_carlo(posterior, p, Samples(torch.randn(2, 7, 5, 2))),
        lambda p: p.sample_with(torch.randn(2, 5, 2), torch.rand(2, 5)).square(),
    ):
        prior.zero_grad()
        loss(prior(None)).sum().backward()
        assert all((parameter.grad != 0).all() for parameter in prior.parameters())
        assert not loss(prior(None).detach()).requires_grad


def test_a_stopped_training_goes_on_to_the_same_bits_and_members_are_as_if_alone(torus, tmp_path):
    from introprior.training import checkpoints, density

    sizes = {"iterations": 12, "warmup_iterations": 4, "mixture_warmup_iterations": 2, "batch_size": 16}
    sizes |= {"hidden_width": 8, "monte_carlo_samples": 3}

    def begun(*seeds: int) -> density.Training:
        return density.begin(density_run("torus-ip", [a_member(s, 0.2, 0.3, 0.9) for s in seeds], **sizes), CPU)

    whole, stopped, alone = begun(0, 1), begun(0, 1), begun(1)
    whole.advance(12)
    alone.advance(12)
    stopped.advance(7)
    checkpoints.save(tmp_path / "state.pt", stopped.state())
    again = begun(0, 1)
    again.restore(checkpoints.load(tmp_path / "state.pt"), tmp_path / "state.pt")
    again.advance(12)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name])
        torch.testing.assert_close(tensor[1:], alone.model.state_dict()[name])
    assert whole.model.prior.log_radii.abs().max() > 0  # it has learned


CPU = torch.device("cpu")


def test_what_it_does_not_know_is_refused_in_one_line(torus):
    for name, words in (
        ("torus-lc", "no contributions"),
        ("torus-ip-unclipped", "clipped"),
        ("torus4", "unknown cell"),
    ):
        with pytest.raises(UserError, match=words):
            Cell.parse(name)
    config = Configuration()
    known = Configuration.read({"tables": {"table2": [*config.tables.table2, "torus-ip"]}}, "configuration")
    assert known.r_entropies("torus-ip") == (0.0,)
    start = Start(3, 1, False, lambda n: torch.zeros(1, n, 2), [torch.Generator()])
    with pytest.raises(UserError, match="even number of latent dimensions, got 3"):
        torus.Torus.begin(start)


def test_the_page_as_it_stands_makes_table_1(tmp_path):
    project = Project(tmp_path, tiny=TINY)
    (project.folder / "config/torus.py").write_text(block("python"))
    (project.folder / "config/torus.yaml").write_text(block("yaml"))
    snakemake, by_hand = (line for line in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL))
    arguments = [*snakemake.split()[1:], "tiny.yaml"]  # --configfile takes several
    code, printed = project.snakemake(*arguments)
    assert code == 0, printed[-3000:]
    made = rows(project.folder / "results/torus/tables/table1.csv")
    for cell in ("torus", "torus-ip"):
        assert any(row["cell"] == cell and row["metric"] == "KL" and float(row["mean"]) > 0 for row in made)
    assert "Torus" in (project.folder / "results/torus/tables/table1.md").read_text()

    (project.folder / "config/torus.py").write_text(block("python") + "\n# another version\n")
    code, printed = project.snakemake("-n", *arguments)
    assert code == 0, printed
    again = set(re.findall(r"8Gaussian ([\w-]+): (?:training|evaluation)", printed))
    assert again == {"torus", "torus-ip"}, printed

    small = "training.iterations=12 --set training.warmup_iterations=4 --set training.mixture_warmup_iterations=2"
    variable, _, *words = by_hand.replace("\\\n", "").replace("training.iterations=3000", small).split()
    environment = project.environment | dict([variable.split("=")])
    command = [warm.programs() / "introprior", *words]
    done = subprocess.run(command, cwd=project.folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (project.folder / "ensemble.pt").exists()
