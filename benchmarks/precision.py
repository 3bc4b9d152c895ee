"""What a precision of the networks' products does to the metrics of 2D cells: the same seeds in each, side by side.

    python benchmarks/precision.py --seeds 10 --precisions float32 bf16

The sizes and weights are those of a configuration, the demo's by default. Every seed is trained in each precision; a
line is the mean and the standard deviation over seeds of a metric in both, and the p-value of their paired t-test. On a
CPU without units for bfloat16 its products are computed as such units do; that says nothing of speed. tf32 takes a GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch.utils._python_dispatch import TorchDispatchMode

from introprior.evaluation.density import Ensemble, measure
from introprior.experiment import jobs
from introprior.experiment.config import Configuration, load, read_yaml
from introprior.experiment.run import DensityRun
from introprior.metrics.registry import functions
from introprior.operations.devices import borrowed
from introprior.training.density import begin


class Units(TorchDispatchMode):
    """What units for bfloat16 do, on a CPU that has none: float32 sums of the products, each result rounded once.

    Torch's own products without such units are up to sixty times slower than float32's.
    """

    products = 0

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, str(func).split(".")[1]
        if name not in ("mm", "addmm", "sum") or args[0].dtype != torch.bfloat16:
            return func(*args, **kwargs)
        self.products += 1
        wide = [each.float() if isinstance(each, torch.Tensor) else each for each in args]
        result = getattr(torch, name)(*wide).bfloat16()
        return kwargs["out"].copy_(result) if "out" in kwargs else result


def metrics(
    config: Configuration, dataset: str, cell: str, precision: str, seeds: int, device: torch.device
) -> dict[str, list[float]]:
    """By metric, a value for each seed, NaN where it has diverged."""
    told = jobs.train(config, cell, dataset)
    betas = {name: value for name, value in jobs.hyperparameters(config, dataset, cell).items() if name in jobs.BETAS}
    run = {
        "cell": cell,
        "members": [{"dataset": dataset, "seed": seed, **betas} for seed in range(seeds)],
        "training": {**told["training"], "precision": precision},
        "protocol": told["protocol"],
    }
    training = begin(DensityRun.read(run, "run"), device)
    without = precision == "bf16" and device.type == "cpu" and not torch.cpu._is_avx512_bf16_supported()
    with Units() if without else nullcontext():
        training.advance(training.run.training.iterations, log_every=100, label=f"{dataset} {cell} {precision}")
    ensemble = Ensemble(training.model.requires_grad_(False), training.run, training.watch.records())
    values: dict[str, list[float]] = {}
    options = jobs.Evaluate.read(jobs.evaluate(config, cell, dataset), "options")
    for row in measure(ensemble, options, device, *map(functions, ("energies", "samples"))):
        values.setdefault(row["metric"], []).append(np.nan if row["value"] is None else row["value"])
    return {name: row for name, row in values.items() if not name.endswith("_floor")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    demo = Path(__file__).parents[1] / "config/demo.yaml"
    parser.add_argument("--configfile", type=Path, default=demo, help="sizes, weights, datasets (default: the demo's)")
    parser.add_argument("--datasets", nargs="+", help="default: the configuration's")
    parser.add_argument("--cells", nargs="+", default=["sg", "mog64-lc-ip"], help="default: sg mog64-lc-ip")
    parser.add_argument("--precisions", nargs=2, default=["float32", "bf16"], help="default: float32 bf16")
    parser.add_argument("--seeds", type=int, default=10, help="of each (default: 10)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    given = parser.parse_args()
    config = load(read_yaml([given.configfile]))
    print("dataset,cell,metric,seeds,{0},{0}_std,{1},{1}_std,p".format(*given.precisions), flush=True)
    with borrowed(given.device) as device:
        for dataset in given.datasets or config.density.datasets:
            for cell in given.cells:
                one, other = (metrics(config, dataset, cell, each, given.seeds, device) for each in given.precisions)
                for name in one:
                    pair = np.array([one[name], other[name]])
                    pair = pair[:, np.isfinite(pair).all(0)]
                    spread = zip(pair.mean(1), pair.std(1, ddof=1), strict=True)
                    numbers = ",".join(f"{mean:.4g},{std:.3g}" for mean, std in spread)
                    print(
                        f"{dataset},{cell},{name},{pair.shape[1]},{numbers},{stats.ttest_rel(*pair).pvalue:.2g}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
