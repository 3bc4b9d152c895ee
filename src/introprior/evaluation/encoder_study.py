"""The encoder alone in the game, overfitted against synthetic distributions made of a few images (supplement 2.2.3).

Decoder and prior stay as they were trained, so what the encoder makes of an image depends on the shares that the image
has in p_data and in p_d: it reaches the VAE's optimum where p_data covers p_d, and repels what only p_d holds.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from introprior.data.images.splits import to_unit
from introprior.errors import UserError
from introprior.experiment.run import Run
from introprior.game import losses
from introprior.game.distributions import Distribution
from introprior.game.losses import Betas, Rules, Terms, reconstruction_error
from introprior.game.model import IntroVAE
from introprior.game.randomness import MemberStreams, streams_of
from introprior.training import loop
from introprior.training.adam import Adam

SINGLE = 0
"""Which of the images makes up a distribution of one."""

KINDS = ("real", "fake")


def one_per_class(images: Tensor, labels: Tensor) -> Tensor:
    """The first image of each class, in the order of the labels: ``[N, C, H, W]`` to ``[classes, C, H, W]``.

    Of one class alone, or without labels, the first ten.
    """
    classes = labels.unique()
    if len(classes) < 2:
        return images[:10]
    return torch.stack([images[(labels == label).nonzero()[0, 0]] for label in classes])


def configurations(count: int) -> tuple[tuple[list[int], list[int]], ...]:
    """Which of the images make up p_data and p_d: (i) all and all, (ii) one and all, (iii) all and one."""
    everything, single = list(range(count)), [SINGLE]
    return (everything, everything), (single, everything), (everything, single)


def loss(
    model: IntroVAE,
    real: Tensor,
    fake: Tensor,
    target: Distribution,
    streams: MemberStreams,
    betas: Betas,
    rules: Rules,
) -> Tensor:
    """L_E (Eq. 98) where the fakes are given instead of decoded; decoder and prior are to be constant.

    Only what is given counts as a fake, reconstructions do not, in either protocol; and there is no responsibility
    entropy, which says nothing about batches of one.

    Args:
        real, fake: ``[1, B, C, H, W]`` in [0, 1], each a batch of its own.
        target: the prior, constant.

    Returns:
        ``[1, B]``.
    """
    of_real, of_fake = (_pass(model, x, target, streams, rules)[0] for x in (real, fake))
    return losses.encoder_objective(of_real, of_fake, betas, rules)


class Measured(NamedTuple):
    """Each image alone: reconstruction error and KL ``[N]`` in nats, reconstructions ``[N, C, H, W]``."""

    rec: Tensor
    kl: Tensor
    outputs: Tensor


@torch.no_grad()
def measure(model: IntroVAE, images: Tensor, target: Distribution, rules: Rules, seed: int) -> Measured:
    """Pass each image ``[N, C, H, W]``, in [0, 1], alone through the networks in their present mode.

    The noise depends on the seed alone; ``target`` is the prior.
    """
    streams = streams_of([seed], images.device)
    results = [_pass(model, image[None, None], target, streams, rules) for image in images]
    rec, kl = (torch.stack(parts).flatten() for parts in zip(*(terms for terms, _ in results), strict=True))
    return Measured(rec, kl, torch.cat([output.squeeze(0) for _, output in results]))


def study(
    model: IntroVAE,
    run: Run,
    images: Tensor,
    *,
    iterations: int,
    beta_negs: Sequence[float],
    device: torch.device,
    seed: int = 0,
    points: int = 50,
    label: str = "",
) -> dict[str, np.ndarray]:
    """Overfit copies of the encoder, for each beta_neg and each of the three :func:`configurations`.

    In every iteration one image of p_data and one of p_d pass through the networks, each alone and in training mode:
    BatchNorm would let larger batches tell their samples about each other. All copies see the same random numbers.

    Args:
        model: trained; it is left as it was. A VampPrior is taken as the mixture that it is at the start.
        run: what the model was trained as; its learning rate, beta_rec, beta_kl and loss scale apply.
        images: uint8 ``[N, C, H, W]``, one per class.
        beta_negs: B of them, 1 and the practical one in the paper.
        points: measurements along the way, the first before and the last after training.

    Returns:
        ``iterations`` [T] and ``beta_neg`` [B]; ``rec``, ``kl`` and ``nelbo`` (their sum), float32 [B, 3, 2, T]: means
        over the images of p_data and over those of p_d, NaN from where a loss was not finite; and for each beta b and
        configuration c the images ``real_{b}_{c}``, ``fake_{b}_{c}`` and, after the last iteration (after the last
        measurement where it diverged), ``real_rec_{b}_{c}``, ``fake_rec_{b}_{c}``, uint8 [n, C, H, W].

    Raises:
        UserError: a model that has diverged.
    """
    schedule = np.unique(np.linspace(0, iterations, points).round().astype(np.int64))
    pixels = to_unit(images).to(device, torch.get_default_dtype())
    pairs = configurations(len(images))
    rec, kl = (np.full((len(beta_negs), len(pairs), len(KINDS), len(schedule)), np.nan, np.float32) for _ in range(2))
    arrays: dict[str, np.ndarray] = {"iterations": schedule, "beta_neg": np.array(beta_negs, dtype=np.float64)}
    bar = tqdm(total=len(beta_negs) * len(pairs) * iterations, desc=label, unit="it", mininterval=2.0)
    with bar:
        for b, beta_neg in enumerate(beta_negs):
            betas = loop.betas(run.members[0])._replace(neg=beta_neg)
            for c, pair in enumerate(pairs):
                bar.set_postfix(beta_neg=f"{beta_neg:g}", configuration="i" * (c + 1), refresh=False)
                last: Tensor | None = None
                for t, measured in enumerate(_overfitted(model, run, pixels, pair, betas, seed, schedule, bar)):
                    if not torch.isfinite(measured.rec + measured.kl).all():
                        break
                    for k, chosen in enumerate(pair):
                        rec[b, c, k, t] = measured.rec[chosen].mean().item()
                        kl[b, c, k, t] = measured.kl[chosen].mean().item()
                    last = (measured.outputs.clamp(0, 1) * 255).round().byte().cpu()
                bar.update((b * len(pairs) + c + 1) * iterations - bar.n)  # where it diverged
                if last is None:
                    raise UserError("encoder study: the model's losses are not finite; take one that has not diverged")
                for kind, chosen in zip(KINDS, pair, strict=True):
                    arrays[f"{kind}_{b}_{c}"] = images[chosen].cpu().numpy()
                    arrays[f"{kind}_rec_{b}_{c}"] = last[chosen].numpy()
    return arrays | {"rec": rec, "kl": kl, "nelbo": rec + kl}


def _overfitted(
    model: IntroVAE,
    run: Run,
    pixels: Tensor,
    pair: tuple[list[int], list[int]],
    betas: Betas,
    seed: int,
    schedule: np.ndarray,
    bar: tqdm,
) -> Iterator[Measured]:
    """What a copy of the model, whose encoder learns, makes of the images at each iteration of a rising schedule."""
    model = copy.deepcopy(model).to(pixels.device).train()
    rules, streams = loop.rules(run), streams_of([seed], pixels.device)
    with torch.no_grad():
        target = model.distribution()
    sides = [torch.tensor(chosen, device=pixels.device) for chosen in pair]
    adam = Adam(model.encoder.parameters(), run.training.learning_rate)
    for steps in np.diff(schedule, prepend=0):
        with losses.learning(model.encoder, among=model):
            for _ in range(steps):
                real, fake = (pixels[chosen[streams.integers(len(chosen), 1)]] for chosen in sides)
                adam.zero_grad()
                loss(model, real, fake, target, streams, betas, rules).mean().backward()
                adam.step()
                bar.update()
        yield measure(model, pixels, target, rules, seed + 1)  # by noise that training does not draw from


def _pass(
    model: IntroVAE, x: Tensor, target: Distribution, streams: MemberStreams, rules: Rules
) -> tuple[Terms, Tensor]:
    """Error, KL ``[1, B]`` and reconstructions of one batch ``[1, B, C, H, W]``."""
    posterior = model.encode(x)
    output = model.decode(posterior.sample(streams.normal(*posterior.mean.shape[-2:])))
    kl = losses.divergence(posterior, target, streams, rules)
    return Terms(reconstruction_error(x, output, model.event_dims), kl), output
