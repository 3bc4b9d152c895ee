"""Measure speed and memory against a straightforward script: ``python benchmarks/run.py --help``."""

from __future__ import annotations

import argparse
import dataclasses
import gc
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from baseline import Script, Settings, image_networks, plane_networks
from baseline import kl as naive_kl
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from introprior.data import density as data
from introprior.errors import UserError
from introprior.evaluation.density import negative_elbo, plane
from introprior.experiment.run import DensityRun, DensityTraining, ImageRun, ImageTraining, Member
from introprior.game.distributions import GaussianMixture, Posterior, Samples
from introprior.game.divergences import kl_monte_carlo
from introprior.game.model import IntroVAE
from introprior.game.priors.gaussian import StandardGaussian
from introprior.game.priors.mixture import LearnedMixture
from introprior.operations.files import write_json
from introprior.training.adam import Adam
from introprior.training.density import begin
from introprior.training.images import networks
from introprior.training.loop import Training

BATCH, SAMPLES, COMPONENTS, DIM = 512, 100, 64, 2
DATASET = "8Gaussian"
CELLS = ("sg", "mog64-lc-ip")
BETAS = (0.2, 0.3, 0.9)
IMAGE_CELLS = {"sg": 0.0, "mog100-lc-ip": 10.0}
"""Cells measured on images, and their r_entropy."""
IMAGE_BETAS = (1.0, 1.0, 256.0)
IMAGE_REPEATS = 5

DESCRIPTION = """\
Measure the package against a straightforward script (benchmarks/baseline.py), side by side in one process, at the
paper's sizes: batches of 512, 100 Monte Carlo samples, 64 components, networks of 256, float32; images: see below.
"""
EPILOG = """\
sections:
  kl          one Monte Carlo KL of 512 posteriors to 64 components, 100 samples each, forward and backward
  memory      the most memory that this KL takes at once, and its largest single tensor
  underflow   exp of float32 numbers that underflow, which is why the package's KL works to base two
  step        one adversarial iteration of one model, the cells sg and mog64-lc-ip at the paper's sizes
  ensemble    five models as one ensemble: per model and iteration, against one model of the package and the script
  gnelbo      negative ELBOs of points of the plane, of which a gnELBO takes a million
  images      one adversarial iteration at Fashion-MNIST's sizes (28x28, full width, batch 128, D = 32), of the cells
              sg and mog100-lc-ip (r_entropy 10); iterations take seconds, so there are at most 5 turns
  throughput  an ensemble of --members on a GPU against the script there, in models x iterations per second
  all         every section that the device can run (the default)

how to read it:
  Every line compares two ways of doing the same work. They take turns (A B A B ...), so that whatever else the machine
  is doing disturbs both alike. "ratio" is the median over the turns of their time divided by ours (above 1: the
  package is faster; for memory, needs less), "from" and "to" are the smallest and the largest. Times wobble with the
  machine, ratios less; on a busy machine take --threads 1, since two threads that wait for each other suffer most.

examples:
  python benchmarks/run.py                             everything, on all cores
  python benchmarks/run.py step --threads 1            single-threaded iterations
  python benchmarks/run.py throughput --device cuda    a GPU
  python benchmarks/run.py all --markdown              the table of docs/performance.md
  python benchmarks/run.py all --json bench.json       every single measurement
"""


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        section: where it belongs.
        what: what is measured.
        against: what it is compared with.
        unit: of both lists, ``ms`` or ``MiB``.
        reference, ours: one value per turn.
    """

    section: str
    what: str
    against: str
    unit: str
    reference: list[float]
    ours: list[float]

    @property
    def ratios(self) -> list[float]:
        """``reference / ours``, turn by turn."""
        return [a / b for a, b in zip(self.reference, self.ours, strict=True)]

    @property
    def ratio(self) -> dict[str, float]:
        """Median, smallest and largest ratio."""
        return {"median": statistics.median(self.ratios), "min": min(self.ratios), "max": max(self.ratios)}


@dataclass(frozen=True)
class Setting:
    """Where and how often to measure."""

    device: torch.device
    repeats: int
    members: int

    def compare(self, reference: Callable[[], Any], ours: Callable[[], Any]) -> tuple[list[float], list[float]]:
        """Milliseconds of both, in turns after a warm-up. Quick work is repeated within a turn to last a while."""
        both = (reference, ours)
        slow = [self._seconds(work, 1) > 1 for work in both]
        loops = [1 if s else max(1, round(0.05 / self._seconds(work, 1))) for s, work in zip(slow, both, strict=True)]
        turns: tuple[list[float], list[float]] = ([], [])
        gc.collect()
        gc.disable()
        try:
            for _ in range(self.repeats):
                for work, loop, times in zip(both, loops, turns, strict=True):
                    times.append(1e3 * self._seconds(work, loop))
        finally:
            gc.enable()
        return turns

    def _seconds(self, work: Callable[[], Any], loop: int) -> float:
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


def kl(setting: Setting) -> Iterator[Row]:
    """The Monte Carlo KL: what the encoder's step asks of it, and what the prior's does."""
    for what, learns in (("posteriors learn", slice(0, 2)), ("mixture learns", slice(2, 5))):
        reference, ours = kl_both_ways(setting.device, learns)
        difference = (reference()[0] - ours()[0]).abs().max()
        if not difference < 1e-3:
            raise SystemExit(f"kl: the two ways differ by {difference} nats; what they time is not the same work")
        yield Row("kl", f"KL forward and backward, {what}", "script", "ms", *setting.compare(reference, ours))


def memory(setting: Setting) -> Iterator[Row]:
    """Peak memory of the KL and its largest tensor, which must not have samples x components x dimensions."""
    three_way = SAMPLES * BATCH * COMPONENTS * DIM * torch.finfo(torch.float32).bits / 8 / 2**20
    for what, learns in (("posteriors learn", slice(0, 2)), ("mixture learns", slice(2, 5))):
        reference, ours = kl_both_ways(setting.device, learns)
        theirs, own = Memory(), Memory()
        for work, watch in ((reference, theirs), (ours, own)):
            work()
            with watch:
                work()
        if own.largest >= three_way:
            raise SystemExit(f"memory: a tensor of {own.largest:.1f} MiB; samples x components x dimensions are back")
        yield Row("memory", f"peak of a KL forward and backward, {what}", "script", "MiB", [theirs.peak], [own.peak])
        yield Row("memory", f"largest tensor of it, {what}", "script", "MiB", [theirs.largest], [own.largest])


def underflow(setting: Setting) -> Iterator[Row]:
    """What a power costs where it underflows, e^-200, beside e^-1 and beside 2^x."""
    shape = (BATCH * SAMPLES, COMPONENTS)
    moderate, tiny = (torch.full(shape, value, device=setting.device) for value in (-1.0, -200.0))
    out = torch.empty_like(tiny)
    for what, ours in (
        ("exp(-1)", lambda: torch.exp(moderate, out=out)),
        ("exp2(-1)", lambda: torch.exp2(moderate, out=out)),
        ("exp2(-200)", lambda: torch.exp2(tiny, out=out)),
    ):
        yield Row("underflow", what, "exp(-200)", "ms", *setting.compare(lambda: torch.exp(tiny, out=out), ours))


def step(setting: Setting) -> Iterator[Row]:
    """An adversarial iteration of one model."""
    for cell in CELLS:
        training = in_the_game(cell, 1, setting.device)
        script = iterations(script_like(training))
        yield Row("step", f"iteration, {cell}", "script", "ms", *setting.compare(script, training.step))


def ensemble(setting: Setting) -> Iterator[Row]:
    """Five models at once, beside one of the package and beside the script, per model."""
    for cell in CELLS:
        five, one = in_the_game(cell, 5, setting.device), in_the_game(cell, 1, setting.device)
        for against, reference in (("1 model", one.step), ("script", iterations(script_like(one)))):
            single, together = setting.compare(reference, five.step)
            per_model = [ms / 5 for ms in together]
            yield Row("ensemble", f"iteration per model, 5 x {cell}", against, "ms", single, per_model)


def gnelbo(setting: Setting) -> Iterator[Row]:
    """Negative ELBOs of 8,192 points, under a mixture of 64 components."""
    training = in_the_game("mog64-lc-ip", 1, setting.device)
    script = script_like(training)
    points, noise = plane(2.0, 1024, setting.device)[::128], torch.randn(SAMPLES, DIM, device=setting.device)
    with torch.no_grad():
        times = setting.compare(
            lambda: script.negative_elbo(points, noise),
            lambda: negative_elbo(training.model, points, noise.unsqueeze(0)),
        )
    yield Row("gnelbo", f"negative ELBO of {len(points)} points, mog64-lc-ip", "script", "ms", *times)


def images(setting: Setting) -> Iterator[Row]:
    """An adversarial iteration on images."""
    few = dataclasses.replace(setting, repeats=min(setting.repeats, IMAGE_REPEATS))
    for cell in IMAGE_CELLS:
        training, x = on_images(cell, setting.device)
        script = script_like(training)
        times = few.compare(lambda script=script, x=x: script.step(x[0]), training.step)
        yield Row("images", f"iteration, Fashion-MNIST, {cell}", "script", "ms", *times)


def throughput(setting: Setting) -> Iterator[Row]:
    """As many models as a grid search has in a slice, on a GPU."""
    if setting.device.type != "cuda":
        raise UserError("throughput: made for a GPU; add --device cuda, or measure the section ensemble")
    for cell in CELLS:
        many = in_the_game(cell, setting.members, setting.device)
        single, together = setting.compare(iterations(script_like(many)), many.step)
        per_model = [ms / setting.members for ms in together]
        what = f"iteration per model, {setting.members} x {cell}"
        yield Row("throughput", what, "script", "ms", single, per_model)


SECTIONS: dict[str, Callable[[Setting], Iterator[Row]]] = {
    section.__name__: section for section in (kl, memory, underflow, step, ensemble, gnelbo, images, throughput)
}


# What it takes


def kl_both_ways(device: torch.device, learns: slice) -> tuple[Callable[[], list[Tensor]], Callable[[], list[Tensor]]]:
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

    def reference() -> list[Tensor]:
        value = naive_kl(mean, logvar, (means, logvars, tensors[4]), noise)
        return [value.detach(), *torch.autograd.grad(value.mean(), leaves)]

    def ours() -> list[Tensor]:
        value = kl_monte_carlo(Posterior(mean, logvar), mixture, Samples(noise))
        return [value.detach(), *torch.autograd.grad(value.mean(), leaves)]

    return reference, ours


def in_the_game(cell: str, members: int, device: torch.device) -> Training:
    """An ensemble at the paper's sizes, a few iterations after the game began; its members differ in their seeds."""
    numbers = DensityTraining(warmup_iterations=20, mixture_warmup_iterations=10)
    ensemble = tuple(a_member(seed, BETAS) for seed in range(members))
    training = begin(DensityRun(dataset=DATASET, cell=cell, members=ensemble, training=numbers), device)
    while training.iteration < numbers.warmup_iterations + 5:
        training.step()
    return training


def a_member(seed: int, betas: tuple[float, float, float]) -> Member:
    """A member with these weights."""
    return Member(seed=seed, beta_rec=betas[0], beta_kl=betas[1], beta_neg=betas[2])


def on_images(cell: str, device: torch.device) -> tuple[Training, Tensor]:
    """A run at Fashion-MNIST's sizes on the verge of the game, and the batch that it always gets.

    Networks are untrained and images are noise, which takes as long as any others; the mixture covers the latent space
    about as a trained one does.
    """
    numbers = ImageTraining(r_entropy=IMAGE_CELLS[cell])
    run = ImageRun(dataset="FMNIST", cell=cell, members=(a_member(0, IMAGE_BETAS),), training=numbers)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, numbers.batch_size, *numbers.shape, generator=generator).to(device)
    training = Training(
        run, IntroVAE(*networks(run), StandardGaussian(torch.zeros(1, numbers.latent_dim))), lambda *_: x, device
    )
    if run.cell.family.components:
        size = (1, run.cell.size, numbers.latent_dim)
        means, logvars = (torch.randn(size, generator=generator) for _ in range(2))
        logits = torch.randn(size[:2], generator=generator)
        prior = LearnedMixture(
            means, 0.3 * logvars - 1, logits, learnable_contributions=run.cell.learnable_contributions
        ).to(device)
        training.model.prior = prior
        training.optimizers["prior"] = Adam(prior.parameters(), numbers.learning_rate)
    training.iteration = training.game_start
    training.step()
    return training, x


def script_like(training: Training) -> Script:
    """The script, where the ensemble's first member stands."""
    run, model = training.run, training.model
    cell, on_images = run.cell, isinstance(run, ImageRun)
    networks = image_networks() if on_images else plane_networks()
    r_entropy, (member, *_) = run.training.r_entropy, run.members
    betas = member.beta_rec, member.beta_kl, member.beta_neg or 0.0
    settings = Settings(*betas, scale=training.rules.scale, r_entropy=r_entropy)
    arguments = cell.size, cell.intro_prior, cell.learnable_contributions, settings, on_images
    script = Script(networks, *arguments, device=training.device)
    mixture: dict[str, Tensor] = {}
    if isinstance(model.prior, LearnedMixture):
        names = ("means", "logvars", "logits") + ("low", "high") * cell.intro_prior
        mixture = {name: getattr(model.prior, name)[0] for name in names}
    first = slice(None) if on_images else 0  # convolutions have no member axis
    script.load(*([tensor[first] for tensor in net.parameters()] for net in (model.encoder, model.decoder)), mixture)
    return script


def iterations(script: Script) -> Callable[[], tuple[float, float]]:
    """An iteration of the script at every call, data included."""
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


HEADER = (
    f"{'section':10} {'what':50} {'against':10} {'theirs':>9} {'ours':>9} {'':4} {'ratio':>7} {'from':>7} {'to':>7}"
)


def line(row: Row) -> str:
    """One row of the plain table."""
    reference, ours = (f"{statistics.median(values):9.2f}" for values in (row.reference, row.ours))
    median, low, high = (f"{value:7.2f}" for value in row.ratio.values())
    return f"{row.section:10} {row.what:50} {row.against:10} {reference} {ours} {row.unit:4} {median} {low} {high}"


def markdown(rows: Sequence[Row]) -> str:
    """The table of docs/performance.md."""
    head = ["| section | what | against | ratio | from | to |", "| --- | --- | --- | ---: | ---: | ---: |"]
    body = ((row.section, row.what, row.against, *(f"{value:.2f}" for value in row.ratio.values())) for row in rows)
    return "\n".join(head + [f"| {' | '.join(row)} |" for row in body])


def environment(setting: Setting) -> dict[str, Any]:
    """What the numbers hold for."""
    gpu = torch.cuda.get_device_name(setting.device) if setting.device.type == "cuda" else None
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": processor(),
        "gpu": gpu,
        "threads": torch.get_num_threads(),
        "repeats": setting.repeats,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan,
        "sizes": {"batch": BATCH, "samples": SAMPLES, "components": COMPONENTS, "dimensions": DIM, "dtype": "float32"},
        "images": {"batch": 128, "samples": SAMPLES, "shape": [1, 28, 28], "widths": [64, 128], "dimensions": 32},
    }


def processor() -> str:
    """The processor's name, where Linux tells."""
    try:
        with open("/proc/cpuinfo") as info:
            return next(text.split(":", 1)[1].strip() for text in info if text.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sections", nargs="*", default=["all"], metavar="section", help="see below; default: all")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N; default: cpu")
    parser.add_argument("--threads", type=int, help="threads of a CPU; default: all cores")
    parser.add_argument("--repeats", type=int, default=15, help="turns of each comparison; default: 15")
    parser.add_argument(
        "--members", type=int, default=120, help="size of the section throughput's ensemble; default: 120"
    )
    parser.add_argument("--markdown", action="store_true", help="print the table of docs/performance.md")
    parser.add_argument("--json", metavar="FILE", help="write every single measurement to FILE")
    return parser.parse_args(arguments)


def settle(options: argparse.Namespace) -> tuple[list[str], Setting]:
    """Check what was asked for."""
    unknown = [name for name in options.sections if name not in SECTIONS and name != "all"]
    if unknown:
        raise UserError(f"unknown section {unknown[0]!r}; known: {', '.join(SECTIONS)}, all")
    for name in ("threads", "repeats", "members"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name}: {value} is not positive")
    try:
        device = torch.device(options.device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device: cannot use {options.device!r} here ({str(error).splitlines()[0]})") from error
    if options.threads:
        torch.set_num_threads(options.threads)
    names = list(SECTIONS) if "all" in options.sections else list(dict.fromkeys(options.sections))
    if "all" in options.sections and device.type != "cuda":
        names.remove("throughput")
    return names, Setting(device, options.repeats, options.members)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmarks."""
    options = parse(arguments)
    try:
        names, setting = settle(options)
        about = environment(setting)
        where = about["gpu"] or f"{about['processor']}, {about['threads']} threads"
        print(f"torch {about['torch']} on {where}, float32, load {about['load']:.1f}", file=sys.stderr)
        if not options.markdown:
            print(HEADER)
        rows = []
        for name in names:
            for row in SECTIONS[name](setting):
                rows.append(row)
                print(line(row), file=sys.stderr if options.markdown else sys.stdout, flush=True)
        if options.markdown:
            print(markdown(rows))
        if options.json:
            write_json(
                options.json, {"environment": about, "rows": [{**vars(row), "ratio": row.ratio} for row in rows]}
            )
    except UserError as error:
        sys.exit(f"benchmarks/run.py: {error}")


if __name__ == "__main__":
    main()
