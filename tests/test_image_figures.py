"""Figures of image runs and of the method: what is drawn where, what is told of missing runs, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from introprior.data.images import DATASETS
from introprior.errors import UserError
from introprior.game import distributions as mixtures
from introprior.operations.files import write_csv, write_json
from introprior.reporting.figures import curves
from introprior.reporting.figures import images as image_figures
from introprior.reporting.figures import method as method_figures
from introprior.reporting.figures.style import DATA, MODEL, TEXT_WIDTH, class_colours
from tests.scripts import run_script

ROOT = Path(__file__).parents[1]
CELLS = [
    "sg", "mog10", "mog10-ip", "mog10-lc", "mog10-lc-ip", "mog100", "mog100-ip", "mog100-lc", "mog100-lc-ip",
]  # fmt: skip
TITLES = [
    "SG", "MoG(10)", "MoG(10)+IP", "MoG(10)+LC", "MoG(10)+LC+IP",
    "MoG(100)", "MoG(100)+IP", "MoG(100)+LC", "MoG(100)+LC+IP",
]  # fmt: skip

Write = Callable[..., Any]


def words(axis: Axes) -> list[str]:
    return [text.get_text() for text in axis.texts]


def scatters(axis: Axes) -> list[PathCollection]:
    return [artist for artist in axis.collections if isinstance(artist, PathCollection)]


def lines(axis: Axes, colour: str, style: str = "-") -> list[np.ndarray]:
    """Points of the lines of a colour and style."""
    found = [line for line in axis.lines if to_hex(line.get_color()) == colour.lower()]
    return [line.get_xydata() for line in found if line.get_linestyle() == style]


def crosses(axis: Axes) -> list[list[float]]:
    return [line.get_xydata()[0].tolist() for line in axis.lines if line.get_marker() == "x"]


def legible(figure: Figure) -> None:
    """Of the paper's width, no text smaller than 6 points or outside."""
    assert figure.get_figwidth() == TEXT_WIDTH
    figure.draw_without_rendering()
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    assert len(texts) > 3
    assert min(text.get_fontsize() for text in texts) >= 6
    ticks = {
        id(text)
        for axis in figure.findobj(Axes)
        for text in (*axis.get_xticklabels(), *axis.get_yticklabels())  # those beyond the limits are not drawn
    }
    for text in texts:
        if id(text) not in ticks:
            box = text.get_window_extent()
            assert box.x0 >= -1, text
            assert box.x1 <= figure.bbox.width + 1, text
            assert box.y0 >= -1, text
            assert box.y1 <= figure.bbox.height + 1, text


# ---- Test input, in the formats of the workflow ----


@pytest.fixture
def write_run(tmp_path: Path) -> Write:
    """Write history.csv and distances.csv: a quantity is 1, 0.5, 0.25 … at epochs 2, 3, 4 …; distances at 0 and 4."""

    def write(
        dataset: str = "digits",
        cell: str = "mog10",
        r: float = 0,
        seed: int = 0,
        *,
        factor: float = 1,
        died: int | None = None,
        quantity: str = "responsibility_entropy",
        metric: str = "fd_classifier_gen",
    ) -> tuple[Path, Path]:
        folder = tmp_path / "images" / dataset / cell / f"r{r:g}" / f"seed{seed}"
        history = [{"iteration": 10, "epoch": 1, "seed": seed, "quantity": "vae_loss", "value": 9.0}]
        for epoch in range(2, 7):
            dead = died is not None and epoch >= died
            values = {"encoder_loss": 1.0, quantity: factor * 0.5 ** (epoch - 2)}
            for name, value in values.items():
                row = {"iteration": 10 * epoch, "epoch": epoch, "seed": seed, "quantity": name}
                history.append(row | {"value": math.nan if dead else value})
            if dead:
                break
        write_csv(folder / "history.csv", history, list(history[0]))
        run = {"dataset": dataset, "cell": cell, "r_entropy": r, "seed": seed, "metric": metric, "detail": ""}
        distances = [run | {"epoch": 0, "value": 8 * factor, "status": "ok"}]
        if died is None or died > 4:
            distances.append(run | {"epoch": 4, "value": 4 * factor, "status": "ok"})
        distances.append(run | {"epoch": 0, "metric": "fid_gen", "value": 1e6, "status": "ok"})
        columns = ("dataset", "cell", "r_entropy", "seed", "epoch", "metric", "value", "status", "detail")
        write_csv(folder / "distances.csv", distances, columns)
        return folder / "history.csv", folder / "distances.csv"

    return write


@pytest.fixture
def write_panels(tmp_path: Path) -> Write:
    def write(dataset: str = "digits", cell: str = "mog10", r: float = 10, seed: int = 0, **changes: Any) -> Path:
        random = np.random.default_rng(int(r))
        channels, height, width = DATASETS[dataset].shape if dataset in DATASETS else (1, 4, 4)
        components = 1 if cell == "sg" else 10
        images = random.integers(0, 256, (5, channels, height, width), np.uint8)
        arrays: dict[str, Any] = {
            "samples": images,
            "real": images[:3],
            "reconstructions": images[:3] // 2,
            "z": random.normal(size=(40, 3)).astype(np.float32),
            "labels": np.arange(40) % 10,
            "prior_means": random.normal(size=(components, 3)),
            "prior_logvars": np.zeros((components, 3)),
            "prior_weights": np.linspace(1, 2, components) / np.linspace(1, 2, components).sum(),
            "classes": np.array([f"class {k}" for k in range(10)]),
        }
        arrays |= {"dataset": dataset, "title": dataset, "cell": cell, "r_entropy": r, "seed": seed, "epoch": 5}
        arrays |= {"status": "ok", "detail": ""}
        path = tmp_path / f"{dataset}-{cell}-r{r:g}-seed{seed}.npz"
        np.savez(path, **{name: value for name, value in (arrays | changes).items() if value is not None})
        return path

    return write


@pytest.fixture
def choose(tmp_path: Path) -> Write:
    def write(dataset: str = "digits", **r_entropy: float) -> Path:
        chosen = {cell: {"r_entropy": 0 if cell == "sg" else 10, "candidates": []} for cell in CELLS}
        chosen |= {cell: {"r_entropy": r, "candidates": []} for cell, r in r_entropy.items()}
        path = tmp_path / dataset / "r_entropy.json"
        write_json(path, {"dataset": dataset, "metric": "fd_classifier_gen", "cells": chosen})
        return path

    return write


@pytest.fixture
def write_study(tmp_path: Path) -> Write:
    def write(**changes: Any) -> Path:
        random = np.random.default_rng(0)
        arrays: dict[str, Any] = {name: random.random((2, 3, 2, 5)) + 1 for name in method_figures.CURVES}
        arrays |= {"iterations": np.arange(5) * 10, "beta_neg": np.array([1.0, 128.0])}
        arrays |= {"dataset": "digits", "title": "Digits", "cell": "mog10", "seed": 0, "epoch": 5}
        for b in range(2):
            for c, (real, fake) in enumerate(((10, 10), (1, 10), (10, 1))):
                for name, count in (("real", real), ("real_rec", real), ("fake", fake), ("fake_rec", fake)):
                    arrays[f"{name}_{b}_{c}"] = random.integers(0, 256, (count, 1, 4, 4), np.uint8)
        path = tmp_path / "study.npz"
        np.savez(path, **{name: value for name, value in (arrays | changes).items() if value is not None})
        return path

    return write


# ---- Figure 2 ----


def clipping(write_run: Write, died: int | None = 5) -> Figure:
    cells = ("mog10-lc-ip", "mog10-lc-ip-unclipped")
    runs = [
        write_run(cell=cell, factor=factor, died=end, quantity="prior_logvar_max")
        for cell, factor, end in zip(cells, (1, 3), (None, died), strict=True)
    ]
    return curves.figure2(*zip(*reversed(runs), strict=True), "fd_classifier_gen", "mog10-lc-ip")


def test_clipping_shows_log_variance_and_distance_of_both_runs(write_run: Write) -> None:
    figure = clipping(write_run)
    legible(figure)
    variance, distance = figure.axes
    assert distance.get_ylabel() == "FD-classifier (GEN) ↓"
    assert figure.get_suptitle() == "Digits (stand-in for MNIST): MoG(10)+LC+IP"
    epochs = np.arange(2, 7)
    np.testing.assert_allclose(lines(variance, DATA)[0], np.c_[epochs, 0.5 ** (epochs - 2.0)])
    np.testing.assert_allclose(lines(variance, MODEL)[0], [[2, 3], [3, 1.5], [4, 0.75]])
    np.testing.assert_allclose(lines(distance, DATA)[0], [[0, 8], [4, 4]])
    np.testing.assert_allclose(lines(distance, MODEL)[0], [[0, 24], [4, 12]])
    for axis in (variance, distance):
        (start,) = [line for line in axis.lines if line.get_label() == "the game starts"]
        assert list(start.get_xdata()) == [2, 2]


def test_a_cross_stands_where_clipping_was_missed(write_run: Write) -> None:
    figure = clipping(write_run, died=5)
    variance, distance = figure.axes
    assert crosses(variance) == [[5, 0.75]]
    assert crosses(distance) == [[5, 12]]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["clipped", "not clipped", "the game starts", "diverged at epoch 5"]
    unharmed = clipping(write_run, died=None)
    assert not any(map(crosses, unharmed.axes))
    assert len(unharmed.legends[0].get_texts()) == 3


def test_a_distance_that_is_not_finite_counts_as_divergence(write_run: Write) -> None:
    history, distances = write_run()
    text = distances.read_text().replace(",4,fd_classifier_gen,4,ok", ",4,fd_classifier_gen,,diverged")
    assert "diverged" in text
    distances.write_text(text)
    (course,) = curves.read_courses([history], [distances], "responsibility_entropy", "fd_classifier_gen").values()
    assert course.diverged == 4
    distances.write_text(text.replace(",4,fd_classifier_gen", ",219,fd_classifier_gen"))  # an epoch it didn't reach
    (course,) = curves.read_courses([history], [distances], "responsibility_entropy", "fd_classifier_gen").values()
    assert course.diverged == 6


def test_figure2_wants_its_two_runs(write_run: Write) -> None:
    one = write_run(cell="mog10-ip")
    with pytest.raises(UserError, match="runs of mog10-ip and mog10-ip-unclipped wanted, of one dataset; got digits"):
        curves.figure2([one[0]], [one[1]], "fd_classifier_gen", "mog10-ip")


# ---- Figure 4 ----


def test_columns_are_components_and_ip_and_rows_datasets(write_run: Write) -> None:
    datasets = ["FMNIST", "digits"]
    runs = [write_run(dataset, cell) for dataset in datasets for cell in CELLS[1:]]
    figure = curves.figure4(*zip(*runs, strict=True), datasets, CELLS, [0], [0], "fd_classifier_gen")
    legible(figure)
    blocks = figure.subfigs
    assert [block.get_suptitle() for block in blocks] == ["Fashion-MNIST", "Digits (stand-in for MNIST)"]
    for block in blocks:
        titles = [axis.get_title() for axis in block.axes]
        assert titles == ["MoG(10), fixed", "MoG(10), IP", "MoG(100), fixed", "MoG(100), IP", "", "", "", ""]
        assert block.axes[0].get_ylabel() == "normalised\nentropy"
        assert block.axes[4].get_ylabel() == "FD-classifier\n(GEN) ↓"
        assert block.axes[0].get_ylim() == pytest.approx((-0.03, 1.03))


def test_lines_are_means_and_bands_extremes_over_seeds(write_run: Write) -> None:
    runs = [write_run(seed=0, factor=1), write_run(seed=1, factor=0.5), write_run(r=10, factor=0.2)]
    figure = curves.figure4(*zip(*runs, strict=True), ["digits"], ["mog10"], [0, 10], [0, 1], "fd_classifier_gen")
    entropy, distance = figure.subfigs[0].axes
    epochs = np.arange(2, 7)
    np.testing.assert_allclose(lines(entropy, DATA, ":")[0], np.c_[epochs, 0.75 * 0.5 ** (epochs - 2.0)])
    np.testing.assert_allclose(lines(entropy, MODEL, ":")[0], np.c_[epochs, 0.2 * 0.5 ** (epochs - 2.0)])
    np.testing.assert_allclose(lines(distance, DATA, ":")[0], [[0, 6], [4, 3]])
    (band,) = entropy.collections  # of r_entropy 10 there's one seed alone
    corners = band.get_paths()[0].vertices
    assert corners[corners[:, 0] == 2][:, 1].min() == pytest.approx(0.5)
    assert corners[corners[:, 0] == 2][:, 1].max() == pytest.approx(1)


def test_blue_is_unregularised_and_dotted_is_without_lc(write_run: Write) -> None:
    factors = {("mog10", 0): 0.1, ("mog10-lc", 0): 0.2, ("mog10", 100): 0.6, ("mog10-lc", 100): 0.7}
    runs = [write_run(cell=cell, r=r, factor=factor) for (cell, r), factor in factors.items()]
    figure = curves.figure4(
        *zip(*runs, strict=True), ["digits"], ["mog10", "mog10-lc"], [100, 0], [0], "fd_classifier_gen"
    )
    entropy = figure.subfigs[0].axes[0]
    assert lines(entropy, DATA, ":")[0][0, 1] == pytest.approx(0.1)
    assert lines(entropy, DATA)[0][0, 1] == pytest.approx(0.2)
    assert lines(entropy, MODEL, ":")[0][0, 1] == pytest.approx(0.6)
    assert lines(entropy, MODEL)[0][0, 1] == pytest.approx(0.7)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[-2:] == ["without LC", "with LC"]


def test_divergence_and_absence_are_shown(write_run: Write) -> None:
    runs = [write_run(died=4), write_run(seed=1), write_run(cell="mog10-ip", died=2)]
    figure = curves.figure4(
        *zip(*runs, strict=True), ["digits"], ["mog10", "mog10-ip", "mog100"], [0], [0, 1], "fd_classifier_gen"
    )
    axes = figure.subfigs[0].axes
    assert crosses(axes[0]) == [[4, 0.5]]  # the level of the last finite value
    assert lines(axes[0], DATA, ":")[0][-1].tolist() == [6, 0.0625]  # the mean of who is left
    assert words(axes[1]) == ["diverged"]
    assert words(axes[2]) == words(axes[5]) == ["no run"]
    assert figure.legends[0].get_texts()[-1].get_text() == "diverged"


def test_long_curves_are_averaged_with_their_neighbours() -> None:
    series = pd.Series(np.arange(1000.0), index=np.arange(1000) / 10)
    short = curves.over_seeds([series, series + 2], points=100)
    assert len(short) == 100
    np.testing.assert_allclose(short["mean"], np.arange(100) * 10 + 5.5)
    np.testing.assert_allclose(short["high"] - short["low"], 2)
    np.testing.assert_allclose(short.index, np.arange(100) + 0.45)
    pd.testing.assert_series_equal(curves.over_seeds([series], points=1000)["mean"], series, check_names=False)


def test_damaged_courses_are_one_line(write_run: Write, tmp_path: Path) -> None:
    history, distances = write_run()
    whole = history.read_text()

    def read(histories: list[Path] | None = None, metric: str = "fd_classifier_gen") -> None:
        curves.read_courses([history] if histories is None else histories, [distances], "prior_logvar_max", metric)

    for content, message in (
        (whole[:-3], r"history\.csv: cut short in its last line; delete it"),
        ("", r"history\.csv: cannot read \(No columns"),
        (whole.replace("quantity", "quality"), r"history\.csv: cannot read \(Usecols do not match"),
        (whole.replace("0.5", "half"), r"history\.csv: cannot read \(could not convert"),
        (whole.partition("\n")[0] + "\n", r"history\.csv: a header without results"),
    ):
        history.write_text(content)
        with pytest.raises(UserError, match=message) as caught:
            read()
        assert "\n" not in str(caught.value)
    history.write_text(whole)
    with pytest.raises(UserError, match=r"unknown distance 'fid'; did you mean 'fid_gen'\?"):
        read(metric="fid")
    with pytest.raises(UserError, match=r"distances\.csv comes without|no history\.csv"):
        read(histories=[])
    with pytest.raises(UserError, match=r"seed1/history\.csv comes without"):
        read(histories=[history, write_run(seed=1)[0]])
    with pytest.raises(UserError, match="not in a run's folder"):
        read(histories=[tmp_path / "history.csv"])
    distances.write_text(distances.read_text().replace(",ok,", ",fine,"))
    with pytest.raises(UserError, match=r"distances\.csv: unknown status 'fine'"):
        read()
    distances.unlink()
    with pytest.raises(UserError, match=r"distances\.csv: cannot read \(No such file"):
        read()


# ---- Figures 5 and 6 ----


def test_lines_of_panels_are_numbers_of_components() -> None:
    assert image_figures.arrange(CELLS) == [CELLS[:5], [None, *CELLS[5:]]]
    assert image_figures.arrange(["mog10", "mog10-ip"]) == [["mog10", "mog10-ip"]]
    assert image_figures.arrange(["sg"]) == [["sg"]]
    assert image_figures.arrange(["mog100", "sg"]) == [["sg", "mog100"]]


@pytest.mark.parametrize("datasets", [["MNIST", "FMNIST", "CIFAR-10"], ["photos"]])
def test_latent_panels_carry_the_names_of_dataset_and_cell(
    write_panels: Write, choose: Write, datasets: list[str]
) -> None:
    paths = [
        write_panels(d, cell, 0 if cell == "sg" else 10, classes=np.array(DATASETS[d].classes))
        for d in datasets
        for cell in CELLS
    ]
    figure = image_figures.figure5(paths[::-1], [choose(d) for d in datasets], datasets, CELLS)
    legible(figure)
    assert [text.get_text() for text in figure.texts] == [DATASETS[d].title for d in datasets]
    assert [axis.get_title(loc="left") for axis in figure.axes] == TITLES * len(datasets)
    assert [axis.get_title(loc="right") for axis in figure.axes[:9]] == ["", *["r = 10"] * 8]
    for legend, dataset in zip(figure.legends, datasets, strict=True):
        assert {text.get_text() for text in legend.get_texts()} == set(DATASETS[dataset].classes)


def test_codes_are_coloured_by_class_and_components_sized_by_weight(write_panels: Write, choose: Write) -> None:
    path = write_panels()
    with np.load(path) as archive:
        arrays = dict(archive)
    (axis,) = image_figures.figure5([path], [choose()], ["digits"], ["mog10"]).axes
    codes, means = scatters(axis)
    np.testing.assert_allclose(codes.get_offsets(), arrays["z"][:, :2])
    colours = class_colours(10)
    assert [to_hex(colour) for colour in codes.get_facecolors()] == [
        colours[label].lower() for label in arrays["labels"]
    ]
    np.testing.assert_allclose(means.get_offsets(), arrays["prior_means"][:, :2])
    np.testing.assert_allclose(means.get_sizes() / means.get_sizes()[0], np.linspace(1, 2, 10))
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    points = arrays["prior_means"][:, :2]
    assert ((points > (left, bottom)) & (points < (right, top))).all()
    box = axis.get_position()
    width, height = box.width * axis.figure.get_figwidth(), box.height * axis.figure.get_figheight()
    assert (right - left) / width == pytest.approx((top - bottom) / height)  # equal scales


def test_the_chosen_r_entropy_is_shown(write_panels: Write, choose: Write) -> None:
    paths = [write_panels(r=r) for r in (0, 1, 10)]
    for chosen in (1, 10):
        (axis,) = image_figures.figure5(paths, [choose(mog10=chosen)], ["digits"], ["mog10"]).axes
        with np.load(paths[[0, 1, 10].index(chosen)]) as archive:
            np.testing.assert_allclose(scatters(axis)[0].get_offsets(), archive["z"][:, :2])
        assert axis.get_title(loc="right") == f"r = {chosen}"


def test_tsne_separates_what_is_apart_and_is_reproducible(write_panels: Write, choose: Write) -> None:
    random = np.random.default_rng(1)
    labels = np.arange(60) % 3
    z = (random.normal(size=(3, 8)) * 20)[labels] + random.normal(size=(60, 8))
    path = write_panels(z=z, labels=labels)
    drawn = []
    for _ in range(2):
        (axis,) = image_figures.figure6([path], [choose()], ["digits"], ["mog10"]).axes
        (codes,) = scatters(axis)  # no prior
        drawn.append(np.array(codes.get_offsets()))
    np.testing.assert_array_equal(*drawn)
    np.testing.assert_array_equal(drawn[0], image_figures.embed(z.astype(np.float32)))  # in the order of the labels
    distances = np.linalg.norm(drawn[0][:, None] - drawn[0], axis=-1)
    np.fill_diagonal(distances, np.inf)
    assert (labels[distances.argmin(1)] == labels).all()
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    assert ((drawn[0] > (left, bottom)) & (drawn[0] < (right, top))).all()


def test_few_codes_need_no_embedding() -> None:
    few = np.arange(8.0).reshape(4, 2)
    np.testing.assert_array_equal(image_figures.embed(few), few)
    assert image_figures.embed(np.ones((9, 1))).tolist() == [[1, 0]] * 9
    assert np.isfinite(image_figures.embed(np.random.default_rng(0).normal(size=(6, 3)))).all()


@pytest.mark.parametrize("make", [image_figures.figure5, image_figures.figure6])
def test_latent_panels_without_a_run_say_so(write_panels: Write, choose: Write, make: Write) -> None:
    paths = [
        write_panels(),
        write_panels(cell="mog10-ip", status="diverged"),
        write_panels(cell="mog10-lc", z=np.full((40, 3), np.nan)),
    ]
    axes = make(paths, [choose()], ["digits"], ["mog10", "mog10-ip", "mog10-lc", "mog100"]).axes
    assert [words(axis) for axis in axes] == [[], ["diverged"], ["diverged"], ["no run"]]
    assert not any(scatters(axis) for axis in axes[1:])


def test_damaged_panels_are_one_line(write_panels: Write, choose: Write, tmp_path: Path) -> None:
    chosen = choose()

    def draw(*paths: Path, choices: list[Path] | None = None) -> None:
        image_figures.figure5(paths, [chosen] if choices is None else choices, ["digits"], ["mog10"])

    for changes, message in (
        ({"z": None}, "no entry 'z'; delete it"),
        ({"epoch": np.arange(2)}, r"epoch has shape \[2\], not a single value"),
        ({"z": np.zeros((39, 3))}, "39 z, but 40 labels"),
        ({"z": np.zeros(40)}, r"z has shape \[40\], not 2 axes"),
        ({"labels": np.full(40, 10)}, "labels reach 10, with 10 classes"),
        ({"classes": np.array([object()])}, "cut short or not an archive"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            draw(write_panels(**changes))
        assert "\n" not in str(caught.value)
    good = write_panels()
    with pytest.raises(UserError, match=r"seed1\.npz and .*seed0\.npz show the same run but for the seed"):
        draw(good, write_panels(seed=1))
    with pytest.raises(UserError, match=r"gone\.npz: not there"):
        draw(tmp_path / "gone.npz")
    with pytest.raises(UserError, match="no r_entropy is chosen for digits, mog10"):
        draw(good, choices=[choose("MNIST")])
    with pytest.raises(UserError, match="nothing to show"):
        draw()
    with pytest.raises(UserError, match="nothing to show"):
        image_figures.figure6([good], [chosen], ["digits"], [])
    chosen.write_text('{"cells": []}\n')
    with pytest.raises(UserError, match=r"r_entropy\.json: not a choice of r_entropy"):
        draw(good)


# ---- Images ----


def test_a_montage_sets_images_in_rows() -> None:
    images = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1) * np.ones((3, 2, 4, 5), np.uint8)
    picture = image_figures.montage(images, columns=2)
    assert picture.shape == (2 * 6, 2 * 7, 2)
    assert (picture[1:5, 1:6] == 0).all()
    assert (picture[1:5, 8:13] == 1).all()
    assert (picture[7:11, 1:6] == 2).all()
    assert (picture[6:, 7:] == 255).all()  # no fourth image
    assert (picture[0] == 255).all()


@pytest.mark.parametrize(("dataset", "channels"), [("digits", 1), ("photos", 3)])
def test_samples_are_drawn_beside_reconstructions(
    write_panels: Write, choose: Write, dataset: str, channels: int
) -> None:
    path = write_panels(dataset)
    with np.load(path) as archive:
        arrays = dict(archive)
    figure = image_figures.samples_figure([path], [choose(dataset)], dataset, ["mog10"])
    legible(figure)
    assert [text.get_text() for text in figure.texts] == [DATASETS[dataset].title, "MoG(10)\nr = 10, epoch 5"]
    generated, pairs = figure.axes
    assert [axis.get_title() for axis in figure.axes] == ["generated", "test images over their reconstructions"]
    step = arrays["samples"].shape[-1] + 2
    drawn = np.asarray(generated.images[0].get_array())
    both = np.asarray(pairs.images[0].get_array())
    if channels == 1:
        drawn, both = drawn[..., None], both[..., None]
        assert generated.images[0].get_cmap().name == "gray"
        assert generated.images[0].get_clim() == (0, 255)
    assert drawn.shape == (2 * step, image_figures.GENERATED * step, channels)
    for k in range(5):
        np.testing.assert_array_equal(
            drawn[1 : step - 1, k * step + 1 : (k + 1) * step - 1], np.moveaxis(arrays["samples"][k], 0, -1)
        )
    for row, name in enumerate(("real", "reconstructions")):
        tile = both[row * step + 1 : (row + 1) * step - 1, 2 * step + 1 : 3 * step - 1]
        np.testing.assert_array_equal(tile, np.moveaxis(arrays[name][2], 0, -1))
    assert (both[:, 3 * step :] == 255).all()  # there are three pairs


def test_samples_of_all_cells_have_a_line_each(write_panels: Write, choose: Write) -> None:
    paths = [write_panels(cell=cell, r=0 if cell == "sg" else 10) for cell in CELLS[:6]]
    paths.append(write_panels(cell=CELLS[8], r=100, epoch=219))
    paths.append(write_panels(cell=CELLS[6], status="diverged"))
    figure = image_figures.samples_figure(paths, [choose(**{CELLS[8]: 100})], "digits", CELLS)
    legible(figure)
    assert figure.texts[1].get_text() == "SG\nepoch 5"
    assert figure.texts[5].get_text() == "MoG(10)+LC+IP\nr = 10, epoch 5"
    assert figure.texts[9].get_text() == "MoG(100)+LC+IP\nr = 100, epoch 219"
    assert max(text.get_window_extent().x1 for text in figure.texts[1:]) < figure.axes[0].get_window_extent().x0
    assert [words(axis) for axis in figure.axes[-6:]] == [["diverged"]] * 2 + [["no run"]] * 2 + [[]] * 2
    bottoms = [axis.get_position().y0 for axis in figure.axes[::2]]
    assert bottoms == sorted(bottoms, reverse=True)


# ---- Figure S2 ----


def test_encoder_study_has_configurations_in_rows_and_beta_neg_in_columns(write_study: Write) -> None:
    path = write_study()
    with np.load(path) as archive:
        arrays = dict(archive)
    figure = method_figures.figure_s2(path)
    legible(figure)
    assert "Digits (stand-in for MNIST): MoG(10)" in figure.get_suptitle()
    assert len(figure.subfigs) == 6
    for index, half in enumerate(figure.subfigs):
        c, b = divmod(index, 2)
        assert half.get_suptitle().startswith(method_figures.CONFIGURATIONS[c])
        assert half.get_suptitle().endswith(("= 1", "= 128")[b])
        plots, strips = half.axes[:3], half.axes[3:]
        assert [axis.get_title() for axis in plots] == ["REC", "KL", "NELBO"]
        for axis, name in zip(plots, ("rec", "kl", "nelbo"), strict=True):
            for kind, colour in enumerate((DATA, MODEL)):
                np.testing.assert_allclose(
                    lines(axis, colour)[0], np.c_[arrays["iterations"], arrays[name][b, c, kind]]
                )
        assert [axis.get_ylabel() for axis in strips] == ["real", "reconstructed", "generated", "reconstructed"]
        for axis, name in zip(strips, ("real", "real_rec", "fake", "fake_rec"), strict=True):
            images = arrays[f"{name}_{b}_{c}"]
            drawn = np.asarray(axis.images[0].get_array())
            assert drawn.shape == (6, 60)
            for k in range(len(images)):
                np.testing.assert_array_equal(drawn[1:5, 6 * k + 1 : 6 * k + 5], images[k, 0])
            assert (drawn[:, 6 * len(images) :] == 255).all()


def test_encoder_study_that_diverged(write_study: Write) -> None:
    kl, rec = np.ones((2, 3, 2, 5)), np.ones((2, 3, 2, 5))
    kl[1, 2] = np.nan
    rec[0, 0, 1] = (1, 10, 1e9, np.inf, np.nan)
    figure = method_figures.figure_s2(write_study(kl=kl, rec=rec))
    assert words(figure.subfigs[5].axes[1]) == ["diverged"]
    axis = figure.subfigs[0].axes[0]
    assert axis.get_yscale() == "log"
    np.testing.assert_array_equal(lines(axis, MODEL)[0][:, 1], (1, 10, 1e9, np.nan, np.nan))


def test_damaged_studies_are_one_line(write_study: Write) -> None:
    for changes, message in (
        ({"fake_1_2": None}, "no entry 'fake_1_2'"),
        ({"kl": np.ones((2, 3, 5))}, r"kl has shape \[2, 3, 5\], not \[2, 3, 2, 5\]"),
        ({"real_0_0": np.ones(3)}, r"real_0_0 has shape \[3\], not 4 axes"),
        ({"cell": "mug10"}, "unknown cell 'mug10'"),
    ):
        with pytest.raises(UserError, match=message):
            method_figures.figure_s2(write_study(**changes))


# ---- Figure S3 ----


@pytest.mark.parametrize(("low", "high", "steepness"), [(-1, 1, 10), (-4, 4, 1), (-10, 2, 20)])
def test_soft_clip_is_the_models(low: float, high: float, steepness: float) -> None:
    x = np.linspace(2 * low - high, 2 * high - low, 101)
    ours = method_figures.soft_clip(x, low, high, steepness / (high - low))
    np.testing.assert_allclose(ours, mixtures.soft_clip(torch.tensor(x), low, high, steepness), atol=1e-6)


def test_retained_share_depends_on_the_steepness_alone() -> None:
    shares = [method_figures.retained(low, high, 10 / (high - low)) for low, high in method_figures.RANGES]
    assert shares == pytest.approx([1 - (math.log(4) - 2 * math.log1p(math.exp(-10))) / 10] * 3)  # Eq. 95
    assert shares[0] > 0.85  # the paper's rho
    fixed = [method_figures.retained(low, high, 1) for low, high in method_figures.RANGES]
    assert fixed[0] < 0.5 < fixed[1] < fixed[2]


def test_soft_clipping_is_shown_for_every_range_and_steepness() -> None:
    figure = method_figures.figure_s3(10)
    legible(figure)
    axes = np.reshape(figure.axes, (3, 5))
    assert [axis.get_title().splitlines()[-1] for axis in axes[0]] == [
        "β = 1",
        "K = 1",
        "K = 5",
        "K = 10 (used)",
        "K = 20",
    ]
    for (low, high), row in zip(method_figures.RANGES, axes, strict=True):
        for beta, axis in zip((1, *(k / (high - low) for k in (1, 5, 10, 20))), row, strict=True):
            (curve,) = lines(axis, MODEL)
            np.testing.assert_allclose(curve[:, 1], method_figures.soft_clip(curve[:, 0], low, high, beta))
            assert words(axis) == [f"{method_figures.retained(low, high, beta):.0%} kept"]
    assert len(method_figures.figure_s3(3).axes) == 18
    with pytest.raises(UserError, match="clip_steepness is 0"):
        method_figures.figure_s3(0)


# ---- Scripts and captions ----


def test_scripts_write_what_they_are_asked_for(
    write_run: Write, write_panels: Write, choose: Write, write_study: Write, tmp_path: Path
) -> None:
    histories, distances = (list(map(str, paths)) for paths in zip(write_run(), write_run(seed=1), strict=True))
    pair = [write_run(cell=f"mog10-ip{suffix}", quantity="prior_logvar_max") for suffix in ("", "-unclipped")]
    clipped = {"histories": [str(run[0]) for run in pair], "distances": [str(run[1]) for run in pair]}
    shown = {"panels": [str(write_panels())], "chosen": [str(choose())]}
    metric = {"metric": "fd_classifier_gen"}
    grid = {"datasets": ["digits"], "cells": ["mog10"]}
    seeds = {"r_entropy": [0], "seeds": [0, 1]}
    jobs: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "figure2": (clipped, metric | {"cell": "mog10-ip"}),
        "figure4": ({"histories": histories, "distances": distances}, grid | seeds | metric),
        "figure5": (shown, grid),
        "figure6": (shown, grid),
        "samples": (shown | {"chosen": shown["chosen"][0]}, {"dataset": "digits", "cells": ["mog10"]}),
        "figureS2": ({"study": str(write_study())}, {}),
        "figureS3": ({}, {"clip_steepness": 10.0}),
    }
    for name, (inputs, params) in jobs.items():
        output = [tmp_path / "figures" / f"{name}.{suffix}" for suffix in ("pdf", "png")]
        written = []
        for _ in range(2 if name == "figure5" else 1):
            run_script(f"{name}.py", inputs, output, params, [tmp_path / f"{name}.log"])
            written.append([path.read_bytes() for path in output])
        assert written[0] == written[-1]  # the same figure, the same bytes
        assert b"/Type3" not in written[0][0]  # text stays text
        assert written[0][1].startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["figure2", "figure4", "figure5", "figure6", "figureS2", "figureS3", "samples"])
def test_captions_can_be_rendered(name: str) -> None:
    text = (ROOT / "workflow" / "report" / f"{name}.rst").read_text()
    template = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(text)
    config = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
    config["figure2"]["dataset"] = config["figureS2"]["dataset"] = "digits"
    config["images"]["evaluation"]["features"] = "classifier"
    job = SimpleNamespace(
        config=config,
        params=SimpleNamespace(metric="fd_classifier_gen", clip_steepness=7.5),
        wildcards=SimpleNamespace(dataset="digits"),
    )
    caption = " ".join(template.render(snakemake=job).split())
    assert "{" not in caption
    assert ("digits" in caption) == ("digits (stand-in for MNIST)" in caption)
    assert ("7.5 [10]" in caption) == (name == "figureS3")
    assert ("It is no FID" in caption) == (name in ("figure2", "figure4"))
