"""For work after the runs, in a notebook or a script: a trained model, and the numbers of all runs.

``introprior.load`` and ``introprior.results`` are these functions; the tutorial, docs/tutorial.md, uses them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from introprior.data.images.splits import load as load_images
from introprior.data.images.splits import to_unit
from introprior.errors import UserError, one_line
from introprior.evaluation.density import Ensemble
from introprior.evaluation.images import Snapshots, estimate_running_statistics, stream
from introprior.experiment.run import DensityRun, ImageRun, Member
from introprior.game.distributions import Distribution, Gaussian, Posterior
from introprior.game.model import IntroVAE
from introprior.reporting import read
from introprior.training import checkpoints
from introprior.training.density import DATA_DIM, networks


@dataclass(repr=False)
class Trained:
    """One trained run: a member of a 2D ensemble, or a run on images at one of its snapshots.

    Data are points ``[N, 2]`` or images ``[N, C, H, W]``, floats in [0, 1] or bytes; codes z are ``[N, D]``. What is
    given may be anything that torch makes a tensor of; what comes back are float32 tensors on the model's device.
    Parameters take no gradients, inputs do.

    Attributes:
        model: the networks and the prior, in evaluation mode, with a member axis of 1.
        run: what was trained: cell, weights, training, protocol.
        member: which of its members this is: dataset, seed, betas.
        record: how its training ended: status (ok or diverged), detail.
        folder: where its history and metrics lie.
        epoch: of the snapshot, on images; else None.
    """

    model: IntroVAE
    run: DensityRun | ImageRun
    member: Member
    record: dict[str, Any]
    folder: Path
    epoch: int | None = None

    def __repr__(self) -> str:
        epoch = "" if self.epoch is None else f", epoch {self.epoch}"
        name = f"{self.member.dataset} {self.run.cell.name}, seed {self.member.seed}{epoch}"
        return f"<{name}: {self.record['status']}>"

    # ---- The three players ----

    @property
    def prior(self) -> Distribution:
        """p(z); ``prior.components()`` are means ``[M, D]``, log-variances ``[M, D]`` and log-weights ``[M]``, or None
        where it has no components."""
        return self.model.distribution().member(0)

    def encode(self, x: Any) -> Posterior:
        """Posteriors q(z|x) of data: mean and log-variance, ``[N, D]`` each.

        Raises:
            UserError: data of another shape.
        """
        posterior = self.model.encode(self._tensor("x", x, "N", *self._shape).unsqueeze(0))
        return Posterior(posterior.mean[0], posterior.logvar[0])

    def decode(self, z: Any) -> Tensor:
        """Means of p(x|z), data. Images may leave [0, 1].

        Raises:
            UserError: codes of another dimension.
        """
        return self.model.decode(self._tensor("z", z, "N", self.model.latent_dim).unsqueeze(0))[0]

    def reconstruct(self, x: Any) -> Tensor:
        """What the decoder makes of the posteriors' means."""
        return self.decode(self.encode(x).mean)

    def log_prob(self, z: Any) -> Tensor:
        """Log-density of the prior in nats, ``[N]``."""
        return self.prior.log_prob(self._tensor("z", z, "N", self.model.latent_dim))

    def sample_prior(self, count: int, component: int | None = None, seed: int = 0) -> Tensor:
        """Samples of the prior, or of one of its components (from 0): codes, the same ones for the same seed.

        Raises:
            UserError: less than one sample; a component that the prior does not have.
        """
        if count < 1:
            raise UserError(f"count: must be at least 1, is {count}")
        prior, device = self.prior, next(self.model.parameters()).device
        if component is not None:
            mixture = prior.components()
            if mixture is None:
                raise UserError(f"component: the prior of {self.run.cell.name} has none; leave it out")
            if not 0 <= component < len(mixture.means):
                raise UserError(f"component: must be from 0 to {len(mixture.means) - 1}, is {component}")
            prior = Gaussian(mixture.means[component], mixture.logvars[component])
        return prior.sample(count, self.model.latent_dim, torch.Generator(device).manual_seed(seed))

    def sample(self, count: int, component: int | None = None, seed: int = 0) -> Tensor:
        """Generated data: what the decoder makes of :meth:`sample_prior`."""
        return self.decode(self.sample_prior(count, component, seed))

    def interpolate(self, a: Any, b: Any, steps: int = 9) -> Tensor:
        """What the decoder makes of the straight line between the posteriors' means of two data, ends included.

        Args:
            a, b: a point ``[2]`` or an image ``[C, H, W]`` each.
            steps: at least 2.

        Returns:
            ``[steps, *data]``.
        """
        if steps < 2:
            raise UserError(f"steps: must be at least 2, is {steps}")
        ends = [self._tensor(name, x, *self._shape) for name, x in (("a", a), ("b", b))]
        start, end = self.encode(torch.stack(ends)).mean
        return self.decode(torch.lerp(start, end, torch.linspace(0, 1, steps, device=start.device).unsqueeze(-1)))

    # ---- Its numbers ----

    @cached_property
    def history(self) -> pd.DataFrame:
        """How the training went: dataset, cell, seed, quantity, value, and iteration, or on images epoch.

        Raises:
            UserError: no ``history.csv`` lies beside the model.
        """
        return self._own(pd.DataFrame(read.history(self.folder / "history.csv")))

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """What was measured of it, probes included: the columns of :func:`results`.

        Raises:
            UserError: it was not measured yet.
        """
        return self._own(results(self.folder))

    def _own(self, rows: pd.DataFrame) -> pd.DataFrame:
        return rows[rows["seed"] == self.member.seed].reset_index(drop=True)

    @property
    def _shape(self) -> tuple[int, ...]:
        return self.run.training.shape if isinstance(self.run, ImageRun) else (DATA_DIM,)

    def _tensor(self, name: str, values: Any, *shape: int | str) -> Tensor:
        """What is given, refused in one line where it is no tensor or of another shape; a name stands for any size."""
        try:
            found = torch.as_tensor(values, device=next(self.model.parameters()).device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{name}: not numbers that torch takes ({one_line(error)})") from error
        sizes = [size if isinstance(wanted, int) else wanted for size, wanted in zip(found.shape, shape, strict=False)]
        if found.dim() != len(shape) or tuple(sizes) != shape:
            raise UserError(f"{name}: must have the shape [{', '.join(map(str, shape))}], has {list(found.shape)}")
        return to_unit(found) if found.dtype == torch.uint8 else found.float()


def load(
    path: str | Path, seed: int | None = None, epoch: int | None = None, data: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> Trained:  # fmt: skip
    """A trained run, ready to be looked at.

    Args:
        path: its folder, ``results/<experiment>/density/<dataset>/<cell>`` in 2D,
            ``results/<experiment>/images/<dataset>/<cell>/r<r_entropy>/seed<seed>`` on images; or the ``.pt`` file.
        seed: of the ensemble's members; the first by default.
        epoch: of the snapshots; by default the one that ``metrics.csv`` reports, or the last where there is none.
        data: the folder of the prepared dataset, ``results/data/<dataset>``: BatchNorm then normalises by statistics of
            the training set, as codes and responsibilities were measured; else by what training left.
        device: where the model is to be.

    Raises:
        UserError: there is no trained run; it has no such seed or epoch; ``data`` is another dataset's.
    """
    file, device = _checkpoint(Path(path)), torch.device(device)
    if checkpoints.load(file).get("run", {}).get("half") == ImageRun.half:
        return _of_images(file, seed, epoch, data, device)
    for name, value in (("epoch", epoch), ("data", data)):
        if value is not None:
            raise UserError(f"{name}: of no use for a run in 2D; leave it out")
    ensemble = Ensemble.read(file, device)
    run, row = ensemble.run, _chosen("seed", seed, [member.seed for member in ensemble.run.members], file)
    model = checkpoints.restored(networks(run), checkpoints.model_state(ensemble.model, [row]), device)
    return Trained(model.eval().requires_grad_(False), run, run.members[row], ensemble.records[row], file.parent)


def _of_images(
    file: Path, seed: int | None, epoch: int | None, data: str | Path | None, device: torch.device
) -> Trained:
    snapshots = Snapshots.read(file, device)
    run, kept = snapshots.run, sorted(snapshots.states)
    if not kept:
        raise UserError(f"{file}: diverged before its first snapshot; there is no model to load")
    row, measured = _chosen("seed", seed, [member.seed for member in run.members], file), file.with_name("metrics.csv")
    if epoch is None and measured.exists():
        found = {row["metric"]: row["value"] for row in read.metrics([measured]) if row["status"] == "ok"}
        epoch = int(found.get("checkpoint_epoch", kept[-1]))
    epoch = kept[_chosen("epoch", kept[-1] if epoch is None else epoch, kept, file)]
    model = snapshots.model(epoch, device)
    if data is not None:
        split = load_images(data, "train")
        if (name := split.manifest["dataset"]) != run.dataset:
            raise UserError(f"data: {data} is {name}, the run is of {run.dataset}; give the folder of that")
        estimate_running_statistics(model, split, run.training.batch_size, stream(run, epoch, 3, device))
    return Trained(model.eval(), run, run.members[row], snapshots.record, file.parent, epoch)


def _checkpoint(path: Path) -> Path:
    """The one checkpoint in a folder, or the file itself."""
    found = sorted(path.glob("*.pt")) if path.is_dir() else [path]
    if len(found) != 1:
        what = "several .pt files" if found else "no trained run in this folder"
        raise UserError(f"{path}: {what}; give the folder of one, such as results/paper/density/Rings/sg, or its .pt")
    return found[0]


def _chosen(what: str, value: int | None, known: list[int], file: Path) -> int:
    """Where a value stands among the known ones; first where none is given."""
    if value is not None and value not in known:
        raise UserError(f"{what}: {value} is not among those of {file}, {known}; choose one of them")
    return 0 if value is None else known.index(value)


def results(folder: str | Path) -> pd.DataFrame:
    """All metrics of all runs of an experiment, or below any folder of it, floors and probes included.

    Returns:
        a row for each run and metric: dataset, cell, r_entropy (NaN in 2D), seed, metric, value (NaN where the run
        diverged), status, detail.

    Raises:
        UserError: nothing was measured yet; a file is damaged; a run is there twice, as in several experiments.
    """
    return pd.DataFrame(read.measured(folder), columns=read.MEASURED)
