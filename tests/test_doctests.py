"""The examples in the docstrings of game/, metrics/ and the theory's games run; all that is public there has one."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import Any

import pytest

GPU = ("introprior.game.gpu.counters", "introprior.game.gpu.kernels")
"""Without examples: they run on a GPU alone."""

PLAIN, CONTRACT, FILE = "plain values", "a contract: docs/add-a-prior.md has one that keeps it", "takes or makes a file"
EXEMPT = {
    "introprior.game.distributions.Distribution": CONTRACT,
    "introprior.game.losses.EncoderStep": PLAIN,
    "introprior.game.priors.Conversion": PLAIN,
    "introprior.game.priors.Prior": CONTRACT,
    "introprior.game.priors.Start": PLAIN,
    "introprior.evaluation.tabular.Triplet": PLAIN,
    "introprior.metrics.classifier.load": FILE,
    "introprior.metrics.classifier.save": FILE,
    "introprior.metrics.frechet.Statistics": PLAIN,
    "introprior.metrics.inception.InceptionProtocol": PLAIN,
    "introprior.metrics.inception.check": FILE,
    "introprior.metrics.inception.features": "needs Inception's weights",
    "introprior.metrics.inception.load": FILE,
    "introprior.metrics.inception.weights": FILE,
    "introprior.metrics.responsibilities.NormalisedEntropy": PLAIN,
}
"""What has no example, and why."""


def modules() -> list[str]:
    rooms = [importlib.import_module(f"introprior.{room}") for room in ("game", "metrics")]
    found = [each.name for room in rooms for each in pkgutil.walk_packages(room.__path__, f"{room.__name__}.")]
    return [*(name for name in found if name not in GPU), "introprior.evaluation.tabular"]


def public(module: ModuleType) -> dict[str, Any]:
    """Functions and classes that a module defines, by their full names."""
    return {
        f"{module.__name__}.{name}": thing
        for name, thing in vars(module).items()
        if (inspect.isfunction(thing) or inspect.isclass(thing))
        and thing.__module__ == module.__name__
        and not name.startswith("_")
    }


def examples(module: ModuleType) -> dict[str, doctest.DocTest]:
    """Those of a module, by the full name of what they are of."""
    find = doctest.DocTestFinder().find
    tests = find(module)
    for name, thing in public(module).items():
        if hasattr(thing, "__wrapped__"):  # by a decorator, behind which doctest does not look
            tests += find(thing, name, module)
    return {test.name: test for test in tests if test.examples}


def used(test: doctest.DocTest) -> set[str]:
    """The names that an example uses."""
    code = ast.parse("".join(example.source for example in test.examples))
    return {node.id for node in ast.walk(code) if isinstance(node, ast.Name)}


@pytest.mark.parametrize("name", modules())
def test_examples_are_right_and_everything_public_is_in_one(name):
    """In its own, or in that of its module."""
    module = importlib.import_module(name)
    there, said = examples(module), []
    for test in there.values():
        doctest.DocTestRunner().run(test, out=said.append)
    assert not said, "".join(said)
    shown = there.keys() | ({f"{name}.{each}" for each in used(there[name])} if name in there else set())
    exempt = {each for each in EXEMPT if each.rpartition(".")[0] == name}
    assert public(module).keys() - shown == exempt


def test_a_wrong_example_and_a_missing_one_are_found(monkeypatch):
    """Also behind a decorator."""
    name = "introprior.metrics.responsibilities"
    monkeypatch.setattr(f"{name}.normalised_entropy.__doc__", ">>> 1 + 1\n3\n")
    with pytest.raises(AssertionError, match="Expected:"):
        test_examples_are_right_and_everything_public_is_in_one(name)
    monkeypatch.setattr(f"{name}.normalised_entropy.__doc__", "No example.")
    with pytest.raises(AssertionError, match="normalised_entropy"):
        test_examples_are_right_and_everything_public_is_in_one(name)
