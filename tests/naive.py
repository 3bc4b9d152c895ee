"""Oracles: the paper's equations and the authors' procedure, written out step by step in plain PyTorch.

Nothing here calls the package: sums over components are three-way broadcasts, the losses are loops over samples, each
kind of batch has a pass of its own, and gradients that nobody uses are computed all the same. Meant for float64.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy, deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Mixtures and divergences


class Mixture(NamedTuple):
    """Terms and log-variances ``[..., M, D]``, normalised log-weights ``[..., M]``."""

    means: Tensor
    logvars: Tensor
    log_weights: Tensor

    def detach(self) -> Mixture:
        return Mixture(*(part.detach() for part in self))


def log_gaussian(z: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    return (-0.5 * (math.log(2 * math.pi) + logvar + (z - mean) ** 2 / logvar.exp())).sum(-1)


def log_joint(z: Tensor, mixture: Mixture) -> Tensor:
    """``log w_k N(z; mu_k, sigma_k)``: ``[..., N, D]`` to ``[..., N, M]``, by way of ``[..., N, M, D]``."""
    components = log_gaussian(z.unsqueeze(-2), mixture.means.unsqueeze(-3), mixture.logvars.unsqueeze(-3))
    return mixture.log_weights.unsqueeze(-2) + components


def log_prob(z: Tensor, mixture: Mixture) -> Tensor:
    return torch.logsumexp(log_joint(z, mixture), -1)


def responsibilities(z: Tensor, mixture: Mixture) -> Tensor:
    joint = log_joint(z, mixture)
    return (joint - torch.logsumexp(joint, -1, keepdim=True)).exp()


def posterior_samples(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    return mean.unsqueeze(-3) + (logvar.unsqueeze(-3) / 2).exp() * noise


def kl_monte_carlo(mean: Tensor, logvar: Tensor, mixture: Mixture, noise: Tensor) -> Tensor:
    """Eq. 99 with Eq. 100 for every sample."""
    z = posterior_samples(mean, logvar, noise)
    log_q = log_gaussian(z, mean.unsqueeze(-3), logvar.unsqueeze(-3))
    log_p = log_prob(z.flatten(-3, -2), mixture).unflatten(-1, z.shape[-3:-1])
    return (log_q - log_p).mean(-2)


def mean_responsibilities(mean: Tensor, logvar: Tensor, mixture: Mixture, noise: Tensor) -> Tensor:
    """Eq. 11."""
    return responsibilities(posterior_samples(mean, logvar, noise).flatten(-3, -2), mixture).mean(-2)


def kl_closed_form(mean: Tensor, logvar: Tensor) -> Tensor:
    return sum(0.5 * (m**2 + v.exp() - v - 1) for m, v in zip(mean.unbind(-1), logvar.unbind(-1), strict=True))


def cauchy_schwarz(mean: Tensor, logvar: Tensor, mixture: Mixture) -> Tensor:
    """By the definition, each integral of a product of two Gaussians on its own, posterior by posterior."""

    def integral(p: Sequence[tuple[Tensor, Tensor, Tensor]], q: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        return sum(a * b * log_gaussian(m, n, (v.exp() + u.exp()).log()).exp() for a, m, v in p for b, n, u in q)

    p = list(zip(mixture.log_weights.exp(), mixture.means, mixture.logvars, strict=True))
    posteriors, of_p = [[(torch.ones(()), m, v)] for m, v in zip(mean, logvar, strict=True)], integral(p, p)
    return torch.stack([-(integral(q, p) / (integral(q, q) * of_p).sqrt()).log() for q in posteriors])


def draw(mixture: Mixture, noise: Tensor, uniforms: Tensor) -> Tensor:
    """Samples of one mixture by inversion of the cumulative weights, one by one."""
    rows = []
    for e, u in zip(noise, uniforms, strict=True):
        k, cumulative = 0, mixture.log_weights[0].exp()
        while u >= cumulative and k < len(mixture.means) - 1:
            k += 1
            cumulative = cumulative + mixture.log_weights[k].exp()
        rows.append(mixture.means[k] + (mixture.logvars[k] / 2).exp() * e)
    return torch.stack(rows)


# Soft clipping


def soft_clip(x: Tensor, low: Tensor, high: Tensor, steepness: float) -> Tensor:
    """Eq. 10 with Eq. 93; the two logarithms taken without overflow."""
    beta, zero = steepness / (high - low), torch.zeros(())
    return x + (torch.logaddexp(zero, beta * (low - x)) - torch.logaddexp(zero, beta * (x - high))) / beta


def soft_clip_of_the_authors(x: Tensor, low: Tensor, high: Tensor, steepness: float = 10.0) -> Tensor:
    """The form of the authors' code: 1e-8 added to the range, softplus linear beyond 20."""
    beta = steepness / ((high - low).abs() + 1e-8)

    def softplus(u: Tensor) -> Tensor:
        scaled = beta * u
        return torch.where(scaled > 20, u, torch.log(1 + scaled.clamp(max=20).exp()) / beta)

    return x - softplus(x - high) + softplus(low - x)


class Choices(NamedTuple):
    """What the two protocols differ in."""

    scale: float
    reconstructions: bool
    fresh_noise: bool
    normalised: bool
    gamma_r_terms: bool
    alpha: float = 2.0
    gamma: float = 1.0
    gamma_r: float = 1e-8
    r_entropy: float = 0.0
    closed_form: bool = False
    cauchy_schwarz: bool = False
    detached_target: bool = False
    """A departure from the procedure, to show that it matters: the target of a reconstruction's own error."""


PROTOCOLS = {
    "authors": Choices(scale=0.5, reconstructions=True, fresh_noise=True, normalised=True, gamma_r_terms=False),
    "text": Choices(scale=1.0, reconstructions=False, fresh_noise=False, normalised=False, gamma_r_terms=True),
}


# The losses of Eq. 98, sample by sample. A kind of fakes is a pair (reconstruction errors, KLs).

Kind = tuple[Tensor, Tensor]


def squared_error(target: Tensor, output: Tensor) -> Tensor:
    return torch.stack([((a - b) ** 2).sum() for a, b in zip(target, output, strict=True)])


def encoder_loss(real: Kind, fakes: Sequence[Kind], betas: Sequence[float], scale: float, alpha: float) -> Tensor:
    beta_rec, beta_kl, beta_neg = betas
    losses = []
    for i in range(len(real[0])):
        loss = scale * (beta_rec * real[0][i] + beta_kl * real[1][i])
        for rec, kl in fakes:
            loss = loss + torch.exp(-alpha * scale * (beta_rec * rec[i] + beta_neg * kl[i])) / (alpha * len(fakes))
        losses.append(loss)
    return torch.stack(losses)


def decoder_loss(real: Kind, fakes: Sequence[Kind], betas: Sequence[float], choices: Choices) -> Tensor:
    """L_D with all terms, the crossed-out one too."""
    beta_rec, beta_kl, _ = betas
    losses = []
    for i in range(len(real[0])):
        loss = beta_rec * real[0][i] + beta_kl * real[1][i]
        for rec, kl in fakes:
            loss = loss + choices.gamma * (beta_kl * kl[i] + choices.gamma_r * beta_rec * rec[i]) / len(fakes)
        losses.append(choices.scale * loss)
    return torch.stack(losses)


def prior_loss(real: Kind, fakes: Sequence[Kind], betas: Sequence[float], choices: Choices) -> Tensor:
    """L_P with all terms, the crossed-out ones too (these have the whole weight in Eq. 9)."""
    return decoder_loss(real, [(rec / choices.gamma_r, kl) for rec, kl in fakes], betas, choices)


def responsibility_penalty(shares: Tensor, r_entropy: float, scale: float, normalised: bool) -> Tensor:
    penalty = r_entropy * sum(c * torch.log(c + 1e-8) for c in shares)
    if not normalised:
        return penalty
    return scale * penalty / (math.log(len(shares)) if math.log(len(shares)) > 1 else 1)


# The procedure, one member


class Replay:
    """Random numbers recorded from a member of the code under test, handed out again shape by shape."""

    def __init__(self) -> None:
        self.queues: dict[int, list[Tensor]] = defaultdict(list)

    def keep(self, values: Tensor) -> None:
        self.queues[values.dim()].append(values)

    def normal(self) -> Tensor:
        """The next ``[B, D]``."""
        return self.queues[2].pop(0)

    def draws(self) -> Tensor:
        """The next ``[T, B, D]``."""
        return self.queues[3].pop(0)

    def uniform(self) -> Tensor:
        """The next ``[B]``."""
        return self.queues[1].pop(0)

    def used_up(self) -> bool:
        return not any(self.queues.values())


def listen(streams: Any) -> list[Replay]:
    """Have a Streams of the package keep what it hands out from now on, member by member."""
    replays = [Replay() for _ in range(streams.spread.members)]

    def kept(source: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def draw(*shape: int) -> Tensor:
            values = source(*shape)
            for replay, row in zip(replays, values, strict=True):
                replay.keep(row)
            return values

        return draw

    def moments(draws: int, *shape: int) -> tuple[Tensor, Tensor]:
        first, second = spared(draws, *shape)
        for replay, mean, square in zip(replays, first, second, strict=True):
            replay.keep(with_moments(draws, mean, square))
        return first, second

    spared = copy_of(streams).moments
    streams.normal, streams.uniform, streams.moments = kept(streams.normal), kept(streams.uniform), moments
    return replays


def copy_of(streams: Any) -> Any:
    """The same streams, drawing from the same generators, that nobody listens to."""
    other = copy(streams)
    other.__dict__ = {
        name: value for name, value in vars(streams).items() if name not in ("normal", "uniform", "moments")
    }
    return other


def with_moments(draws: int, mean: Tensor, square: Tensor) -> Tensor:
    """Numbers ``[T, ...]`` of this mean and mean square: pairs about the mean, and the mean itself if T is odd."""
    pairs = draws // 2
    deviation = (draws * (square - mean * mean).clamp(min=0) / max(2 * pairs, 1)).sqrt()
    return torch.stack([mean + deviation] * pairs + [mean - deviation] * pairs + [mean] * (draws % 2))


Terms = dict[str, Tensor]
"""Terms of the losses, before any mean."""


class EncoderStep(NamedTuple):
    """What the decoder's step takes over from the encoder's."""

    mean: Tensor
    logvar: Tensor
    z: Tensor
    real_kl: Tensor
    prior_noise: tuple[Tensor, Tensor]
    terms: Terms


class Model:
    """A copy of one member of an ensemble: flat lists of weights and biases, and the prior's tensors by name."""

    def __init__(self, model: Any, member: int):
        def copy(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.detach()[member].clone().requires_grad_()

        self.encoder: list[Any] = [copy(parameter) for parameter in model.encoder.parameters()]
        self.decoder: list[Any] = [copy(parameter) for parameter in model.decoder.parameters()]
        names = ("pseudo_inputs", "means", "logvars", "logits", "low", "high")
        self.prior: dict[str, Any] = {n: copy(getattr(model.prior, n)) for n in names if hasattr(model.prior, n)}
        self.contributions = getattr(model.prior, "learnable_contributions", False)

    def players(self) -> dict[str, list[Tensor]]:
        """Who owns which parameters."""
        names = ["pseudo_inputs", "means", "logvars", *(["logits"] if self.contributions else [])]
        return {
            "encoder": self.encoder,
            "decoder": self.decoder,
            "prior": [self.prior[name] for name in names if name in self.prior],
        }

    def convert(self, keep_contributions: bool, isotropic: bool) -> None:
        """From VampPrior to free mixture; without ``keep_contributions`` the probabilities become the logits."""
        means, logvars, log_weights = self.mixture().detach()
        logvars = logvars.mean(1, keepdim=True) if isotropic else logvars
        logits = log_weights if keep_contributions else log_weights.exp()
        self.prior = {name: t.clone().requires_grad_() for name, t in zip(
            ("means", "logvars", "logits"), (means, logvars, logits), strict=True
        )} | {"low": None, "high": None}  # fmt: skip

    def clip(self) -> None:
        """From now on, to the range that the log-variances span now."""
        logvars = self.prior["logvars"].detach()
        self.prior |= {"low": logvars.amin(0, keepdim=True), "high": logvars.amax(0, keepdim=True)}

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out = _mlp(self.encoder, x)
        half = out.shape[1] // 2
        return out[:, :half], out[:, half:]

    def decode(self, z: Tensor) -> Tensor:
        return _mlp(self.decoder, z)

    def mixture(self) -> Mixture:
        if not self.prior:
            dim = self.decoder[0].shape[1]
            return Mixture(torch.zeros(1, dim), torch.zeros(1, dim), torch.zeros(1))
        energies = self.prior["logits"].exp()
        log_weights = (energies / energies.sum()).log()
        if "pseudo_inputs" in self.prior:
            return Mixture(*self.encode(self.prior["pseudo_inputs"]), log_weights)
        logvars = self.prior["logvars"]
        if self.prior["low"] is not None:
            logvars = soft_clip_of_the_authors(logvars, self.prior["low"].detach(), self.prior["high"].detach())
        return Mixture(self.prior["means"], logvars.expand_as(self.prior["means"]), log_weights)


class ImageModel(Model):
    """The same of an image run's only member: networks of convolutions, each called for one batch at a time.

    Their layers are the package's (tests/test_networks.py), in training mode throughout.
    """

    def __init__(self, model: Any):
        super().__init__(model, 0)
        self.networks = deepcopy(model.encoder), deepcopy(model.decoder)
        self.encoder, self.decoder = (list(network.parameters()) for network in self.networks)

    def buffers(self) -> list[Tensor]:
        """The running statistics of both networks."""
        return [buffer for network in self.networks for buffer in network.buffers()]

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.networks[0](x.unsqueeze(0))
        return mean.squeeze(0), logvar.squeeze(0)

    def decode(self, z: Tensor) -> Tensor:
        return self.networks[1](z.unsqueeze(0)).squeeze(0)

    def mixture(self) -> Mixture:
        if not self.prior:
            dim = self.networks[0].head.out_features // 2
            return Mixture(torch.zeros(1, dim), torch.zeros(1, dim), torch.zeros(1))
        if "pseudo_inputs" not in self.prior:
            return super().mixture()
        inputs = torch.where(self.prior["pseudo_inputs"] > 0, self.prior["pseudo_inputs"], 0.0)
        log_weights = torch.log_softmax(self.prior["logits"], -1)
        return Mixture(*self.encode(torch.where(inputs < 1, inputs, 1.0)), log_weights)


def _mlp(parameters: Sequence[Tensor], x: Tensor) -> Tensor:
    for i in range(0, len(parameters), 2):
        x = x @ parameters[i].T + parameters[i + 1]
        x = x.clamp(min=0) if i + 2 < len(parameters) else x
    return x


def _divergence(replay: Replay, choices: Choices) -> Callable[[Tensor, Tensor, Mixture], Tensor]:
    if choices.cauchy_schwarz:
        return cauchy_schwarz
    if choices.closed_form:
        return lambda mean, logvar, mixture: kl_closed_form(mean, logvar)
    return lambda mean, logvar, mixture: kl_monte_carlo(mean, logvar, mixture, replay.draws())


def _fake_kls(
    codes: Sequence[tuple[Tensor, Tensor]], mixture: Mixture, replay: Replay, choices: Choices
) -> list[Tensor]:
    """The divergence of each kind of fakes; noise is drawn for all kinds at once, kind after kind."""
    if choices.cauchy_schwarz or choices.closed_form:
        return [_divergence(replay, choices)(mean, logvar, mixture) for mean, logvar in codes]
    noises = replay.draws().chunk(len(codes), 1)
    return [kl_monte_carlo(*code, mixture, noise) for code, noise in zip(codes, noises, strict=True)]


def warmup_step(
    model: Model, x: Tensor, replay: Replay, betas: Sequence[float], choices: Choices
) -> tuple[Tensor, Terms]:
    """beta_rec rec + beta_kl KL, everything attached."""
    mean, logvar = model.encode(x)
    output = model.decode(mean + (logvar / 2).exp() * replay.normal())
    kl, rec = _divergence(replay, choices)(mean, logvar, model.mixture()), squared_error(x, output)
    return (betas[0] * rec + betas[1] * kl).mean(), {"real_rec": rec, "real_kl": kl}


def encoder_step(
    model: Model, x: Tensor, replay: Replay, betas: Sequence[float], choices: Choices, prior_learns: bool = False
) -> tuple[Tensor, EncoderStep]:
    """L_E, mean over the batch; a prior that learns is attached for the real data and nowhere else."""
    of_real = model.mixture()
    mixture = of_real.detach()
    of_real = of_real if prior_learns else mixture
    mean, logvar = model.encode(x)
    z = mean + (logvar / 2).exp() * replay.normal()
    prior_noise = replay.normal(), replay.uniform()
    fake = model.decode(draw(mixture, *prior_noise))
    reconstruction = model.decode(z)
    kinds = [fake, reconstruction] if choices.reconstructions else [fake]
    codes = [model.encode(kind.detach()) for kind in kinds]
    noises = replay.normal().chunk(len(codes))
    outputs = [model.decode(m + (v / 2).exp() * e) for (m, v), e in zip(codes, noises, strict=True)]
    divergence = _divergence(replay, choices)
    kls = _fake_kls(codes, mixture, replay, choices)
    fakes = [
        (squared_error(kind.detach() if choices.detached_target else kind, output), kl)
        for kind, output, kl in zip(kinds, outputs, kls, strict=True)
    ]
    penalty: Tensor | float = 0.0
    if choices.closed_form or (choices.cauchy_schwarz and not choices.r_entropy):
        kl = divergence(mean, logvar, of_real)
    else:
        noise = replay.draws()
        kl = kl_monte_carlo(mean, logvar, of_real, noise)
        kl = cauchy_schwarz(mean, logvar, of_real) if choices.cauchy_schwarz else kl
        shares = mean_responsibilities(mean, logvar, of_real, noise)
        penalty = responsibility_penalty(shares, choices.r_entropy, choices.scale, choices.normalised)
    real = squared_error(x, reconstruction), kl
    losses = encoder_loss(real, fakes, betas, choices.scale, choices.alpha)
    names = ("real_rec", "real_kl", "fake_rec", "fake_kl")  # of fakes, those of the decoded prior samples
    terms = dict(zip(names, (*real, *fakes[0]), strict=True))
    return losses.mean() + penalty, EncoderStep(
        mean.detach(), logvar.detach(), z.detach(), kl.detach(), prior_noise, terms
    )


def decoder_step(
    model: Model,
    x: Tensor,
    step: EncoderStep,
    replay: Replay,
    betas: Sequence[float],
    choices: Choices,
    prior_learns: bool,
) -> tuple[Tensor, Terms]:
    """L_D with the prior's terms, which are those of L_P, mean over the batch; the encoder is the updated one."""
    real, fakes = decoder_terms(model, x, step, replay, choices, prior_learns)
    return decoder_loss(real, fakes, betas, choices).mean(), {"decoder_fake_kl": fakes[0][1]}


def decoder_terms(
    model: Model, x: Tensor, step: EncoderStep, replay: Replay, choices: Choices, prior_learns: bool
) -> tuple[Kind, list[Kind]]:
    """Errors and divergences of real data and of each kind of fake."""
    mixture = model.mixture()
    prior_noise = (replay.normal(), replay.uniform()) if choices.fresh_noise else step.prior_noise
    fake = model.decode(draw(mixture, *prior_noise))
    reconstruction = model.decode(step.z)
    kinds = [fake, reconstruction] if choices.reconstructions else [fake]
    codes = [model.encode(kind) for kind in kinds]
    divergence = _divergence(replay, choices)
    kls = _fake_kls(codes, mixture.detach(), replay, choices)
    errors = [torch.zeros(len(x)) for _ in kinds]
    if choices.gamma_r_terms:
        noises = replay.normal().chunk(len(codes))
        latents = [m + (v / 2).exp() * e for (m, v), e in zip(codes, noises, strict=True)]
        errors = [
            squared_error(kind.detach(), model.decode(latent.detach()))
            for kind, latent in zip(kinds, latents, strict=True)
        ]
    real_kl = divergence(step.mean, step.logvar, mixture) if prior_learns else step.real_kl
    return (squared_error(x, reconstruction), real_kl), list(zip(errors, kls, strict=True))


# The whole procedure


class Adam:
    """Kingma and Ba (2015), Algorithm 1."""

    def __init__(self, parameters: Sequence[Tensor]):
        self.parameters, self.t = parameters, 0
        self.m, self.v = ([torch.zeros_like(p) for p in parameters] for _ in range(2))

    def step(self, learning_rate: float) -> None:
        self.t += 1
        for i, p in enumerate(self.parameters):
            self.m[i] = 0.9 * self.m[i] + 0.1 * p.grad
            self.v[i] = 0.999 * self.v[i] + 0.001 * p.grad**2
            m, v = self.m[i] / (1 - 0.9**self.t), self.v[i] / (1 - 0.999**self.t)
            p.data -= learning_rate * m / (v.sqrt() + 1e-8)


class Schedule(NamedTuple):
    """Iterations at which things happen, and how."""

    conversion: int
    game: int
    milestones: tuple[int, ...] = ()
    learning_rate: float = 2e-4
    intro_prior: bool = False
    prior_encoder: bool = False
    keep_contributions: bool = False
    isotropic: bool = False
    resets: bool = True
    clipping: int | None = None
    """When the bounds of the log-variances are taken; None: never."""


def train(
    model: Model,
    batches: Iterable[Tensor],
    replay: Replay,
    betas: Sequence[float],
    choices: Choices,
    schedule: Schedule,
) -> Iterator[int]:
    """One member from its beginning, an iteration for each batch; yields after each."""
    adams = {name: Adam(parameters) for name, parameters in model.players().items()}

    def update(loss: Tensor, *players: str) -> None:
        loss.backward()
        for player in players:
            adams[player].step(schedule.learning_rate * 0.1 ** sum(i >= m for m in schedule.milestones))
        for parameter in (p for parameters in model.players().values() for p in parameters):
            parameter.grad = None

    for i, x in enumerate(batches):
        if i == schedule.conversion and model.prior:
            model.convert(schedule.keep_contributions, schedule.isotropic)
            renewed = model.players() if schedule.resets else {"prior": model.players()["prior"]}
            adams |= {name: Adam(parameters) for name, parameters in renewed.items()}
        if i == schedule.clipping:
            model.clip()
        if i < schedule.game:
            update(warmup_step(model, x, replay, betas, choices)[0], "encoder", "decoder", "prior")
        else:
            loss, step = encoder_step(model, x, replay, betas, choices, schedule.prior_encoder)
            update(loss, "encoder", *(["prior"] if schedule.prior_encoder else []))
            loss, _ = decoder_step(model, x, step, replay, betas, choices, schedule.intro_prior)
            update(loss, "decoder", *(["prior"] if schedule.intro_prior else []))
        yield i
