"""How much a metric of a trained 2D ensemble varies from draw to draw, to be set beside its spread over seeds.

    python benchmarks/metric_noise.py ensemble.pt [more.pt ...] --draws 20

Each draw takes real and generated points of its own, as `introprior evaluate` takes the first.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from introprior.evaluation.density import Ensemble, sample_metrics, streams_for
from introprior.metrics.registry import functions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, help="what `introprior train` wrote")
    parser.add_argument("--draws", type=int, default=20, help="of each metric (default: 20)")
    parser.add_argument("--samples", type=int, default=5000, help="points of each kind in a histogram (default: 5000)")
    given = parser.parse_args()
    print("dataset,cell,seed,metric,mean,std,draws")
    for path in given.models:
        ensemble = Ensemble.read(path, torch.device("cpu"))
        run = ensemble.run
        draws = [
            sample_metrics(
                functions("samples"),
                run.dataset,
                ensemble.model,
                streams_for(run.members, 10**6 * (draw + 1), torch.device("cpu")),
                given.samples,
            )
            for draw in range(given.draws)
        ]
        for e, member in enumerate(run.members):
            for metric in draws[0]:
                values = [draw[metric][e] for draw in draws]
                numbers = f"{np.mean(values):.4f},{np.std(values, ddof=1):.4f},{given.draws}"
                print(f"{run.dataset},{run.cell.name},{member.seed},{metric},{numbers}")


if __name__ == "__main__":
    main()
