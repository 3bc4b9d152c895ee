"""Networks: sizes as published; members apart; batches apart where BatchNorm couples their samples."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from introprior.errors import UserError
from introprior.game import networks
from introprior.game.model import IntroVAE
from introprior.game.networks import MLP, ConvDecoder, ConvEncoder, Linear, MLPDecoder, MLPEncoder
from introprior.game.priors import Prior


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_2d_networks_have_the_published_sizes():
    sizes = (2, 2, 256, 4, generator())
    assert parameters(MLPEncoder(*sizes)) == 199_172
    assert parameters(MLPDecoder(*sizes)) == 198_658


@pytest.mark.parametrize(
    ("shape", "latent_dim", "widths", "encoder", "decoder"),
    [
        ((1, 28, 28), 32, (64, 128), 928_512, 697_025),
        ((3, 32, 32), 128, (64, 128, 256), 3_382_848, 2_382_531),
    ],
)
def test_image_networks_have_the_published_sizes(shape, latent_dim, widths, encoder, decoder):
    networks = ConvEncoder(shape, latent_dim, widths), ConvDecoder(shape, latent_dim, widths)
    assert [parameters(network) for network in networks] == [encoder, decoder]
    mean, logvar = networks[0](torch.rand(1, 2, *shape))
    assert mean.shape == logvar.shape == (1, 2, latent_dim)
    assert networks[1](mean).shape == (1, 2, *shape)


def test_images_that_cannot_be_halved_are_refused():
    with pytest.raises(UserError, match="30x30 images cannot be halved 2 times"):
        ConvEncoder((1, 30, 30), 8, (4, 8))


def test_a_linear_layer_starts_and_computes_as_torchs():
    ours = Linear(7, 5, generator(3))
    theirs = torch.nn.Linear(7, 5)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 7, generator=generator(1))
    torch.testing.assert_close(ours(x), theirs(x))
    many = Linear(50, 2000, generator(0)).weight
    bound = 1 / 50**0.5
    assert many.abs().max() <= bound
    assert many.std().item() == pytest.approx(bound / 3**0.5, rel=0.01)


@pytest.mark.parametrize("members", [1, 3])
def test_members_of_a_layer_are_those_of_single_layers(members):
    ensemble = MLPEncoder(2, 3, 8, 2, [generator(seed) for seed in range(members)])
    x = torch.randn(members, 5, 2, generator=generator(9))
    means, logvars = ensemble(x)
    for e in range(members):
        mean, logvar = MLPEncoder(2, 3, 8, 2, generator(e))(x[e])
        torch.testing.assert_close(means[e], mean)
        torch.testing.assert_close(logvars[e], logvar)


def through(ensemble, x, learns=True):
    """What comes out, and the gradients of its sum of cubes in the input and in the parameters."""
    x = x.clone().requires_grad_()
    out = ensemble(x)
    wanted = [x, *ensemble.parameters()] if learns else [x]
    return [out, *torch.autograd.grad(out.pow(3).sum(), wanted)]


@pytest.mark.parametrize("learns", [True, False], ids=["learns", "frozen"])
def test_members_side_by_side_as_on_a_gpu_are_those_one_by_one(monkeypatch, learns):
    ensemble = MLP([2, 8, 8, 3], [generator(seed) for seed in range(3)]).requires_grad_(learns)
    x = torch.randn(3, 5, 2, generator=generator(9))
    one_by_one = through(ensemble, x, learns)
    monkeypatch.setattr(networks, "_one_by_one", lambda x: False)
    for ours, theirs in zip(through(ensemble, x, learns), one_by_one, strict=True):
        torch.testing.assert_close(ours, theirs)
        assert ours.is_contiguous()


@pytest.mark.parametrize("together", [True, False])
def test_bfloat16_is_a_matter_of_the_products_alone(monkeypatch, together):
    ensemble = MLP([2, 64, 64, 3], [generator(seed) for seed in range(2)])
    x = torch.randn(2, 40, 2, generator=generator(9))
    exact = through(ensemble, x)
    ensemble.precision = "bf16"
    monkeypatch.setattr(networks, "_one_by_one", lambda x: not together)
    for ours, theirs in zip(through(ensemble, x), exact, strict=True):
        assert ours.dtype == torch.float32
        error = (ours - theirs).norm() / theirs.norm()
        assert 1e-4 < error < 3e-2  # of eight bits


def test_batches_share_a_pass_only_where_samples_do_not_affect_each_other():
    conv = IntroVAE(ConvEncoder((1, 4, 4), 2, (4,)), ConvDecoder((1, 4, 4), 2, (4,)), Prior())
    mlp = IntroVAE(*(net(2, 2, 8, 2, [generator()]) for net in (MLPEncoder, MLPDecoder)), Prior())
    for model, shape in ((conv, (1, 6, 1, 4, 4)), (mlp, (1, 6, 2))):
        a, b = torch.randn(shape, generator=generator(1)), 3 * torch.randn(shape, generator=generator(2))
        alone = (torch.cat(parts, 1) for parts in zip(model.encode(a), model.encode(b), strict=True))
        torch.testing.assert_close(tuple(model.encode(torch.cat((a, b), 1), 2)), tuple(alone))
        z = torch.randn(1, 12, 2, generator=generator(3))
        torch.testing.assert_close(model.decode(z, 2), torch.cat([model.decode(z[:, :6]), model.decode(z[:, 6:])], 1))
    joint = conv.encode(torch.cat((a := torch.randn(1, 6, 1, 4, 4), 3 * a), 1)).mean[:, :6]
    assert not torch.allclose(joint, conv.encode(a).mean, atol=1e-3)  # so a shared pass would have shown


class ByHand:
    """The layers of a network of convolutions in training mode, with its parameters in their order."""

    def __init__(self, network):
        self.left, self.means = iter(list(network.parameters())), []

    def linear(self, x):
        return x @ next(self.left).T + next(self.left)

    def convolved(self, x):
        weight = next(self.left)
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2)

    def normed(self, x):
        apart = x - (mean := x.mean((0, 2, 3), keepdim=True))
        self.means.append(mean.flatten())
        apart = apart / (apart.square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()
        return apart * next(self.left).view(-1, 1, 1) + next(self.left).view(-1, 1, 1)

    def block(self, x, widens):
        identity = self.convolved(x) if widens else x
        return leaky(self.normed(self.convolved(leaky(self.normed(self.convolved(x))))) + identity)


def agree(network, outputs, hand):
    """Outputs, and what the running means keep of a first batch."""
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    torch.testing.assert_close([norm.running_mean for norm in norms], [0.1 * mean for mean in hand.means])
    torch.testing.assert_close(*outputs)


def leaky(x):
    return torch.where(x > 0, x, 0.2 * x)


def halved(x):
    return sum(x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4


@pytest.mark.parametrize(("channels", "widths"), [(1, (4, 3)), (3, (2, 5, 5))])
@pytest.mark.usefixtures("float64")
def test_networks_of_convolutions_are_soft_introvaes_layer_by_layer(channels, widths):
    encoder, decoder = (network((channels, 16, 16), 4, widths) for network in (ConvEncoder, ConvDecoder))
    for parameter in (*encoder.parameters(), *decoder.parameters()):
        parameter.data += 0.3 * torch.randn(parameter.shape)  # scales and offsets of BatchNorm are not drawn
    images, hand = torch.rand(7, channels, 16, 16), ByHand(encoder)
    x = halved(leaky(hand.normed(hand.convolved(images))))
    for inputs, outputs in itertools.pairwise(widths):
        x = halved(hand.block(x, inputs != outputs))
    coarsest = hand.block(x, widens=False)
    parts = hand.linear(coarsest.flatten(1)).chunk(2, -1)
    agree(encoder, (encoder(images[None]), tuple(part[None] for part in parts)), hand)

    z, hand = torch.randn(7, 4), ByHand(decoder)
    x = hand.linear(z).clamp(min=0).view_as(coarsest)
    for inputs, outputs in itertools.pairwise([widths[-1], *reversed(widths)]):
        x = hand.block(x, inputs != outputs).repeat_interleave(2, -1).repeat_interleave(2, -2)
    x = hand.convolved(hand.block(x, widens=False)) + next(hand.left).view(-1, 1, 1)
    agree(decoder, (decoder(z[None])[0], x), hand)


@pytest.mark.parametrize("channels", [1, 3])
def test_convolutions_work_with_channels_last(channels):
    """Several times faster for some layers; images of one channel fall back to the other order unless told."""
    shape = (channels, 8, 8)
    networks = ConvEncoder(shape, 2, (2, 4)), ConvDecoder(shape, 2, (2, 4))
    layers = [m for network in networks for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    orders = []
    for layer in layers:
        layer.register_forward_hook(
            lambda _, given, out: orders.extend(
                tensor.is_contiguous(memory_format=torch.channels_last) for tensor in (given[0], out)
            )
        )
    mean, _ = networks[0](torch.rand(1, 3, *shape))
    networks[1](mean)
    assert len(orders) == 2 * len(layers) == 2 * (5 + 6)
    assert all(orders)
