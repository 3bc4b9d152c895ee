"""Inception's features under both protocols: the real network on random weights, in pytorch-fid's own file format."""

from __future__ import annotations

import copy
import hashlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pytorch_fid import fid_score
from pytorch_fid import inception as upstream
from runs import statistics
from torch import Tensor, nn

from introprior.metrics import inception
from introprior.metrics.frechet import frechet_distance
from introprior.metrics.inception import FID, FID_AUTHORS, features, rounded, truncated
from tests.commands import refused


@pytest.fixture(scope="module")
def weights(torch_home: Path) -> Path:
    return torch_home / "hub" / "checkpoints" / inception.WEIGHTS


@pytest.fixture(scope="module")
def network(inception_network: nn.Module) -> nn.Module:
    return inception_network


@pytest.fixture(scope="module")
def decoded() -> Tensor:
    """What a decoder might make: three colour images, 12 x 12, values somewhat beyond [0, 1]."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(3, 3, 4, 4, generator=generator)
    return F.interpolate(coarse, size=12, mode="bilinear") * 1.2 - 0.1


@pytest.fixture(scope="module")
def evaluated(network: nn.Module, decoded: Tensor) -> Tensor:
    return features(network, decoded, FID)


@pytest.fixture(scope="module")
def trained(network: nn.Module, decoded: Tensor) -> Tensor:
    return features(network, decoded, FID_AUTHORS)


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Equal but for the order of float32 sums and what 94 layers make of it; measured by how far images differ."""
    assert found.shape == expected.shape
    assert (found - expected).norm() < tolerance * (expected - expected.mean(0)).norm()


def naive_batch_norms(network: nn.Module) -> None:
    """Make every BatchNorm of the network the textbook formula over the batch and its positions."""

    def normalise(module: nn.BatchNorm2d, x: Tensor) -> Tensor:
        mean = x.double().mean((0, 2, 3), keepdim=True)
        variance = (x.double() - mean).square().mean((0, 2, 3), keepdim=True)
        scaled = ((x - mean) / (variance + module.eps).sqrt()).float()
        return scaled * module.weight[:, None, None] + module.bias[:, None, None]

    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.forward = lambda x, module=module: normalise(module, x)


def test_fid_is_what_pytorch_fid_makes_of_png_files(network, evaluated, decoded, torch_home, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(torch_home))
    oracle = upstream.InceptionV3([3])  # as pytorch-fid makes it itself
    files = []
    for i, image in enumerate(decoded):
        files.append(tmp_path / f"{i}.png")
        pixels = (image.permute(1, 2, 0) * 255 + 0.5).clamp(0, 255).to(torch.uint8)  # as save_image of torchvision
        Image.fromarray(pixels.numpy()).save(files[-1])
    expected = fid_score.get_activations(files, oracle, batch_size=3, dims=2048, device="cpu", num_workers=0)
    assert evaluated.shape == (3, inception.DIMENSIONS)
    assert evaluated.dtype == torch.float32
    close(evaluated, torch.from_numpy(expected).float(), 1e-3)
    # It does not depend on the batch.
    torch.testing.assert_close(features(network, decoded[1:2], FID), evaluated[1:2], rtol=1e-4, atol=1e-4)


def test_fid_authors_is_a_forward_pass_in_training_mode(network, trained, evaluated, decoded):
    """Preprocessing and BatchNorm written out, after the authors' description; 8 bits by numpy's truncation."""
    pixels = np.clip(255 * decoded.numpy(), 0, 255).astype(np.uint8) / 255
    inputs = 2 * F.interpolate(torch.from_numpy(pixels).float(), (299, 299), mode="bilinear", align_corners=False) - 1
    network = copy.deepcopy(network)
    naive_batch_norms(network)
    for block in network.blocks:
        inputs = block(inputs)
    close(trained, inputs.flatten(1), 1e-2)
    assert (trained - evaluated).abs().mean() > 0.1 * evaluated.abs().mean()


def test_fid_authors_depends_on_the_batch_and_on_nothing_before_it(network, trained, decoded):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    pair = features(network, decoded[:2], FID_AUTHORS)
    assert (pair - trained[:2]).abs().mean() > 0.02 * trained.abs().mean()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    torch.testing.assert_close(features(network, decoded, FID_AUTHORS), trained, rtol=1e-4, atol=1e-4)


def test_grey_images_are_repeated_and_8_bits_come_in_two_ways(network: nn.Module, decoded: Tensor) -> None:
    grey = (decoded[:1, :1] * 255).clamp(0, 255).to(torch.uint8)
    found = features(network, grey, FID)
    repeated = features(network, (grey.float() / 255).repeat(1, 3, 1, 1), FID)
    torch.testing.assert_close(found, repeated, rtol=1e-4, atol=1e-4)


def test_distances_of_features(trained: Tensor, evaluated: Tensor) -> None:
    some = [part[:, :200] for part in (evaluated, trained)]  # of 2,048 dimensions, to be quick
    a, b = statistics([some[0]]), statistics([some[1]])
    refused(lambda: frechet_distance(a, a), "3 samples are too few for features of 200 dimensions")
    scale = np.trace(a.covariance)
    assert scale > 0
    assert frechet_distance(a, a, allow_few=True) < 1e-10 * scale
    assert frechet_distance(a, b, allow_few=True) > 1e-2 * scale


def test_quantisation() -> None:
    levels = torch.arange(256) / 255
    assert torch.equal(truncated(levels), levels)  # a dataset's images pass unchanged, whichever way they come
    assert torch.equal(rounded(levels), levels)
    assert torch.equal(inception.shown(torch.arange(256, dtype=torch.uint8)), levels)
    x = torch.tensor([-0.5, 0.6 / 255, 3.49 / 255, 3.51 / 255, 0.999, 1.7])
    assert (255 * truncated(x)).round().tolist() == [0, 0, 3, 3, 254, 255]
    assert (255 * rounded(x)).round().tolist() == [0, 1, 3, 4, 255, 255]
    numpy = np.clip(255 * x.numpy(), 0, 255).astype(np.uint8)
    assert (255 * truncated(x)).round().tolist() == numpy.tolist()
    assert truncated(torch.tensor([torch.nan])).isnan().all()


# The weights' file


def test_network_is_frozen_and_pytorch_fid_as_it_was(network: nn.Module) -> None:
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert upstream.load_state_dict_from_url.__module__ == "torch.hub"
    assert inception.PROTOCOLS == {"fid_authors": FID_AUTHORS, "fid": FID}


def test_weights_are_those_of_pytorch_fid_and_others_are_refused_unless_asked_for(weights: Path) -> None:
    assert upstream.FID_WEIGHTS_URL.endswith(f"/{inception.WEIGHTS}")
    assert inception.WEIGHTS.endswith(f"-{inception.SHA256[:8]}.pth")  # the convention of torch.hub
    refused(lambda: inception.load(weights), "not the weights of FID", inception.WEIGHTS)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert isinstance(inception.load(weights, sha256=digest), upstream.InceptionV3)


def test_missing_truncated_and_foreign_weights_are_one_line(weights: Path, tmp_path: Path) -> None:
    cut, text, other, sick = (tmp_path / name for name in ("cut.pth", "text.pth", "other.pth", "sick.pth"))
    with weights.open("rb") as stream:
        cut.write_bytes(stream.read(100_000))
    text.write_text("not weights")
    torch.save({"fc.bias": torch.zeros(3)}, other)
    for path in (cut, text, other):
        act = partial(inception.load, path, sha256=None)
        refused(act, "damaged, or not weights of pytorch-fid's Inception")
    state = torch.load(weights, weights_only=True)
    state["Mixed_5b.branch1x1.conv.weight"][0, 0] = torch.nan
    torch.save(state, sick)
    refused(lambda: inception.load(sick, sha256=None), "weights that are not finite")
    refused(lambda: inception.load(tmp_path / "absent.pth", sha256=None), "no such file")
    refused(lambda: inception.weights(tmp_path / "absent.pth"), "no such file of Inception weights")


def test_weights_are_looked_for_in_the_given_place_then_in_the_cache(weights, torch_home, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(torch_home))
    monkeypatch.setattr(upstream, "FID_WEIGHTS_URL", "http://127.0.0.1:9/not-asked-for")
    assert inception.weights() == weights
    mine = tmp_path / "mine.pth"
    mine.touch()
    assert inception.weights(mine) == mine
