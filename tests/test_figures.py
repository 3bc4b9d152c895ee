"""Figures: what is drawn where, legible at the paper's size, and what is refused."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from introprior import paper
from introprior.reporting.figures import draw
from introprior.reporting.figures.figure3 import PANELS
from introprior.reporting.figures.style import DATA, MODEL, TEXT_WIDTH, save
from tests.commands import refused

WEIGHTS = np.array([0.1, 0.2, 0.05, 0.65])


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test writes into a folder of its own."""
    monkeypatch.chdir(tmp_path)


def write_panels(dataset: str = "Rings", cell: str = "sg", **changes: Any) -> Path:
    random = np.random.default_rng(0)
    arrays = {name: random.normal(size=(50, 2)) for name in ("data", "samples", "latent")}
    arrays |= {name: random.random((20, 20)) for name in ("density", "latent_density")}
    arrays |= {"prior_means": random.normal(size=(4, 2)), "prior_weights": WEIGHTS, "limit": 4.0, "latent_limit": 3.0}
    arrays |= {"dataset": dataset, "cell": cell, "seed": 0, "status": "ok"}
    path = Path(f"{dataset}-{cell}.npz").resolve()
    np.savez(path, **{name: value for name, value in (arrays | changes).items() if value is not None})
    return path


def words(axis: Axes) -> list[str]:
    return [text.get_text() for text in axis.texts]


def scatters(axis: Axes) -> list[PathCollection]:
    return [artist for artist in axis.collections if isinstance(artist, PathCollection)]


def legible(figure: Figure, at_least: int = 4) -> None:
    """Of the paper's width, with so many texts, none of them smaller than 6 points or outside."""
    assert figure.get_figwidth() == TEXT_WIDTH
    figure.draw_without_rendering()
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    assert len(texts) >= at_least
    assert min(text.get_fontsize() for text in texts) >= 6
    axes = figure.findobj(Axes)  # labels of ticks beyond the limits are not drawn
    ticks = {id(text) for axis in axes for text in (*axis.get_xticklabels(), *axis.get_yticklabels())}
    for text in texts:
        if id(text) not in ticks:
            box = text.get_window_extent()
            assert -1 <= box.x0 < box.x1 <= figure.bbox.width + 1, text
            assert -1 <= box.y0 < box.y1 <= figure.bbox.height + 1, text


def figure3(paths: list[Path], datasets: Sequence[str] = ("Rings",), cells: Sequence[str] = ("sg",)) -> Figure:
    return draw("figure3", {"density_panels": paths}, datasets=datasets, cells=cells)


# ---- Figure 3 ----


@pytest.mark.parametrize("cells", [["sg"], ["sg", "mog64-lc", "mog64-lc-ip"]])
def test_rows_are_datasets_columns_cells_and_all_is_legible(cells: list[str]) -> None:
    datasets = ["8Gaussian", "Checkerboard"]
    paths = [write_panels(dataset, cell) for cell in cells for dataset in reversed(datasets)]  # any order will do
    figure = figure3(paths, datasets, cells)
    width = 1 + 3 * len(cells)
    first, second = figure.axes[:width], figure.axes[width:]
    assert [row[0].get_ylabel() for row in (first, second)] == datasets
    assert [axis.get_title() for axis in first] == ["data", *PANELS * len(cells)]
    assert not any(axis.get_title() for axis in second)
    assert [text.get_text() for text in figure.texts] == ["SG", "MoG(64) + LC", "MoG(64) + LC + IP"][: len(cells)]
    legible(figure, at_least=9)
    boxes = [axis.get_position().bounds * np.tile(figure.get_size_inches(), 2) for axis in first]
    for left, bottom, width, height in boxes:
        assert height == pytest.approx(width)
        assert width > 0.55
        assert 0 <= left < left + width <= TEXT_WIDTH
        assert bottom >= 0
    for (left, _, width, _), (after, *_) in itertools.pairwise(boxes):
        assert left + width < after


def test_panels_show_the_arrays() -> None:
    arrays = np.load(path := write_panels())
    data, samples, density, latent = figure3([path]).axes
    for axis, name in ((data, "data"), (samples, "samples")):
        np.testing.assert_array_equal(scatters(axis)[0].get_offsets(), arrays[name])
        assert axis.get_xlim() == axis.get_ylim() == pytest.approx((-4.16, 4.16))
    posterior, prior = scatters(latent)
    assert all(scatters(axis)[0].get_rasterized() for axis in (data, samples, latent))  # pixels for dense points
    np.testing.assert_array_equal(posterior.get_offsets(), arrays["latent"])
    np.testing.assert_array_equal(prior.get_offsets(), arrays["prior_means"])
    sizes = prior.get_sizes()  # areas are proportional to weights
    assert sizes[:3] / sizes[0] == pytest.approx(WEIGHTS[:3] / WEIGHTS[0])
    assert sizes[2] < sizes[3] < sizes[0] * 6.5  # the largest is capped
    assert latent.get_xlim() == pytest.approx((-3.12, 3.12))
    (image,) = density.images
    np.testing.assert_array_equal(image.get_array(), arrays["density"])
    assert image.origin == "lower"
    half = 4 / 19  # the outer grid points lie on the window's edge, so the image reaches half a pixel beyond
    assert image.get_extent() == pytest.approx((-4 - half, 4 + half, -4 - half, 4 + half))
    assert image.get_cmap().name == "viridis"
    assert len(latent.images) == 1


def test_a_prior_without_components_is_drawn_without_their_marks() -> None:
    none = {"prior_means": np.zeros((0, 2)), "prior_weights": np.zeros(0)}
    axes = figure3([write_panels(**none)]).axes
    assert not any(map(words, axes))
    assert len(scatters(axes[3])) == len(axes[3].images) == 1  # posterior means over the prior's density


HOSTILE = """\
backend: module://no.such
font.size: 31
axes.grid: True
axes.facecolor: black
lines.linewidth: 9
savefig.dpi: 7
savefig.bbox: tight
text.usetex: True
image.cmap: magma
"""


def test_files_are_the_same_each_time_whatever_a_notebook_and_a_users_settings(monkeypatch):
    """A backend that there isn't stops the import of Matplotlib, unless ours is named before it."""
    paths, choice = write_search("Rings")
    search = {"slices": [*map(str, paths)], "hyperparameters": [str(choice)]}
    script = f"""
import introprior.reporting.page.pictures
from introprior.reporting.figures import draw
from introprior.reporting.figures.style import save
save(draw("search", {search}, datasets=["Rings"], cell="sg"), ["search.pdf", "search.png"], dpi=40)
panels = {{"density_panels": ["{write_panels()}"]}}
save(draw("figure3", panels, datasets=["Rings"], cells=["sg"]), ["figure3.pdf", "figure3.png"], dpi=60)
"""
    (user := Path("user")).mkdir()
    (user / "matplotlibrc").write_text(HOSTILE)
    environment = {**os.environ, "MPLBACKEND": "no-such"}
    subprocess.run([sys.executable, "-c", script], cwd=user, env=environment, check=True)
    exec(script)
    theirs, made = ({path.name: path.read_bytes() for path in folder.glob("*.p*")} for folder in (user, Path()))
    assert theirs == made
    assert sorted(made) == ["figure3.pdf", "figure3.png", "search.pdf", "search.png"]
    assert b"/Type0" in made["figure3.pdf"]  # text stays text
    assert b"/Type3" not in made["figure3.pdf"]
    assert made["figure3.png"].startswith(b"\x89PNG")


def test_data_and_model_differ_in_lightness_too() -> None:
    """Colour-blind readers, and printers, tell the two main colours apart by more than hue."""
    red, _, blue = np.subtract(to_rgb(DATA), to_rgb(MODEL))
    assert abs(blue) > 0.5  # blue-yellow axis, which deuteranopes and protanopes keep
    assert abs(red) > 0.5


def test_a_diverged_or_missing_run_leaves_panels_that_say_so() -> None:
    changes = {
        "8Gaussian": {"status": "diverged"},
        "2Spirals": {"samples": np.full((50, 2), np.nan)},
        "Checkerboard": {"density": np.full((20, 20), np.nan)},
        "Rings": {"latent": np.zeros((0, 2))},
    }
    figure = figure3([write_panels(name, **change) for name, change in changes.items()], [*changes], ["sg", "mog64-lc"])
    for name, (data, *panels) in zip(changes, np.reshape(figure.axes, (4, 7)), strict=True):
        assert [words(axis) for axis in panels] == [["diverged"]] * 3 + [["no run"]] * 3, name
        assert not any(axis.images or axis.collections for axis in panels), name
        assert len(scatters(data)) == 1, name


def test_flat_or_empty_densities_can_be_drawn() -> None:
    spike = np.zeros((100, 100))
    spike[3, 4] = 1.0
    densities = {"Rings": np.zeros((20, 20)), "8Gaussian": spike, "2Spirals": np.ones((20, 20))}
    panels = [write_panels(name, density=density, latent_density=density) for name, density in densities.items()]
    figure = figure3(panels, [*densities])
    save(figure, ["densities.png"], dpi=40)
    for axis in figure.axes[2::4]:
        (image,) = axis.images
        assert image.get_clim()[1] > 0


def test_damaged_panels_are_one_line() -> None:
    whole = write_panels().read_bytes()
    path = Path("a.npz")
    for content in (whole[: len(whole) // 2], b"", b"hello"):
        path.write_bytes(content)
        refused(lambda: figure3([path]), "a.npz: cut short or not an archive")
    refused(lambda: figure3([Path("gone.npz")]), "gone.npz: not there")
    refused(lambda: figure3([write_panels(latent=None)]), "no entry 'latent'; delete it")


# ---- The search ----


def write_search(dataset: str, cell: str = "sg") -> tuple[list[Path], Path]:
    """Two slices of six settings, one of them diverged; KL is 10 beta_rec + beta_kl: the first setting is the best."""
    paths, vae = [], cell.startswith("vae")
    for beta_rec in (0.2, 0.4):
        lines = ["dataset,cell,beta_rec,beta_kl,beta_neg,seed,KL,JSD,status,detail"]
        for beta_kl in (0.1, 0.3, 0.5):
            bad = beta_rec == 0.4 and beta_kl == 0.5
            fate = ",,diverged,why" if bad else f"{10 * beta_rec + beta_kl},1,ok,"
            lines.append(f"{dataset},{cell},{beta_rec},{beta_kl},{'' if vae else 2 * beta_kl},0,{fate}")
        paths.append(Path(f"slice-{dataset}-{beta_rec}.csv").resolve())
        paths[-1].write_text("\n".join(lines) + "\n")
    best = {"beta_rec": 0.2, "beta_kl": 0.1, "beta_neg": None if vae else 0.2}
    record = {"dataset": dataset, "cell": cell, **best, "source": "search", "settings": 6, "diverged": 1, "KL": 2.1}
    (choice := Path(f"{dataset}.json").resolve()).write_text(json.dumps(record))
    return paths, choice


def search(*datasets: str, cell: str = "sg") -> Figure:
    written = [write_search(dataset, cell) for dataset in datasets]
    inputs = {"slices": [path for paths, _ in written for path in paths], "hyperparameters": [c for _, c in written]}
    return draw("search", inputs, datasets=datasets, cell=cell)


def points(axis: Axes) -> list[list[list[float]]]:
    """Points of each kind that is there: of the two beta_rec, diverged, Daniel and Tamar's, chosen."""
    kinds: dict[Any, list[Any]] = {}
    for artist in filter(lambda artist: len(artist.get_offsets()), scatters(axis)):
        look = (len(artist.get_paths()[0].vertices), artist.get_sizes()[0], *artist.get_facecolors()[:1].ravel())
        kinds.setdefault(look, []).extend(artist.get_offsets().tolist())
    return list(kinds.values())


def test_search_figure_marks_choice_default_and_divergence() -> None:
    figure = search("Checkerboard", "Rings")
    checkerboard, rings = figure.axes
    assert checkerboard.get_title() == "Checkerboard"
    low, high, bad, default, chosen = points(checkerboard)
    assert [len(found) for found in (low, high, bad, default, chosen)] == [3, 2, 1, 1, 1]
    assert chosen[0] == low[0] == default[0]  # Daniel and Tamar's are 0.2, 0.1, 0.2
    assert [kl for _, kl in low] == pytest.approx([2.1, 2.3, 2.5])
    assert [x for x, _ in low] == pytest.approx([-0.2, 0.8, 1.8])
    assert [x for x, _ in high] == pytest.approx([0.2, 1.2])
    assert bad == [[pytest.approx(2.2), 0.97]]  # in the third strip of beta_kl, at the top
    assert len(points(rings)) == 4  # 0.2, 0.2, 1 was not tried
    assert paper.hyperparameters("Rings", "daniel-tamar")["beta_neg"] == 1
    legible(figure)
    assert all(0 < low < high < 10 for low, high in (axis.get_ylim() for axis in figure.axes))


def test_search_figure_of_a_vae() -> None:
    figure = search("Rings", cell="vae-sg")
    *_, chosen = points(figure.axes[0])
    assert chosen == [[pytest.approx(-0.2), pytest.approx(2.1)]]
    save(figure, ["search.png"], dpi=40)
