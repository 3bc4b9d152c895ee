"""Flow: a normalising flow (RealNVP, Dinh et al. 2017), made with zuko. It isn't in the paper.

It learns in the warm-up with the ELBO and, with IP, in cooperation with the decoder. Having no components, it has no
responsibilities and no contributions; its KL is the contract's default, Monte Carlo over the log-density.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import zuko
from torch import Tensor, nn
from torch.func import functional_call

from introprior.errors import UserError
from introprior.game.distributions import Distribution
from introprior.game.priors import Encode, Prior, Start

TRANSFORMS, HIDDEN = 4, (32, 32)
"""Coupling layers, and the hidden layers of the network in each."""

Parameters = dict[str, Tensor]


class _Ask(nn.Module):
    """A flow that can be asked under other parameters than its own, which ``functional_call`` puts in their place."""

    def __init__(self, latent_dim: int):
        super().__init__()
        self.flow = zuko.flows.RealNVP(latent_dim, transforms=TRANSFORMS, hidden_features=HIDDEN)

    def forward(self, values: Tensor, sampling: bool) -> Tensor:
        """Log-density of z ``[..., D]``, or z of standard normal numbers."""
        distribution = self.flow()
        output: Tensor = distribution.transform.inv(values) if sampling else distribution.log_prob(values)
        return output


class FlowDistribution(Distribution):
    """The density of a flow under the parameters of all members, ``[E, ...]``, or of one.

    zuko's layers multiply the last axes of weights and values and let the others broadcast, so an ensemble is one flow
    whose values have the member axis beside the last.

    >>> axis = torch.linspace(-6, 6, 61)
    >>> density = Flow(2)(None).member(0).log_prob(torch.cartesian_prod(axis, axis)).exp()
    >>> round(density.sum().item() * 0.2**2, 3)  # its integral
    1.0
    """

    def __init__(self, ask: _Ask, parameters: Parameters, ensemble: bool = True):
        self.ask, self.parameters, self.ensemble = ask, parameters, ensemble

    def log_prob(self, z: Tensor) -> Tensor:
        return self._asked(z, sampling=False)

    def sample_with(self, noise: Tensor, uniforms: Tensor) -> Tensor:
        return self._asked(noise, sampling=True)

    def detach(self) -> FlowDistribution:
        return FlowDistribution(self.ask, {n: p.detach() for n, p in self.parameters.items()}, self.ensemble)

    def member(self, index: int) -> FlowDistribution:
        return FlowDistribution(self.ask, {n: p[index] for n, p in self.parameters.items()}, ensemble=False)

    def _asked(self, values: Tensor, sampling: bool) -> Tensor:
        values = values.transpose(0, 1) if self.ensemble else values
        output: Tensor = functional_call(self.ask, self.parameters, (values, sampling))
        return output.transpose(0, 1) if self.ensemble else output


class Flow(Prior):
    """A flow for each member; its parameters are the flow's, with a member axis.

    Args:
        latent_dim: D, at least 2: a coupling layer needs dimensions to split.
        tensors: parameters and buffers by name; None: those that zuko starts with, for one member.

    >>> flow = Flow(2)
    >>> flow(None).log_prob(torch.zeros(1, 3, 2)).shape
    torch.Size([1, 3])
    """

    family, waits = "flow", True  # zuko's coupling layers look up which dimensions they keep

    def __init__(self, latent_dim: int, tensors: Mapping[str, Tensor] | None = None):
        super().__init__()
        if latent_dim < 2:
            raise UserError(f"flow: needs at least 2 latent dimensions, got {latent_dim}")
        self.latent_dim = latent_dim
        self.ask = _Ask(latent_dim)
        for name, parameter in self.named_parameters():
            parameter.data = parameter.data.unsqueeze(0) if tensors is None else tensors[name].clone()

    @classmethod
    def begin(cls, start: Start) -> Flow:
        flows = []
        for generator in start.generators:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
                flows.append(cls(start.latent_dim).state_dict())
        return cls(start.latent_dim, {name: torch.cat([own[name] for own in flows]) for name in flows[0]})

    def forward(self, encode: Encode | None) -> FlowDistribution:
        return FlowDistribution(self.ask, dict(self.ask.named_parameters()))

    def shared(self) -> Iterable[str]:
        """Which dimensions a coupling layer keeps, and the base: the same for all members."""
        return [name for name, _ in self.named_buffers()]

    def plain(self) -> dict[str, Any]:
        return {"latent_dim": self.latent_dim}

    @classmethod
    def restore(cls, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> Flow:
        return cls(plain["latent_dim"], tensors)
