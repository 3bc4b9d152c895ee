"""The kernels at the paper's sizes, interpreted: minutes (`make kernel`)."""

from __future__ import annotations

import os

import pytest

os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported

from tests import test_kernels as kernels


@pytest.mark.parametrize("learning", [kernels.POSTERIOR, kernels.MIXTURE], ids="-".join)
def test_values_and_gradients_are_those_of_float64(learning):
    assert kernels.way("cpu") == "KernelCrossEntropy"
    assert max(kernels.errors("cpu", learning, members=1, **kernels.FULL).values()) <= 1e-5
