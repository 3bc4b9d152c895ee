"""Figures of image runs and of the method: what is drawn where, what is told of missing runs, and what is refused."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from introprior.data.images import DATASETS
from introprior.experiment.families import FAMILIES
from introprior.game.priors.mixture import soft_clip
from introprior.operations.files import write_csv, write_json
from introprior.reporting import read
from introprior.reporting.figures import curves, draw, figure6, figureS2, figureS3, latents, samples
from introprior.reporting.figures.style import DATA, MODEL, class_colours
from tests import test_figures
from tests.commands import refused
from tests.scripts import run_script
from tests.test_figures import legible, scatters, words

MIXTURES = [f"mog{components}{rest}" for components in (10, 100) for rest in ("", "-ip", "-lc", "-lc-ip")]
CELLS = ["sg", *MIXTURES]
TITLES = ["SG", *(f"MoG({components}){rest}" for components in (10, 100) for rest in ("", "+IP", "+LC", "+LC+IP"))]

here = test_figures.here  # a fixture


def lines(axis: Axes, colour: str, dotted: bool = False) -> list[np.ndarray]:
    """Points of the curves of a colour, solid or dotted."""
    found = [line for line in axis.lines if to_hex(line.get_color()) == colour.lower() and line.get_linewidth() >= 1]
    return [line.get_xydata() for line in found if (line.get_linestyle() == "--") is dotted]


def crosses(axis: Axes) -> list[list[float]]:
    return [line.get_xydata()[0].tolist() for line in axis.lines if line.get_marker() == "x"]


# ---- Test input, in the formats of the workflow ----


def write_run(
    dataset="digits", cell="mog10", r=0.0, seed=0, factor=1.0, died=None, quantity="responsibility_entropy"
) -> tuple[Path, Path]:
    """Write history.csv and distances.csv: a quantity is 1, 0.5, 0.25 … at epochs 2, 3, 4 …; distances at 0 and 4."""
    run = {"dataset": dataset, "cell": cell, "r_entropy": r, "seed": seed}
    history = [run | {"epoch": 1, "quantity": "vae_loss", "value": 9.0}]
    for epoch in range(2, 7 if died is None else died + 1):
        for name, value in (("encoder_loss", 1.0), (quantity, factor * 0.5 ** (epoch - 2))):
            history.append(run | {"epoch": epoch, "quantity": name, "value": math.nan if epoch == died else value})
    ok = run | {"metric": "fd_classifier_gen", "status": "ok", "detail": ""}
    distances = [ok | {"epoch": 0, "value": 8 * factor}, ok | {"epoch": 0, "metric": "fid_gen", "value": 1e6}]
    if died is None or died > 4:
        distances.append(ok | {"epoch": 4, "value": 4 * factor})
    folder = Path(f"{dataset}-{cell}-{r}-{seed}")
    paths = folder / "history.csv", folder / "distances.csv"
    for path, rows in zip(paths, (history, distances), strict=True):
        write_csv(path, rows, list(rows[0]))
    return paths


def write_panels(dataset: str = "digits", cell: str = "mog10", r: float = 10, seed: int = 0, **changes: Any) -> Path:
    random = np.random.default_rng(int(r))
    components = 1 if cell == "sg" else 10
    weights = np.linspace(1, 2, components)
    images = random.integers(0, 256, (5, *DATASETS[dataset].shape), np.uint8)
    content: dict[str, Any] = {"samples": images, "real": images[:3], "reconstructions": images[:3] // 2}
    content |= {"z": random.normal(size=(40, 3)).astype(np.float32), "labels": np.arange(40) % 10}
    content |= {"prior_means": random.normal(size=(components, 3)), "prior_weights": weights / weights.sum()}
    content |= {"classes": np.array(DATASETS[dataset].classes), "epoch": 5, "status": "ok", "detail": ""}
    content |= {"dataset": dataset, "cell": cell, "r_entropy": r, "seed": seed} | changes
    path = Path(f"{dataset}-{cell}-r{r:g}-seed{seed}.npz")
    np.savez(path, **{name: value for name, value in content.items() if value is not None})
    return path


def choose(dataset: str = "digits", **r_entropy: float) -> Path:
    taken = {cell: 0 if cell == "sg" else 10 for cell in CELLS} | r_entropy
    chosen = {cell: {"r_entropy": r, "candidates": []} for cell, r in taken.items()}
    path = Path(dataset, "r_entropy.json")
    write_json(path, {"dataset": dataset, "metric": "fd_classifier_gen", "cells": chosen})
    return path


def write_study(**changes: Any) -> Path:
    random = np.random.default_rng(0)
    content: dict[str, Any] = {name: random.random((2, 3, 2, 5)) + 1 for name in read.STUDY_CURVES}
    content |= {"iterations": np.arange(5) * 10, "beta_neg": np.array([1.0, 128.0])}
    content |= {"dataset": "digits", "cell": "mog10", "epoch": 5}
    for b in range(2):
        for c, (real, fake) in enumerate(((10, 10), (1, 10), (10, 1))):
            for name, count in (("real", real), ("real_rec", real), ("fake", fake), ("fake_rec", fake)):
                content[f"{name}_{b}_{c}"] = random.integers(0, 256, (count, 1, 4, 4), np.uint8)
    path = Path("study.npz")
    np.savez(path, **{name: value for name, value in (content | changes).items() if value is not None})
    return path


def course(name: str, runs: Sequence[tuple[Path, Path]], **params: Any) -> Figure:
    histories, distances = zip(*runs, strict=True)
    return draw(name, {"histories": histories, "distances": distances}, metric="fd_classifier_gen", **params)


def latent(name: str, paths: Sequence[Path], chosen: Sequence[Path], cells: Sequence[str] = ("mog10",)) -> Figure:
    return draw(name, {"image_panels": paths, "chosen": chosen}, datasets=["digits"], cells=cells)


# ---- Figure 2 ----


def clipping(died: int | None) -> Figure:
    clipped = write_run(cell="mog10-lc-ip", quantity="prior_logvar_max")
    free = write_run(cell="mog10-lc-ip-unclipped", quantity="prior_logvar_max", factor=3, died=died)
    return course("figure2", [free, clipped], cell="mog10-lc-ip")


def test_clipping_shows_log_variance_and_distance_of_both_runs_and_crosses_where_it_was_missed() -> None:
    figure = clipping(died=5)
    legible(figure)
    variance, distance = figure.axes
    assert distance.get_ylabel() == "FD-classifier (GEN) ↓"
    assert figure.get_suptitle() == "Digits (stand-in for MNIST): MoG(10)+LC+IP"
    epochs = np.arange(2, 7)
    np.testing.assert_allclose(lines(variance, DATA)[0], np.c_[epochs, 0.5 ** (epochs - 2.0)])
    np.testing.assert_allclose(lines(variance, MODEL)[0], [[2, 3], [3, 1.5], [4, 0.75]])
    np.testing.assert_allclose(lines(distance, DATA)[0], [[0, 8], [4, 4]])
    np.testing.assert_allclose(lines(distance, MODEL)[0], [[0, 24], [4, 12]])
    assert all(any(list(line.get_xdata()) == [2, 2] for line in axis.lines) for axis in figure.axes)  # the game starts
    assert [crosses(axis) for axis in figure.axes] == [[[5, 0.75]], [[5, 12]]]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["clipped", "not clipped", "the game starts", "diverged at epoch 5"]
    unharmed = clipping(died=None)
    assert not any(map(crosses, unharmed.axes))
    assert len(unharmed.legends[0].get_texts()) == 3


@pytest.mark.parametrize(("planned", "noted"), [(4, 4), (219, 6)])  # the latter is an epoch that it didn't reach
def test_a_distance_that_is_not_finite_counts_as_divergence(planned: int, noted: int) -> None:
    history, distances = write_run()
    text = distances.read_text()
    assert ",ok,,4,4" in text
    distances.write_text(text.replace(",ok,,4,4", f",diverged,,{planned},"))
    tidy = pd.DataFrame(read.histories([history])), pd.DataFrame(read.distances([distances]))
    runs, _ = curves.courses(*tidy, "responsibility_entropy", "fd_classifier_gen")
    assert runs["diverged"].tolist() == [noted]


# ---- Figure 4 ----


def responsibilities(runs: Sequence[tuple[Path, Path]], **changes: Any) -> Figure:
    params = {"datasets": ["digits"], "cells": ["mog10"], "r_entropy": [0], "seeds": [0]} | changes
    return course("figure4", runs, **params)


def test_columns_are_components_and_ip_and_rows_datasets() -> None:
    datasets = ["FMNIST", "digits"]
    runs = [write_run(dataset, cell) for dataset in datasets for cell in MIXTURES]
    figure = responsibilities(runs, datasets=datasets, cells=CELLS)
    legible(figure)
    assert [block.get_suptitle() for block in figure.subfigs] == ["Fashion-MNIST", "Digits (stand-in for MNIST)"]
    for block in figure.subfigs:
        titles = [axis.get_title() for axis in block.axes]
        assert titles == ["MoG(10), fixed", "MoG(10), IP", "MoG(100), fixed", "MoG(100), IP", "", "", "", ""]
        assert block.axes[0].get_ylabel() == "normalised\nentropy"
        assert block.axes[4].get_ylabel() == "FD-classifier\n(GEN) ↓"
        assert block.axes[0].get_ylim() == pytest.approx((-0.03, 1.03))


def test_who_learns_the_prior_and_by_which_divergence_makes_another_column() -> None:
    mixtures = ["mog10-ep", "mog10", "mog10-lc-ip", "mog10-cs", "mog10-lc-ep"]
    figure = responsibilities([write_run("digits", cell) for cell in mixtures], datasets=["digits"], cells=mixtures)
    titles = [axis.get_title() for axis in figure.subfigs[0].axes]
    assert titles == ["MoG(10), EP", "MoG(10), fixed", "MoG(10), fixed, CS", "MoG(10), IP", "", "", "", ""]


@pytest.fixture
def student(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another family with components."""
    known = dataclasses.replace(FAMILIES["mog"], name="student", label="Student({size})")
    monkeypatch.setitem(FAMILIES, "student", known)


def test_families_of_as_many_components_have_columns_of_their_own(student: None) -> None:
    cells = ["mog10-ip", "student10-ip", "student10"]
    figure = responsibilities([write_run(cell=cell, factor=k) for k, cell in enumerate(cells, 1)], cells=cells)
    axes = figure.subfigs[0].axes[:3]
    assert [axis.get_title() for axis in axes] == ["Student(10), fixed", "MoG(10), IP", "Student(10), IP"]
    assert [lines(axis, DATA, True)[0][0, 1] for axis in axes] == pytest.approx([3, 1, 2])


def test_lines_are_means_and_bands_extremes_over_seeds() -> None:
    runs = [write_run(seed=0, factor=1), write_run(seed=1, factor=0.5), write_run(r=10, factor=0.2)]
    entropy, distance = responsibilities(runs, r_entropy=[0, 10], seeds=[0, 1]).subfigs[0].axes
    epochs = np.arange(2, 7)
    np.testing.assert_allclose(lines(entropy, DATA, True)[0], np.c_[epochs, 0.75 * 0.5 ** (epochs - 2.0)])
    np.testing.assert_allclose(lines(entropy, MODEL, True)[0], np.c_[epochs, 0.2 * 0.5 ** (epochs - 2.0)])
    np.testing.assert_allclose(lines(distance, DATA, True)[0], [[0, 6], [4, 3]])
    band = np.concatenate([path.vertices for path in entropy.collections[0].get_paths()])
    first = band[band[:, 0] == 2][:, 1]
    assert (first.min(), first.max()) == pytest.approx((0.5, 1))
    assert not entropy.collections[1].get_paths()  # of r_entropy 10 there's one seed alone


def test_blue_is_unregularised_and_dotted_is_without_lc() -> None:
    factors = {("mog10", 0): 0.1, ("mog10-lc", 0): 0.2, ("mog10", 100): 0.6, ("mog10-lc", 100): 0.7}
    runs = [write_run(cell=cell, r=r, factor=factor) for (cell, r), factor in factors.items()]
    figure = responsibilities(runs, cells=["mog10", "mog10-lc"], r_entropy=[100, 0])
    entropy = figure.subfigs[0].axes[0]
    drawn = [lines(entropy, colour, dotted)[0][0, 1] for colour in (DATA, MODEL) for dotted in (True, False)]
    assert drawn == pytest.approx([0.1, 0.2, 0.6, 0.7])
    assert [text.get_text() for text in figure.legends[0].get_texts()][-2:] == ["without LC", "with LC"]


def test_divergence_and_absence_are_shown() -> None:
    runs = [write_run(died=4), write_run(seed=1), write_run(cell="mog10-ip", died=2)]
    figure = responsibilities(runs, cells=["mog10", "mog10-ip", "mog100"], seeds=[0, 1])
    axes = figure.subfigs[0].axes
    assert crosses(axes[0]) == [[4, 0.5]]  # the level of the last finite value
    assert lines(axes[0], DATA, True)[0][-1].tolist() == [6, 0.0625]  # the mean of who is left
    assert [words(axis) for axis in (axes[1], axes[2], axes[5])] == [["diverged"], ["no run"], ["no run"]]
    assert figure.legends[0].get_texts()[-1].get_text() == "diverged"


def test_long_curves_are_averaged_with_their_neighbours() -> None:
    values = pd.DataFrame({"epoch": np.arange(1000) / 10, "value": np.arange(1000.0)})
    values = pd.concat([values.assign(seed=0), values.assign(seed=1, value=values["value"] + 2)])
    short = curves.thinned(values, points=100)
    for seed in (0, 1):
        np.testing.assert_allclose(short.query("seed == @seed")["value"], np.arange(100) * 10 + 4.5 + 2 * seed)
        np.testing.assert_allclose(short.query("seed == @seed")["epoch"], np.arange(100) + 0.45)
    assert curves.thinned(values, points=1000) is values


def test_damaged_courses_are_one_line() -> None:
    runs = (history, distances), _ = write_run(), write_run(seed=1)
    whole, ok = history.read_text(), distances.read_text()
    for path, content, said in (
        (history, whole[:-3], "history.csv: cut short; delete it"),
        (history, "", "history.csv: no column 'dataset'"),
        (history, whole.replace("0.5", "half"), "history.csv, line 6: could not convert string to float: 'half'"),
        (history, whole.replace("mog10", "mog100"), "distances.csv of digits, mog10 comes without the run's history"),
        (distances, ok.replace(",ok,", ",fine,"), "distances.csv, line 2: unknown status 'fine'"),
        (distances, None, "distances.csv: cannot read (No such file"),
    ):
        path.unlink() if content is None else path.write_text(content)
        refused(lambda: responsibilities(runs), said)
        history.write_text(whole)
        distances.write_text(ok)
    distances.write_text(ok.partition("\n")[0] + "\n")  # a run that had no snapshot has no distances
    assert words(responsibilities(runs[:1]).subfigs[0].axes[1]) == ["diverged"]


# ---- Figures 5 and 6 ----


def test_lines_of_panels_are_numbers_of_components() -> None:
    assert latents.arrange(CELLS) == [CELLS[:5], ["", *CELLS[5:]]]
    assert latents.arrange(["mog10", "mog10-ip"]) == [["mog10", "mog10-ip"]]
    assert latents.arrange(["sg"]) == [["sg"]]
    assert latents.arrange(["mog100", "sg"]) == [["sg", "mog100"]]


def test_families_of_as_many_components_have_lines_of_their_own(student: None) -> None:
    assert latents.arrange(["sg", "mog10", "student10", "mog10-ip"]) == [["sg", "mog10", "mog10-ip"], ["", "student10"]]


@pytest.mark.parametrize("datasets", [["MNIST", "FMNIST", "CIFAR-10"], ["photos"]])
def test_latent_panels_carry_the_names_of_dataset_and_cell(datasets: list[str]) -> None:
    paths = [write_panels(d, cell, 0 if cell == "sg" else 10) for d in datasets for cell in CELLS]
    inputs = {"image_panels": paths[::-1], "chosen": [choose(d) for d in datasets]}
    figure = draw("figure5", inputs, datasets=datasets, cells=CELLS)
    legible(figure)
    axes = [axis for block in figure.subfigs for axis in block.axes]
    assert [block.get_suptitle() for block in figure.subfigs] == [DATASETS[d].title for d in datasets]
    assert [axis.get_title(loc="left") for axis in axes] == TITLES * len(datasets)
    assert [axis.get_title(loc="right") for axis in axes[:9]] == ["", *["r = 10"] * 8]
    for block, dataset in zip(figure.subfigs, datasets, strict=True):
        told = [text.get_text() for text in block.legends[0].get_texts()]
        assert told == [*DATASETS[dataset].classes, "components"]


def test_codes_are_coloured_by_class_and_components_sized_by_weight() -> None:
    content = np.load(path := write_panels())
    figure = latent("figure5", [path], [choose()])
    figure.draw_without_rendering()
    (axis,) = figure.subfigs[0].axes
    codes, means = scatters(axis)
    np.testing.assert_allclose(codes.get_offsets(), content["z"][:, :2])
    colours = [class_colours(10)[label].lower() for label in content["labels"]]
    assert [to_hex(colour) for colour in codes.get_facecolors()] == colours
    np.testing.assert_allclose(means.get_offsets(), content["prior_means"][:, :2])
    np.testing.assert_allclose(means.get_sizes() / means.get_sizes()[0], np.linspace(1, 2, 10))
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    points = content["prior_means"][:, :2]
    assert ((points > (left, bottom)) & (points < (right, top))).all()
    box = axis.get_window_extent()
    assert (right - left) / box.width == pytest.approx((top - bottom) / box.height)  # equal scales


def test_a_prior_without_components_is_drawn_without_their_marks() -> None:
    path = write_panels(prior_means=np.zeros((0, 3)), prior_weights=np.zeros(0))
    (axis,) = latent("figure5", [path], [choose()]).subfigs[0].axes
    assert (words(axis), len(scatters(axis))) == ([], 1)


def test_the_chosen_r_entropy_is_shown() -> None:
    paths = {r: write_panels(r=r) for r in (0, 1, 10)}
    for chosen in (1, 10):
        (axis,) = latent("figure5", list(paths.values()), [choose(mog10=chosen)]).subfigs[0].axes
        np.testing.assert_allclose(scatters(axis)[0].get_offsets(), np.load(paths[chosen])["z"][:, :2])
        assert axis.get_title(loc="right") == f"r = {chosen}"


def test_tsne_separates_what_is_apart_and_is_reproducible() -> None:
    random = np.random.default_rng(1)
    labels = np.arange(60) % 3
    z = (random.normal(size=(3, 8)) * 20)[labels] + random.normal(size=(60, 8))
    (axis,) = latent("figure6", [write_panels(z=z, labels=labels)], [choose()]).subfigs[0].axes
    (codes,) = scatters(axis)  # no prior
    drawn = np.array(codes.get_offsets())
    np.testing.assert_array_equal(drawn, figure6.embed(z))  # in the order of the labels
    distances = np.linalg.norm(drawn[:, None] - drawn, axis=-1)
    np.fill_diagonal(distances, np.inf)
    assert (labels[distances.argmin(1)] == labels).all()
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    assert ((drawn > (left, bottom)) & (drawn < (right, top))).all()
    few = np.arange(8.0).reshape(4, 2)
    np.testing.assert_array_equal(figure6.embed(few), few)
    assert figure6.embed(np.ones((9, 1))).tolist() == [[1, 0]] * 9
    assert np.isfinite(figure6.embed(random.normal(size=(6, 3)))).all()


@pytest.mark.parametrize("name", ["figure5", "figure6"])
def test_latent_panels_without_a_run_say_so(name: str) -> None:
    nan = np.full((40, 3), np.nan)
    paths = [write_panels(), write_panels(cell="mog10-ip", status="diverged"), write_panels(cell="mog10-lc", z=nan)]
    axes = latent(name, paths, [choose()], ["mog10", "mog10-ip", "mog10-lc", "mog100"]).subfigs[0].axes
    assert [words(axis) for axis in axes] == [[], ["diverged"], ["diverged"], ["no run"]]
    assert not any(scatters(axis) for axis in axes[1:])


def test_damaged_panels_are_one_line() -> None:
    for path, said in (
        (write_panels(z=None), "no entry 'z'; delete it"),
        (write_panels(cell="sg", classes=np.array([object()])), "cut short or not an archive"),
        (Path("gone.npz"), "gone.npz: not there"),
    ):
        refused(partial(latent, "figure5", [path], [choose()]), said)


# ---- Images ----


def tile(axis: Axes, size: int, row: int, column: int) -> np.ndarray:
    """An image of a mosaic, ``[C, H, W]``."""
    picture = np.asarray(axis.images[0].get_array())
    picture = picture[..., None] if picture.ndim == 2 else picture
    y, x = row * (size + 2) + 1, column * (size + 2) + 1
    return np.moveaxis(picture[y : y + size, x : x + size], -1, 0)


@pytest.mark.parametrize("dataset", ["digits", "photos"])
def test_samples_are_drawn_beside_reconstructions(dataset: str) -> None:
    content = np.load(path := write_panels(dataset))
    inputs = {"image_panels": [path], "chosen": [choose(dataset)]}
    figure = draw("samples", inputs, dataset=dataset, cells=["mog10"])
    legible(figure)
    assert figure.get_suptitle() == DATASETS[dataset].title
    generated, pairs = figure.axes
    assert generated.get_ylabel() == "MoG(10)\nr = 10, epoch 5"
    assert [axis.get_title() for axis in figure.axes] == ["generated", "test images over their reconstructions"]
    channels, size, _ = DATASETS[dataset].shape
    drawn = np.asarray(generated.images[0].get_array())
    assert drawn.shape[:2] == (2 * (size + 2), samples.GENERATED * (size + 2))
    if channels == 1:
        assert generated.images[0].get_cmap().name == "gray"
        assert generated.images[0].get_clim() == (0, 255)
    for k in range(5):
        np.testing.assert_array_equal(tile(generated, size, 0, k), content["samples"][k])
    for row, name in enumerate(("real", "reconstructions")):
        np.testing.assert_array_equal(tile(pairs, size, row, 2), content[name][2])
        assert (tile(pairs, size, row, 3) == 255).all()  # there are three pairs


def test_samples_of_all_cells_have_a_line_each() -> None:
    paths = [write_panels(cell=cell, r=0 if cell == "sg" else 10) for cell in CELLS[:6]]
    paths += [write_panels(cell=CELLS[8], r=100, epoch=219), write_panels(cell=CELLS[6], status="diverged")]
    inputs = {"image_panels": paths, "chosen": [choose(**{CELLS[8]: 100})]}
    figure = draw("samples", inputs, dataset="digits", cells=CELLS)
    legible(figure)
    labels = [axis.yaxis.label for axis in figure.axes[::2]]
    told = {0: "SG\nepoch 5", 4: "MoG(10)+LC+IP\nr = 10, epoch 5", 8: "MoG(100)+LC+IP\nr = 100, epoch 219"}
    assert {row: labels[row].get_text() for row in told} == told
    left = min(axis.get_window_extent().x0 for axis in figure.axes[::2])
    assert max(label.get_window_extent().x1 for label in labels) < left
    assert [words(axis) for axis in figure.axes[-6:]] == [["diverged"]] * 2 + [["no run"]] * 2 + [[]] * 2
    bottoms = [axis.get_position().y0 for axis in figure.axes[::2]]
    assert bottoms == sorted(bottoms, reverse=True)


# ---- Figure S2 ----


def test_encoder_study_has_configurations_in_rows_and_beta_neg_in_columns() -> None:
    content = np.load(path := write_study())
    figure = draw("figureS2", {"study": [path]})
    legible(figure)
    assert "Digits (stand-in for MNIST): MoG(10)" in figure.get_suptitle()
    assert len(figure.subfigs) == 6
    for index, half in enumerate(figure.subfigs):
        c, b = divmod(index, 2)
        assert half.get_suptitle().startswith(figureS2.CONFIGURATIONS[c])
        assert half.get_suptitle().endswith(("= 1", "= 128")[b])
        plots, strips = half.axes[:3], half.axes[3:]
        assert [axis.get_title() for axis in plots] == ["REC", "KL", "NELBO"]
        for axis, name in zip(plots, read.STUDY_CURVES, strict=True):
            for kind, colour in enumerate((DATA, MODEL)):
                expected = np.c_[content["iterations"], content[name][b, c, kind]]
                np.testing.assert_allclose(lines(axis, colour)[0], expected)
        assert [axis.get_ylabel() for axis in strips] == ["real", "reconstructed", "generated", "reconstructed"]
        for axis, name in zip(strips, read.STUDY_IMAGES, strict=True):
            images = content[f"{name}_{b}_{c}"]
            assert axis.images[0].get_array().shape == (6, 60)
            for k in range(10):
                np.testing.assert_array_equal(tile(axis, 4, 0, k), images[k] if k < len(images) else 255)


def test_encoder_study_that_diverged() -> None:
    kl, rec = np.ones((2, 3, 2, 5)), np.ones((2, 3, 2, 5))
    kl[1, 2] = np.nan
    rec[0, 0, 1] = (1, 10, 1e9, np.inf, np.nan)
    figure = draw("figureS2", {"study": [write_study(kl=kl, rec=rec)]})
    assert words(figure.subfigs[5].axes[1]) == ["diverged"]
    axis = figure.subfigs[0].axes[0]
    assert axis.get_yscale() == "log"
    np.testing.assert_array_equal(lines(axis, MODEL)[0][:, 1], (1, 10, 1e9, np.nan, np.nan))


# ---- Figure S3 ----


@pytest.mark.parametrize(("low", "high", "steepness"), [(-1, 1, 10), (-4, 4, 1), (-10, 2, 20)])
def test_soft_clip_is_the_models(low: float, high: float, steepness: float) -> None:
    x = np.linspace(2 * low - high, 2 * high - low, 101)
    ours = figureS3.soft_clip(x, low, high, steepness / (high - low))
    np.testing.assert_allclose(ours, soft_clip(torch.tensor(x), low, high, steepness), atol=1e-6)


def test_retained_share_depends_on_the_steepness_alone() -> None:
    shares = [figureS3.retained(low, high, 10 / (high - low)) for low, high in figureS3.RANGES]
    assert shares == pytest.approx([1 - (math.log(4) - 2 * math.log1p(math.exp(-10))) / 10] * 3)  # Eq. 95
    assert shares[0] > 0.85  # the paper's rho
    fixed = [figureS3.retained(low, high, 1) for low, high in figureS3.RANGES]
    assert fixed[0] < 0.5 < fixed[1] < fixed[2]


def test_soft_clipping_is_shown_for_every_range_and_steepness() -> None:
    figure = draw("figureS3", {}, clip_steepness=10)
    legible(figure)
    axes = np.reshape(figure.axes, (3, 5))
    titles = [axis.get_title().splitlines()[-1] for axis in axes[0]]
    assert titles == ["β = 1", "K = 1", "K = 5", "K = 10 (used)", "K = 20"]
    for (low, high), row in zip(figureS3.RANGES, axes, strict=True):
        for beta, axis in zip((1, *(k / (high - low) for k in (1, 5, 10, 20))), row, strict=True):
            (curve,) = lines(axis, MODEL)
            np.testing.assert_allclose(curve[:, 1], figureS3.soft_clip(curve[:, 0], low, high, beta))
            assert words(axis) == [f"{figureS3.retained(low, high, beta):.0%} kept"]
    assert len(draw("figureS3", {}, clip_steepness=3).axes) == 18


# ---- Script ----


def test_the_script_writes_what_it_is_asked_for() -> None:
    shown = {"image_panels": [write_panels()], "chosen": choose()}
    histories, distances = zip(write_run(), write_run(seed=1), strict=True)
    metric = {"metric": "fd_classifier_gen", "r_entropy": [0], "seeds": [0, 1]}
    grid = {"datasets": ["digits"], "cells": ["mog10"]}
    for name, inputs, params in (
        ("figure4", {"histories": histories, "distances": distances}, grid | metric),
        ("figure5", shown, grid),
        ("samples", shown, {"dataset": "digits", "cells": ["mog10"]}),
        ("figureS2", {"study": write_study()}, {}),
        ("figureS3", {}, {"clip_steepness": 10.0}),
    ):
        formats = ("pdf",) if name == "figureS2" else ("pdf", "png")  # its layout takes seconds
        output, written = [Path(f"figures/{name}.{suffix}") for suffix in formats], []
        for _ in range(2 if name == "figure5" else 1):
            run_script("figure.py", inputs, output, {"figure": name, **params}, [f"{name}.log"])
            written.append([path.read_bytes() for path in output])
        assert written[0] == written[-1]  # the same figure, the same bytes
        assert b"/Type3" not in written[0][0]  # text stays text
        assert all(picture.startswith(b"\x89PNG") for picture in written[0][1:])
        assert Path(f"{name}.log").read_text() == ""
        assert Path(f"figures/{name}.pdf.provenance.json").exists()
