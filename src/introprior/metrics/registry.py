"""Every metric of results, tables and figures, once.

A new metric is a function, an entry and a test. The function goes into a module beside this one. Its value goes, under
the metric's name, into ``values`` of :func:`introprior.evaluation.density.measure` in 2D, of
:func:`introprior.evaluation.images.evaluate` on images: what is in there is written to ``metrics.csv``. The entry below
does the rest: results with it can be read, the tables of ``tables`` have it as a row, beside the published value where
``paper`` names the same thing, and the CSV files of tables have it in any case.
"""

from __future__ import annotations

from dataclasses import dataclass

from introprior.errors import unknown


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
        name: in files of results.
        direction: which is better, ``↓`` or ``↑``; empty for what only describes a run.
        title: in tables and figures; left out: the name.
        tables: numbers of the tables that have it as a row; of several distances and entropies the chosen one.
        paper: name of the same thing in the published tables.
        decimals: in tables; None for a setting, which has no spread.
        definition: how it is taken, for captions.

    >>> Metric("fid_gen", "↓", "FID (GEN)").label()
    'FID (GEN) ↓'
    """

    name: str
    direction: str = ""
    title: str = ""
    tables: tuple[str, ...] = ()
    paper: str = ""
    decimals: int | None = 2
    definition: str = ""

    def label(self, title: str = "") -> str:
        """The title, or another one, and the direction: ``FID (GEN) ↓``."""
        return f"{title or self.title or self.name} {self.direction}".strip()


_2D, _IMAGES = ("1", "4"), ("2", "5")
_FID_AUTHORS = (
    "This FID, as the authors' code takes it, has Inception in training mode and batches of the training size: compare "
    "it with the paper's and within the table, with no other."
)
_FID = "FID is taken with Inception in evaluation mode, as in the literature; the paper's is another measure."
_FD = (
    "FD-classifier is the Fréchet distance between features of a small classifier trained on the same data: no FID, "
    "and not to be compared with one."
)

METRICS = {
    metric.name: metric
    for metric in (
        Metric("gnELBO", "↓", tables=_2D, paper="gnELBO"),
        Metric("KL", "↓", tables=_2D, paper="KL"),
        Metric("JSD", "↓", tables=_2D, paper="JSD"),
        Metric("JSD_nats", "↓"),
        Metric("KL_floor"),
        Metric("JSD_floor"),
        Metric("JSD_nats_floor"),
        Metric("r_entropy", tables=_IMAGES, paper="r_entropy", decimals=None),
        Metric("entropy_per_batch", "", "Entr.", _IMAGES, "responsibility_entropy", 3, "of each test batch, averaged"),
        Metric("entropy_pooled", "", "Entr.", _IMAGES, "", 3, "of the whole test split"),
        Metric("fid_authors_gen", "↓", "FID (GEN)", _IMAGES, "fid_gen", 3, _FID_AUTHORS),
        Metric("fid_authors_rec", "↓", "FID (REC)", _IMAGES, "fid_rec", 3, _FID_AUTHORS),
        Metric("fid_gen", "↓", "FID std (GEN)", _IMAGES, "", 3, _FID),
        Metric("fid_rec", "↓", "FID std (REC)", _IMAGES, "", 3, _FID),
        Metric("fd_classifier_gen", "↓", "FD-classifier (GEN)", _IMAGES, "", 3, _FD),
        Metric("fd_classifier_rec", "↓", "FD-classifier (REC)", _IMAGES, "", 3, _FD),
        Metric("svm_few", "↑", "SVM (few)", _IMAGES, "svm_2k", 3),
        Metric("svm_many", "↑", "SVM (many)", _IMAGES, "svm_10k", 3),
        Metric("knn_few", "↑", "KNN (few)", _IMAGES, "knn_5", 3),
        Metric("knn_many", "↑", "KNN (many)", _IMAGES, "knn_100", 3),
        Metric("checkpoint_epoch"),
    )
}
"""By name, in the order of files and tables."""

DISTANCES = tuple(name.removesuffix("_gen") for name in METRICS if name.endswith("_gen"))
"""Fréchet distances, each of generated (``_gen``) and of reconstructed images (``_rec``)."""

ENTROPIES = tuple(name for name in METRICS if name.startswith("entropy_"))
"""Normalised entropies of the responsibilities."""

PROBES = tuple(name for name in METRICS if name.startswith(("svm_", "knn_")))
"""Accuracies of probes of the latent space."""


def metric(name: str, where: str = "") -> Metric:
    """The metric called ``name``.

    Raises:
        UserError: there is none.

    >>> metric("KL").direction  # lower is better
    '↓'
    """
    if name not in METRICS:
        raise unknown("metric", name, METRICS, where)
    return METRICS[name]
