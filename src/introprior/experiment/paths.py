"""Where the workflow's files lie: every path is spelled here, for the rules and for all who look at results."""

from __future__ import annotations

NAMED = "{dataset}/{cell}/r{r_entropy}/seed{seed}"
"""A run on images."""


class Paths:
    """The paths of an experiment of the configuration, below ``root``, with Snakemake's ``{wildcards}``.

    Attributes:
        index, page: the results page, and what is made for it alone.
        state: of interrupted runs. No output: Snakemake deletes outputs before it starts a job again.
        data, inception: image data, which all experiments share.
    """

    def __init__(self, experiment: str, root: str = "results"):
        self.results = results = f"{root}/{experiment}"
        self.tables = f"{results}/tables"
        self.figures = f"{results}/figures"
        self.claims = f"{results}/claims"
        self.index = f"{results}/index.html"
        self.page = f"{results}/page"
        self.logs = f"{results}/logs"
        self.log_2d = f"{self.logs}/density/{{dataset}}/{{cell}}/train.log"
        self.log_images = f"{self.logs}/images/{NAMED}/train.log"
        self.log_clipping = f"{self.logs}/clipping/{NAMED}/train.log"
        self.benchmarks = f"{results}/benchmarks"
        self.state = f"{results}/.state"

        # Two dimensions.
        self.cell = f"{results}/density/{{dataset}}/{{cell}}"
        self.slice = f"{self.cell}/search/slice-{{slice}}.csv"
        self.hyperparameters = f"{self.cell}/hyperparameters.json"
        self.ensemble = f"{self.cell}/ensemble.pt"
        self.cell_history = f"{self.cell}/history.csv"
        self.cell_metrics = f"{self.cell}/metrics.csv"
        self.cell_panels = f"{self.cell}/panels.npz"

        # Images.
        self.data = f"{root}/data/{{dataset}}"
        self.inception = f"{root}/data/inception.pth"
        self.images = f"{results}/images/{{dataset}}"
        self.classifier = f"{self.images}/classifier.pt"
        self.reference = f"{self.images}/reference/{{features}}.npz"
        self.chosen = f"{self.images}/r_entropy.json"
        self.chosen_table2 = f"{self.images}/r_entropy-table2.json"
        self.warmup = f"{self.images}/warmups/{{family}}/seed{{seed}}"
        self.run = f"{results}/images/{NAMED}"
        self.clipping = f"{results}/clipping/{NAMED}"
        self.study = f"{results}/encoder/{{dataset}}.npz"

        # The theory's small games.
        self.theory = f"{results}/theory/theory.csv"
        self.play = f"{results}/theory/play.csv"
