"""Every metric of results, tables and figures, once.

A new metric of points in 2D, or of codes of images, is a function, an entry and a test. The function, with an example
in its docstring, goes into a file of its own beside this one (searches are chosen by ``metrics/density.py``: a change
there would outdate them, and all that follows); the entry below names it, and its kind (:data:`KINDS`) says what it is
given, which is not to be changed. It gives a number, or None where it does not apply. The entry does the rest: the
metric is computed, results with it can be read, the tables of ``tables`` have it as a row, beside the published value
where ``paper`` names the same thing, and the CSV files of tables have it in any case. Of a metric of samples the value
of the data itself, its floor, is measured, too, from twenty pairs of samples a dataset.

Entries without a function are computed where what they are of is made, see CONTRIBUTING.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from introprior.errors import unknown

Function = Callable[..., float]

KINDS = {
    "samples": "2D, of (real, generated, limit): points [N, 2] each, half the width of the window",
    "energies": "2D, of (grid, data): negative ELBOs of the points of a grid and of data",
    "floor": "2D, a metric of samples, of two samples of the data; entered with that metric",
    "distance": "images: one of DISTANCES, of which tables show the chosen one",
    "entropy": "images: of the responsibilities, of which tables show the chosen one",
    "probe": "images, of (train, train_labels, test, test_labels): codes [N, D], labels [N]; last its setting, if any",
    "": "anything else",
}
"""What a metric may be of, and what its function is given."""


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
        name: in files of results.
        direction: which is better, ``↓`` or ``↑``; empty for what only describes a run.
        title: in tables and figures; left out: the name.
        tables: numbers of the tables that have it as a row.
        paper: name of the same thing in the published tables.
        decimals: in tables; None for a setting, which has no spread.
        definition: how it is taken, for captions.
        kind: one of :data:`KINDS`.
        function: what computes it, ``module:function``, the module one of this package; imported when it is used.
        setting: of a probe, the option whose value its function is given, and the place in that.

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
    kind: str = ""
    function: str = ""
    setting: tuple[str, int] | None = None

    def __post_init__(self) -> None:
        computed = self.kind in ("samples", "energies", "probe")
        problems = {
            f"its kind is one of {', '.join(filter(None, KINDS))}, or none": self.kind not in KINDS,
            "its direction is ↓, ↑ or empty": self.direction not in ("", "↓", "↑"),
            'its tables are a tuple of "1" to "5"': type(self.tables) is not tuple or not {*self.tables} <= {*"12345"},
            f"of kind {self.kind!r} it {'needs a' if computed else 'has no'} function": bool(self.function)
            is not computed,
            "only a probe has a setting": self.setting is not None and self.kind != "probe",
        }
        for problem in (problem for problem, there in problems.items() if there):
            raise ValueError(f"metric {self.name}: {problem}")

    def label(self, title: str = "") -> str:
        """The title, or another one, and the direction: ``FID (GEN) ↓``."""
        return f"{title or self.title or self.name} {self.direction}".strip()

    @property
    def better(self) -> str:
        """The direction in words."""
        return {"↓": "lower is better", "↑": "higher is better"}.get(self.direction, "")

    def number(self, options: Any) -> int:
        """What its setting is in some options."""
        assert self.setting is not None
        number: int = getattr(options, self.setting[0])[self.setting[1]]
        return number

    def load(self, options: Any = None) -> Function:
        """What computes it, under some options where it has a setting."""
        module, _, name = self.function.partition(":")
        function: Function = getattr(import_module(f"introprior.metrics.{module}"), name)
        return (lambda *of: function(*of, self.number(options))) if self.setting else function


def known(entries: Iterable[Metric]) -> dict[str, Metric]:
    """Metrics by name, and the floors of those of samples.

    >>> list(known([Metric("KL", "↓", kind="samples", function="density:histogram_kl")]))
    ['KL', 'KL_floor']
    """
    entries = list(entries)
    floors = [Metric(f"{entry.name}_floor", kind="floor") for entry in entries if entry.kind == "samples"]
    found: dict[str, Metric] = {}
    for entry in (*entries, *floors):
        if entry.name in found:
            raise ValueError(f"metric {entry.name}: there is one of that name already")
        found[entry.name] = entry
    return found


_2D, _IMAGES = ("1", "4"), ("2", "5")
_SVM, _KNN = "probes:svm_accuracy", "probes:knn_accuracy"
_FID_AUTHORS = (
    "This FID, as the authors' code takes it, has Inception in training mode and batches of the training size: compare "
    "it with the paper's and within the table, with no other."
)
_FID = "FID is taken with Inception in evaluation mode, as in the literature; the paper's is another measure."
_FD = (
    "FD-classifier is the Fréchet distance between features of a small classifier trained on the same data: no FID, "
    "and not to be compared with one."
)

DISTANCES = {
    "fid_authors": ("FID", "fid", _FID_AUTHORS),
    "fid": ("FID std", "", _FID),
    "fd_classifier": ("FD-classifier", "", _FD),
}
"""Title, published name and definition of each distance; one of generated images and one of reconstructed ones is a
metric each, ``<distance>_gen`` and ``<distance>_rec``."""

METRICS = known(
    (
        Metric("gnELBO", "↓", tables=_2D, paper="gnELBO", kind="energies", function="density:gnelbo"),
        Metric("KL", "↓", tables=_2D, paper="KL", kind="samples", function="density:histogram_kl"),
        Metric("JSD", "↓", tables=_2D, paper="JSD", kind="samples", function="density:histogram_jsd"),
        Metric("JSD_nats", "↓", kind="samples", function="density:jsd_nats"),
        Metric("r_entropy", tables=_IMAGES, paper="r_entropy", decimals=None),
        Metric(
            "entropy_per_batch", "", "Entr.", _IMAGES, "responsibility_entropy", 3,
            "of each test batch, averaged", "entropy",
        ),
        Metric("entropy_pooled", "", "Entr.", _IMAGES, "", 3, "of the whole test split", "entropy"),
        *(
            Metric(
                f"{name}_{of}", "↓", f"{title} ({of.upper()})", _IMAGES, paper and f"{paper}_{of}", 3,
                definition, "distance",
            )
            for name, (title, paper, definition) in DISTANCES.items()
            for of in ("gen", "rec")
        ),
        Metric("svm_few", "↑", "SVM (few)", _IMAGES, "svm_2k", 3, "", "probe", _SVM, ("svm_iterations", 0)),
        Metric("svm_many", "↑", "SVM (many)", _IMAGES, "svm_10k", 3, "", "probe", _SVM, ("svm_iterations", 1)),
        Metric("knn_few", "↑", "KNN (few)", _IMAGES, "knn_5", 3, "", "probe", _KNN, ("neighbours", 0)),
        Metric("knn_many", "↑", "KNN (many)", _IMAGES, "knn_100", 3, "", "probe", _KNN, ("neighbours", 1)),
        Metric("checkpoint_epoch"),
    )
)  # fmt: skip
"""By name, in the order of files and tables; floors come last."""


def of_kind(*kinds: str) -> dict[str, Metric]:
    """The metrics of some kinds, by name.

    >>> "knn_few" in of_kind("probe")
    True
    """
    return {name: entry for name, entry in METRICS.items() if entry.kind in kinds}


def functions(kind: str, options: Any = None) -> dict[str, Function]:
    """What computes the metrics of a kind, by name, under some options where they have settings.

    >>> origin = [[0.0, 0.0]] * 9
    >>> functions("samples")["KL"](origin, origin, 2.0)
    0.0
    """
    return {name: entry.load(options) for name, entry in of_kind(kind).items()}


ENTROPIES = tuple(of_kind("entropy"))
"""Normalised entropies of the responsibilities."""


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
