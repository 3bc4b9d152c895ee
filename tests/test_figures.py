"""Figures: what is drawn where, legible at the paper's size, and what is refused."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.text import Text

from introprior import paper
from introprior.errors import UserError
from introprior.reporting.figures import figure3 as figures
from introprior.reporting.figures.style import DATA, MODEL, TEXT_WIDTH, save
from tests.scripts import run_script

ROOT = Path(__file__).parents[1]
WEIGHTS = np.array([0.1, 0.2, 0.05, 0.65])

Write = Callable[..., Path]


@pytest.fixture
def write_panels(tmp_path: Path) -> Write:
    def write(dataset: str = "Rings", cell: str = "sg", **changes: Any) -> Path:
        random = np.random.default_rng(0)
        arrays = {
            "data": random.normal(size=(50, 2)),
            "samples": random.normal(size=(50, 2)) + 1,
            "density": random.random((20, 20)),
            "latent": random.normal(size=(50, 2)),
            "latent_density": random.random((20, 20)),
            "prior_means": random.normal(size=(4, 2)),
            "prior_weights": WEIGHTS,
        }
        arrays |= {"limit": 4.0, "latent_limit": 3.0, "dataset": dataset, "cell": cell, "seed": 0, "status": "ok"}
        path = tmp_path / f"{dataset}-{cell}.npz"
        np.savez(path, **{name: value for name, value in (arrays | changes).items() if value is not None})
        return path

    return write


def words(axis: Axes) -> list[str]:
    return [text.get_text() for text in axis.texts]


def scatters(axis: Axes) -> list[PathCollection]:
    return [artist for artist in axis.collections if isinstance(artist, PathCollection)]


# ---- Figure 3 ----


def test_rows_are_datasets_and_columns_data_and_three_panels_a_cell(write_panels: Write) -> None:
    datasets, cells = ["8Gaussian", "Rings"], ["sg", "mog64-lc"]
    paths = [write_panels(dataset, cell) for cell in cells for dataset in reversed(datasets)]  # any order will do
    figure = figures.figure3(paths, datasets, cells)
    assert len(figure.axes) == 2 * (1 + 3 * 2)
    first, second = figure.axes[:7], figure.axes[7:]
    assert [row[0].get_ylabel() for row in (first, second)] == datasets
    assert [axis.get_title() for axis in first] == ["data", *figures.PANELS * 2]
    assert not any(axis.get_title() for axis in second)
    assert [text.get_text() for text in figure.texts] == ["SG", "MoG(64) + LC"]


def test_it_is_legible_at_the_papers_width(write_panels: Write) -> None:
    for cells in (["sg"], ["sg", "mog64-lc", "mog64-lc-ip"]):
        figure = figures.figure3([write_panels("Checkerboard", cell) for cell in cells], ["Checkerboard"], cells)
        assert figure.get_figwidth() == TEXT_WIDTH
        size = figure.get_size_inches()
        boxes = [axis.get_position().bounds * np.tile(size, 2) for axis in figure.axes]
        for left, bottom, width, height in boxes:
            assert width == pytest.approx(height)
            assert width > 0.55
            assert left >= 0
            assert left + width <= TEXT_WIDTH
            assert bottom >= 0
        for (left, _, width, _), (after, *_) in itertools.pairwise(boxes):
            assert left + width < after
        texts = [text for text in figure.findobj(Text) if text.get_text()]
        assert len(texts) > 8
        assert min(text.get_fontsize() for text in texts) >= 6
        figure.draw_without_rendering()
        for text in figure.texts + figure.legends[0].get_texts():
            box = text.get_window_extent()
            assert 0 <= box.x0 < box.x1 <= figure.bbox.width


def test_panels_show_the_arrays(write_panels: Write) -> None:
    path = write_panels()
    with np.load(path) as archive:
        arrays = dict(archive)
    data, samples, density, latent = figures.figure3([path], ["Rings"], ["sg"]).axes
    for axis, name in ((data, "data"), (samples, "samples")):
        np.testing.assert_array_equal(scatters(axis)[0].get_offsets(), arrays[name])
        assert axis.get_xlim() == axis.get_ylim() == pytest.approx((-4.16, 4.16))
    posterior, prior = scatters(latent)
    np.testing.assert_array_equal(posterior.get_offsets(), arrays["latent"])
    np.testing.assert_array_equal(prior.get_offsets(), arrays["prior_means"])
    assert latent.get_xlim() == pytest.approx((-3.12, 3.12))
    (image,) = density.images
    np.testing.assert_array_equal(image.get_array(), arrays["density"])
    assert image.origin == "lower"
    half = 4 / 19  # the outer grid points lie on the window's edge, so the image reaches half a pixel beyond
    assert image.get_extent() == pytest.approx((-4 - half, 4 + half, -4 - half, 4 + half))
    assert image.get_cmap().name == "viridis"
    assert len(latent.images) == 1


def test_component_areas_are_proportional_to_weights(write_panels: Write) -> None:
    latent = figures.figure3([write_panels()], ["Rings"], ["sg"]).axes[3]
    sizes = scatters(latent)[1].get_sizes()
    assert sizes[:3] / sizes[0] == pytest.approx(WEIGHTS[:3] / WEIGHTS[0])
    assert sizes[2] < sizes[3] < sizes[0] * 6.5  # the largest is capped


def test_dense_points_are_pixels_and_text_stays_text(write_panels: Write, tmp_path: Path) -> None:
    figure = figures.figure3([write_panels()], ["Rings"], ["sg"])
    assert all(scatters(axis)[0].get_rasterized() for axis in (figure.axes[0], figure.axes[1], figure.axes[3]))
    save(figure, [tmp_path / "f.pdf", tmp_path / "f.png"], dpi=60)
    assert b"/Type0" in (tmp_path / "f.pdf").read_bytes()
    assert b"/Type3" not in (tmp_path / "f.pdf").read_bytes()
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_figure_gives_the_same_bytes(write_panels: Write, tmp_path: Path) -> None:
    for name in ("a", "b"):
        figure = figures.figure3([write_panels()], ["Rings"], ["sg"])
        save(figure, [tmp_path / f"{name}.pdf", tmp_path / f"{name}.png"], dpi=60)
    for suffix in ("pdf", "png"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_data_and_model_differ_in_lightness_too() -> None:
    """Colour-blind readers, and printers, tell the two main colours apart by more than hue."""

    def channels(colour: str) -> np.ndarray:
        return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255

    red_green = channels(DATA) - channels(MODEL)
    assert abs(red_green[2]) > 0.5  # blue-yellow axis, which deuteranopes and protanopes keep
    assert abs(red_green[0]) > 0.5


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "diverged"},
        {"samples": np.full((50, 2), np.nan)},
        {"density": np.full((20, 20), np.nan)},
        {"latent": np.zeros((0, 2))},
    ],
)
def test_a_diverged_run_leaves_panels_that_say_so(write_panels: Write, changes: dict[str, Any]) -> None:
    data, *panels = figures.figure3([write_panels(**changes)], ["Rings"], ["sg"]).axes
    assert [words(axis) for axis in panels] == [["diverged"]] * 3
    assert not any(axis.images or axis.collections for axis in panels)
    assert len(scatters(data)) == 1


def test_a_missing_run_is_named_as_such(write_panels: Write) -> None:
    axes = figures.figure3([write_panels()], ["Rings"], ["sg", "mog64-lc"]).axes
    assert [words(axis) for axis in axes] == [[]] * 4 + [["no run"]] * 3


def test_flat_or_empty_densities_can_be_drawn(write_panels: Write, tmp_path: Path) -> None:
    spike = np.zeros((100, 100))
    spike[3, 4] = 1.0
    for name, density in (("zero", np.zeros((20, 20))), ("spike", spike), ("flat", np.ones((20, 20)))):
        figure = figures.figure3([write_panels(density=density, latent_density=density)], ["Rings"], ["sg"])
        save(figure, [tmp_path / f"{name}.png"], dpi=40)
        (image,) = figure.axes[2].images
        assert image.get_clim()[1] > 0


def test_damaged_panels_are_one_line(write_panels: Write, tmp_path: Path) -> None:
    whole = write_panels().read_bytes()
    for name, content in (("cut", whole[: len(whole) // 2]), ("empty", b""), ("text", b"hello")):
        path = tmp_path / f"{name}.npz"
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}\.npz: cut short or not an archive") as caught:
            figures.figure3([path], ["Rings"], ["sg"])
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"gone\.npz: not there"):
        figures.figure3([tmp_path / "gone.npz"], ["Rings"], ["sg"])
    with pytest.raises(UserError, match="no entry 'latent'; delete it"):
        figures.figure3([write_panels(latent=None)], ["Rings"], ["sg"])
    with pytest.raises(UserError, match="nothing to show"):
        figures.figure3([], ["Rings"], ["sg"])
    with pytest.raises(UserError, match="nothing to show"):
        figures.figure3([write_panels()], [], ["sg"])


def test_other_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown figure format '\.svg'"):
        save(Figure(), [tmp_path / "f.svg"])
    assert not list(tmp_path.iterdir())


def test_figure3_script(write_panels: Write, tmp_path: Path) -> None:
    output = [tmp_path / "figures" / f"figure3.{suffix}" for suffix in ("pdf", "png")]
    params = {"datasets": ["Rings"], "cells": ["sg"]}
    run_script("figure3.py", {"panels": [write_panels()]}, output, params, [tmp_path / "figure3.log"])
    made = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert made == ["figure3.pdf", "figure3.png", "figure3.provenance.json"]


# ---- The search ----


def write_search(folder: Path, dataset: str, beta_neg: bool = True) -> tuple[list[Path], Path]:
    """Two slices of six settings, one of them diverged; KL is 10 beta_rec + beta_kl: the first setting is the best."""
    paths, best = [], {"beta_rec": 0.2, "beta_kl": 0.1, "beta_neg": 0.2 if beta_neg else None}
    for k, beta_rec in enumerate((0.2, 0.4)):
        lines = ["beta_rec,beta_kl,beta_neg,seed,KL,JSD,status,detail"]
        for beta_kl in (0.1, 0.3, 0.5):
            twice = 2 * beta_kl if beta_neg else ""
            bad = beta_rec == 0.4 and beta_kl == 0.5
            lines.append(
                f"{beta_rec},{beta_kl},{twice},0,,,diverged,why"
                if bad
                else f"{beta_rec},{beta_kl},{twice},0,{10 * beta_rec + beta_kl},1,ok,"
            )
        path = folder / dataset / "sg" / "search" / f"slice-{k}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
        paths.append(path)
    choice = folder / dataset / "sg" / "hyperparameters.json"
    cell = "sg" if beta_neg else "vae-sg"
    record = {"dataset": dataset, "cell": cell, **best, "source": "search", "settings": 6, "diverged": 1, "KL": 2.1}
    choice.write_text(json.dumps(record))
    return paths, choice


def test_search_figure_marks_choice_default_and_divergence(tmp_path: Path) -> None:
    datasets = ("Checkerboard", "Rings")
    written = {dataset: write_search(tmp_path, dataset) for dataset in datasets}
    slices = {dataset: paths for dataset, (paths, _) in written.items()}
    figure = figures.search_figure(slices, [choice for _, choice in written.values()], "sg")
    checkerboard, rings = figure.axes
    assert checkerboard.get_title() == "Checkerboard"
    low, high, bad, default, chosen = (artist.get_offsets() for artist in scatters(checkerboard))
    assert [len(points) for points in (low, high, bad, default, chosen)] == [3, 2, 1, 1, 1]
    assert chosen[0].tolist() == low[0].tolist() == default[0].tolist()  # Daniel and Tamar's are 0.2, 0.1, 0.2
    assert chosen[0, 1] == pytest.approx(2.1)
    assert low[:, 1].tolist() == pytest.approx([2.1, 2.3, 2.5])
    assert bad[0, 0] == pytest.approx(2, abs=0.5)  # in the third strip of beta_kl
    assert len(scatters(rings)[3].get_offsets()) == 0  # 0.2, 0.2, 1 was not tried
    assert paper.hyperparameters("Rings", "daniel-tamar")["beta_neg"] == 1
    texts = [text for text in figure.findobj(Text) if text.get_text()]
    assert min(text.get_fontsize() for text in texts) >= 6
    assert figure.get_figwidth() == TEXT_WIDTH


def test_search_figure_of_a_vae(tmp_path: Path) -> None:
    paths, choice = write_search(tmp_path, "Rings", beta_neg=False)
    figure = figures.search_figure({"Rings": paths}, [choice], "vae-sg")
    *_, chosen = scatters(figure.axes[0])
    assert len(chosen.get_offsets()) == 1
    save(figure, [tmp_path / "search.png"], dpi=40)


def test_search_script(tmp_path: Path) -> None:
    written = {dataset: write_search(tmp_path, dataset) for dataset in ("8Gaussian", "Rings")}
    slices = [path for paths, _ in written.values() for path in paths]
    inputs = {"slices": slices, "choices": [choice for _, choice in written.values()]}
    run_script("search.py", inputs, [tmp_path / "search-sg.png"], {"datasets": list(written), "cell": "sg"})
    assert (tmp_path / "search-sg.png").read_bytes().startswith(b"\x89PNG")


def test_damaged_slices_are_one_line(tmp_path: Path) -> None:
    paths, choice = write_search(tmp_path, "Rings")
    text = paths[1].read_text()
    paths[1].write_text(text[:-15])
    with pytest.raises(UserError, match=r"slice-1\.csv.*cut short"):
        figures.search_figure({"Rings": paths}, [choice], "sg")
    paths[1].write_text(text.replace("beta_neg", "beta_nag"))
    with pytest.raises(UserError, match=r"slice-1\.csv: no column 'beta_neg'"):
        figures.search_figure({"Rings": paths}, [choice], "sg")
    with pytest.raises(UserError, match="no datasets given"):
        figures.search_figure({}, [choice], "sg")
