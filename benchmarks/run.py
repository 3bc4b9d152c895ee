"""Measure the package against a straightforward script (benchmarks/baseline.py), side by side in one process.

Everything has the paper's sizes: batches of 512, 100 Monte Carlo samples, 64 components, networks of 256, float32;
images those of Fashion-MNIST (28x28, full width, batches of 128, D = 32).

sections:
  kl          one Monte Carlo KL of 512 posteriors to 64 components, 100 samples each, forward and backward
  memory      the most memory that this KL takes at once, and its largest single tensor
  underflow   exp of float32 numbers that underflow, which is why the package's KL works to base two
  step        one adversarial iteration of one model, the cells sg and mog64-lc-ip
  ensemble    five models as one ensemble: per model and iteration, against one model of the package and the script
  gnelbo      negative ELBOs of points of the plane, of which a gnELBO takes a million
  images      one adversarial iteration, the cells sg and mog100-lc-ip (r_entropy 10); at most 5 turns
  throughput  an ensemble of --members on a GPU against the script there, per model and iteration
  all         every section that the device can run (the default)

Every line compares two ways of doing the same work, which take turns (A B A B ...), so that whatever else the machine
is doing disturbs both alike. "theirs" and "ours" are medians over the turns, in ms or MiB; "ratio" is that of theirs by
ours (above 1: the package is faster, or needs less memory), "from" and "to" are the smallest and the largest. On a busy
machine take --threads 1.

  python benchmarks/run.py step --threads 1            single-threaded iterations
  python benchmarks/run.py throughput --device cuda    a GPU
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from baseline import Script, image_networks, plane_networks
from baseline import kl as naive_kl
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from introprior.data import density as data
from introprior.evaluation.density import negative_elbo, plane
from introprior.experiment.run import DensityRun, DensityTraining, ImageRun, ImageTraining, Member
from introprior.game.distributions import GaussianMixture, Posterior, Samples
from introprior.game.divergences import kl_monte_carlo
from introprior.game.model import IntroVAE
from introprior.game.priors.gaussian import StandardGaussian
from introprior.game.priors.mixture import LearnedMixture
from introprior.training.adam import Adam
from introprior.training.density import begin
from introprior.training.images import networks
from introprior.training.loop import Training

BATCH, SAMPLES, COMPONENTS, DIM = 512, 100, 64, 2
DATASET, CELLS, BETAS = "8Gaussian", ("sg", "mog64-lc-ip"), (0.2, 0.3, 0.9)
IMAGE_CELLS, IMAGE_BETAS, IMAGE_REPEATS = {"sg": 0.0, "mog100-lc-ip": 10.0}, (1.0, 1.0, 256.0), 5

Work = Callable[[], Any]


Turns = tuple[list[float], list[float]]
"""A value per turn of both ways, the reference first: milliseconds, or MiB."""

Row = tuple[str, str, Turns]
"""What is compared, and against what."""


@dataclass(frozen=True)
class Setting:
    """Where and how often to measure."""

    device: torch.device
    repeats: int
    members: int

    def compare(self, reference: Work, ours: Work) -> Turns:
        """Milliseconds of both, in turns after a warm-up. Quick work is repeated within a turn to last a while."""
        both, turns = (reference, ours), ([], [])
        slow = [self._seconds(work, 1) > 1 for work in both]
        loops = [1 if s else max(1, round(0.05 / self._seconds(work, 1))) for s, work in zip(slow, both, strict=True)]
        gc.collect()
        gc.disable()
        try:
            for _ in range(self.repeats):
                for work, loop, times in zip(both, loops, turns, strict=True):
                    times.append(1e3 * self._seconds(work, loop))
        finally:
            gc.enable()
        return turns

    def per_model(self, reference: Work, ours: Work, members: int) -> Turns:
        """The same, where ours does the work of so many models."""
        single, together = self.compare(reference, ours)
        return single, [ms / members for ms in together]

    def _seconds(self, work: Work, loop: int) -> float:
        self._wait()
        start = time.perf_counter()
        for _ in range(loop):
            work()
        self._wait()
        return (time.perf_counter() - start) / loop

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


# What is measured


KL_BY_WHAT_LEARNS = {"posteriors learn": slice(0, 2), "mixture learns": slice(2, 5)}


def kl(setting: Setting) -> Iterator[Row]:
    for what, learns in KL_BY_WHAT_LEARNS.items():
        reference, ours = kl_both_ways(setting.device, learns)
        difference = (reference()[0] - ours()[0]).abs().max()
        assert difference < 1e-3, f"the two ways differ by {difference} nats; what they time is not the same work"
        yield f"KL forward and backward, {what}", "script", setting.compare(reference, ours)


def memory(setting: Setting) -> Iterator[Row]:
    three_way = SAMPLES * BATCH * COMPONENTS * DIM * 4 / 2**20
    for what, learns in KL_BY_WHAT_LEARNS.items():
        watches = []
        for work in kl_both_ways(setting.device, learns):
            work()
            with Memory() as watch:
                work()
            watches.append(watch)
        theirs, own = watches
        assert own.largest < three_way, f"a tensor of {own.largest:.1f} MiB; samples x components x dimensions are back"
        yield f"peak of a KL forward and backward, {what}", "script", ([theirs.peak], [own.peak])
        yield f"largest tensor of it, {what}", "script", ([theirs.largest], [own.largest])


def underflow(setting: Setting) -> Iterator[Row]:
    shape = (BATCH * SAMPLES, COMPONENTS)
    moderate, tiny = (torch.full(shape, value, device=setting.device) for value in (-1.0, -200.0))
    out = torch.empty_like(tiny)
    for what, ours in (
        ("exp(-1)", lambda: torch.exp(moderate, out=out)),
        ("exp2(-1)", lambda: torch.exp2(moderate, out=out)),
        ("exp2(-200)", lambda: torch.exp2(tiny, out=out)),
    ):
        yield what, "exp(-200)", setting.compare(lambda: torch.exp(tiny, out=out), ours)


def step(setting: Setting) -> Iterator[Row]:
    for cell in CELLS:
        training = in_the_game(cell, 1, setting.device)
        yield f"iteration, {cell}", "script", setting.compare(iterations(training), training.step)


def ensemble(setting: Setting) -> Iterator[Row]:
    for cell in CELLS:
        five, one = in_the_game(cell, 5, setting.device), in_the_game(cell, 1, setting.device)
        for against, reference in (("1 model", one.step), ("script", iterations(one))):
            yield f"iteration per model, 5 x {cell}", against, setting.per_model(reference, five.step, 5)


def gnelbo(setting: Setting) -> Iterator[Row]:
    training = in_the_game("mog64-lc-ip", 1, setting.device)
    script = Script.like(training, plane_networks())
    points, noise = plane(2.0, 1024, setting.device)[::128], torch.randn(SAMPLES, DIM, device=setting.device)
    with torch.no_grad():
        times = setting.compare(
            lambda: script.negative_elbo(points, noise), lambda: negative_elbo(training.model, points, noise[None])
        )
    yield f"negative ELBO of {len(points)} points, mog64-lc-ip", "script", times


def images(setting: Setting) -> Iterator[Row]:
    few = dataclasses.replace(setting, repeats=min(setting.repeats, IMAGE_REPEATS))
    for cell in IMAGE_CELLS:
        training, x = on_images(cell, setting.device)
        script = Script.like(training, image_networks(), as_on_images=True)
        times = few.compare(lambda script=script, x=x: script.step(x[0]), training.step)
        yield f"iteration, Fashion-MNIST, {cell}", "script", times


def throughput(setting: Setting) -> Iterator[Row]:
    for cell in CELLS:
        many = in_the_game(cell, setting.members, setting.device)
        times = setting.per_model(iterations(many), many.step, setting.members)
        yield f"iteration per model, {setting.members} x {cell}", "script", times


SECTIONS: dict[str, Callable[[Setting], Iterator[Row]]] = {
    section.__name__: section for section in (kl, memory, underflow, step, ensemble, gnelbo, images, throughput)
}


# What it takes


def kl_both_ways(device: torch.device, learns: slice) -> tuple[Work, Work]:
    """The script's KL and the package's of the same posteriors, with gradients for the tensors ``learns``.

    The mixture covers the plane about as a trained one does: components of standard deviation 0.6, as far apart as
    samples of N(0, 4), and posteriors a bit narrower than its components.
    """
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    mean, logvar = normal(BATCH, DIM), 0.3 * normal(BATCH, DIM) - 2
    means, logvars = 2 * normal(COMPONENTS, DIM), 0.3 * normal(COMPONENTS, DIM) - 1
    noise = normal(SAMPLES, BATCH, DIM)
    tensors = [mean, logvar, means, logvars, torch.log_softmax(normal(COMPONENTS), 0)]
    leaves = [tensor.requires_grad_() for tensor in tensors[learns]]
    mixture = GaussianMixture(*tensors[2:])

    def both(value: Tensor) -> list[Tensor]:
        return [value.detach(), *torch.autograd.grad(value.mean(), leaves)]

    return (
        lambda: both(naive_kl(mean, logvar, (means, logvars, tensors[4]), noise)),
        lambda: both(kl_monte_carlo(Posterior(mean, logvar), mixture, Samples(noise))),
    )


def a_member(dataset: str, seed: int, betas: tuple[float, float, float]) -> Member:
    return Member(dataset=dataset, seed=seed, beta_rec=betas[0], beta_kl=betas[1], beta_neg=betas[2])


def in_the_game(cell: Any, members: int, device: torch.device) -> Training:
    """An ensemble at the paper's sizes, a few iterations after the game began; its members differ in their seeds."""
    numbers = DensityTraining(warmup_iterations=20, mixture_warmup_iterations=10)
    together = tuple(a_member(DATASET, seed, BETAS) for seed in range(members))
    training = begin(DensityRun(cell=cell, members=together, training=numbers), device)
    while training.iteration < numbers.warmup_iterations + 5:
        training.step()
    return training


def on_images(cell: Any, device: torch.device) -> tuple[Training, Tensor]:
    """A run at Fashion-MNIST's sizes on the verge of the game, and the batch that it always gets.

    Networks are untrained and images are noise, which takes as long as any others; the mixture covers the latent space
    about as a trained one does.
    """
    numbers = ImageTraining(r_entropy=IMAGE_CELLS[cell])
    run = ImageRun(cell=cell, members=(a_member("FMNIST", 0, IMAGE_BETAS),), training=numbers)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, numbers.batch_size, *numbers.shape, generator=generator).to(device)
    training = Training(
        run, IntroVAE(*networks(run), StandardGaussian(torch.zeros(1, numbers.latent_dim))), lambda *_: x, device
    )
    if run.cell.family.components:
        size, lc = (1, run.cell.size, numbers.latent_dim), run.cell.learnable_contributions
        means, logvars = (torch.randn(size, generator=generator) for _ in range(2))
        logits = torch.randn(size[:2], generator=generator)
        prior = LearnedMixture(
            means, 0.3 * logvars - 1, logits, learnable_contributions=lc, steepness=numbers.clip_steepness
        ).to(device)
        training.model.prior = prior
        training.optimizers["prior"] = Adam(prior.parameters(), numbers.learning_rate)
    training.iteration = training.game_start
    training.step()
    return training, x


def iterations(training: Training) -> Work:
    """An iteration of the script at every call, data included, from where the ensemble's first member stands."""
    script = Script.like(training, plane_networks())
    generator = torch.Generator(script.device).manual_seed(0)
    return lambda: script.step(data.sample(DATASET, BATCH, generator))


class Memory(TorchDispatchMode):
    """Sizes in MiB of the tensors that operations make while it is on: the largest, and most of them held at once.

    What an operation takes and gives back while it runs is not seen, which flatters the script alone: its logsumexp
    keeps a copy of its argument for a while.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, tuple[StorageWeakRef, float]] = {}
        self.largest = self.peak = 0.0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {id(tensor) for tensor in (*args, *(kwargs or {}).values())}
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor) and id(tensor) not in before:
                storage = tensor.untyped_storage()
                self.held[storage._cdata] = StorageWeakRef(storage), storage.nbytes() / 2**20
                self.largest = max(self.largest, storage.nbytes() / 2**20)
        self.held = {key: value for key, value in self.held.items() if not value[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.held.values()))
        return result


# How it is shown


def line(section: str, row: Row) -> str:
    """A row of the table of docs/performance.md."""
    what, against, turns = row
    ratios = [reference / ours for reference, ours in zip(*turns, strict=True)]
    spread = (statistics.median(ratios), min(ratios), max(ratios))
    numbers = [f"{value:.2f}" for value in (*map(statistics.median, turns), *spread)]
    return f"| {' | '.join((section, what, against, *numbers))} |"


def environment(setting: Setting) -> str:
    """What the numbers hold for."""
    gpu = torch.cuda.get_device_name(setting.device) if setting.device.type == "cuda" else None
    device = gpu or f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    versions = f"torch {torch.__version__}, python {platform.python_version()}"
    return f"{versions}, {device}, load {os.getloadavg()[0]}, repeats {setting.repeats}"


def main() -> None:
    """Run the benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", default=["all"], choices=[*SECTIONS, "all"], metavar="section")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of a CPU; default: all cores")
    parser.add_argument("--repeats", type=int, default=15, help="turns of each comparison; default: 15")
    parser.add_argument("--members", type=int, default=120, help="of the section throughput's ensemble; default: 120")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    setting = Setting(given.device, max(1, given.repeats), max(1, given.members))
    names = [name for name in SECTIONS if name in given.sections or "all" in given.sections]
    if setting.device.type != "cuda" and "throughput" in names:
        print("throughput: made for a GPU; left out", file=sys.stderr)
        names.remove("throughput")
    print(environment(setting), file=sys.stderr)
    print("| section | what | against | theirs | ours | ratio | from | to |\n|---|---|---|---:|---:|---:|---:|---:|")
    for name in names:
        for row in SECTIONS[name](setting):
            print(line(name, row), flush=True)


if __name__ == "__main__":
    main()
