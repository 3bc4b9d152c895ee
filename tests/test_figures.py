"""Figures: what is drawn where, legible at the paper's size, and what is refused."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
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
from introprior.reporting.figures import draw
from introprior.reporting.figures.figure3 import PANELS
from introprior.reporting.figures.style import DATA, MODEL, TEXT_WIDTH, save

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


def figure3(paths: list[Path], datasets: Sequence[str] = ("Rings",), cells: Sequence[str] = ("sg",)) -> Figure:
    return draw("figure3", {"density_panels": paths}, datasets=datasets, cells=cells)


# ---- Figure 3 ----


@pytest.mark.parametrize("cells", [["sg"], ["sg", "mog64-lc", "mog64-lc-ip"]])
def test_rows_are_datasets_columns_cells_and_all_is_legible(write_panels: Write, cells: list[str]) -> None:
    datasets = ["8Gaussian", "Checkerboard"]
    paths = [write_panels(dataset, cell) for cell in cells for dataset in reversed(datasets)]  # any order will do
    figure = figure3(paths, datasets, cells)
    width = 1 + 3 * len(cells)
    first, second = figure.axes[:width], figure.axes[width:]
    assert [row[0].get_ylabel() for row in (first, second)] == datasets
    assert [axis.get_title() for axis in first] == ["data", *PANELS * len(cells)]
    assert not any(axis.get_title() for axis in second)
    assert [text.get_text() for text in figure.texts] == ["SG", "MoG(64) + LC", "MoG(64) + LC + IP"][: len(cells)]
    assert figure.get_figwidth() == TEXT_WIDTH
    boxes = [axis.get_position().bounds * np.tile(figure.get_size_inches(), 2) for axis in first]
    for left, bottom, width, height in boxes:
        assert height == pytest.approx(width)
        assert width > 0.55
        assert 0 <= left < left + width <= TEXT_WIDTH
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
    data, samples, density, latent = figure3([path]).axes
    for axis, name in ((data, "data"), (samples, "samples")):
        np.testing.assert_array_equal(scatters(axis)[0].get_offsets(), arrays[name])
        assert axis.get_xlim() == axis.get_ylim() == pytest.approx((-4.16, 4.16))
    posterior, prior = scatters(latent)
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


def test_a_prior_without_components_is_drawn_without_their_marks(write_panels: Write) -> None:
    none = {"prior_means": np.zeros((0, 2)), "prior_weights": np.zeros(0)}
    axes = figure3([write_panels(**none)]).axes
    assert not any(map(words, axes))
    assert len(scatters(axes[3])) == len(axes[3].images) == 1  # posterior means over the prior's density


def test_files_are_the_same_each_time_with_pixels_for_dense_points_and_text_as_text(
    write_panels: Write, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        figure = figure3([write_panels()])
        assert all(scatters(figure.axes[k])[0].get_rasterized() for k in (0, 1, 3))
        save(figure, [tmp_path / f"{name}.pdf", tmp_path / f"{name}.png"], dpi=60)
    for suffix in ("pdf", "png"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    assert b"/Type0" in (tmp_path / "a.pdf").read_bytes()
    assert b"/Type3" not in (tmp_path / "a.pdf").read_bytes()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


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


def test_neither_a_notebook_nor_a_users_settings_change_a_figure(
    tmp_path: Path, write_panels: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, choice = write_search(tmp_path, "Rings")
    search = {"slices": [*map(str, paths)], "hyperparameters": [str(choice)]}
    script = f"""
import introprior.reporting.page.pictures
from introprior.reporting.figures import draw
from introprior.reporting.figures.style import save
save(draw("search", {search}, datasets=["Rings"], cell="sg"), ["search.pdf", "search.png"], dpi=40)
save(draw("figure3", {{"density_panels": ["{write_panels()}"]}}, datasets=["Rings"], cells=["sg"]), ["figure3.png"])
"""
    made = []
    for name, backend in (("notebook", "module://no.such"), ("mistaken", "no-such")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "matplotlibrc").write_text(HOSTILE)
        environment = {**os.environ, "MPLBACKEND": backend}
        subprocess.run([sys.executable, "-c", script], cwd=folder, env=environment, check=True)
        made.append({path.name: path.read_bytes() for path in folder.glob("*.p*")})
    monkeypatch.chdir(tmp_path)
    exec(script)
    made.append({path.name: path.read_bytes() for path in tmp_path.glob("*.p*")})
    assert made[0] == made[1] == made[2]
    assert len(made[0]) == 3


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
def test_a_diverged_or_missing_run_leaves_panels_that_say_so(write_panels: Write, changes: dict[str, Any]) -> None:
    data, *panels = figure3([write_panels(**changes)], cells=["sg", "mog64-lc"]).axes
    assert [words(axis) for axis in panels] == [["diverged"]] * 3 + [["no run"]] * 3
    assert not any(axis.images or axis.collections for axis in panels)
    assert len(scatters(data)) == 1


def test_flat_or_empty_densities_can_be_drawn(write_panels: Write, tmp_path: Path) -> None:
    spike = np.zeros((100, 100))
    spike[3, 4] = 1.0
    for name, density in (("zero", np.zeros((20, 20))), ("spike", spike), ("flat", np.ones((20, 20)))):
        figure = figure3([write_panels(density=density, latent_density=density)])
        save(figure, [tmp_path / f"{name}.png"], dpi=40)
        (image,) = figure.axes[2].images
        assert image.get_clim()[1] > 0


def test_damaged_panels_are_one_line(write_panels: Write, tmp_path: Path) -> None:
    whole = write_panels().read_bytes()
    for name, content in (("cut", whole[: len(whole) // 2]), ("empty", b""), ("text", b"hello")):
        path = tmp_path / f"{name}.npz"
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}\.npz: cut short or not an archive") as caught:
            figure3([path])
        assert "\n" not in str(caught.value)
    for path, message in (
        (tmp_path / "gone.npz", r"gone\.npz: not there"),
        (write_panels("8Gaussian", latent=None), "no entry 'latent'; delete it"),
    ):
        with pytest.raises(UserError, match=message):
            figure3([path])


# ---- The search ----


def write_search(folder: Path, dataset: str, cell: str = "sg") -> tuple[list[Path], Path]:
    """Two slices of six settings, one of them diverged; KL is 10 beta_rec + beta_kl: the first setting is the best."""
    paths, vae = [], cell.startswith("vae")
    for k, beta_rec in enumerate((0.2, 0.4)):
        lines = ["dataset,cell,beta_rec,beta_kl,beta_neg,seed,KL,JSD,status,detail"]
        for beta_kl in (0.1, 0.3, 0.5):
            bad = beta_rec == 0.4 and beta_kl == 0.5
            fate = ",,diverged,why" if bad else f"{10 * beta_rec + beta_kl},1,ok,"
            lines.append(f"{dataset},{cell},{beta_rec},{beta_kl},{'' if vae else 2 * beta_kl},0,{fate}")
        path = folder / f"slice-{dataset}-{k}.csv"
        path.write_text("\n".join(lines) + "\n")
        paths.append(path)
    choice = folder / f"{dataset}.json"
    best = {"beta_rec": 0.2, "beta_kl": 0.1, "beta_neg": None if vae else 0.2}
    record = {"dataset": dataset, "cell": cell, **best, "source": "search", "settings": 6, "diverged": 1, "KL": 2.1}
    choice.write_text(json.dumps(record))
    return paths, choice


def search(folder: Path, *datasets: str, cell: str = "sg") -> Figure:
    written = [write_search(folder, dataset, cell) for dataset in datasets]
    inputs = {"slices": [path for paths, _ in written for path in paths], "hyperparameters": [c for _, c in written]}
    return draw("search", inputs, datasets=datasets, cell=cell)


def points(axis: Axes) -> list[list[list[float]]]:
    """Points of each kind that is there: of the two beta_rec, diverged, Daniel and Tamar's, chosen."""
    kinds: dict[Any, list[Any]] = {}
    for artist in filter(lambda artist: len(artist.get_offsets()), scatters(axis)):
        look = (len(artist.get_paths()[0].vertices), artist.get_sizes()[0], *artist.get_facecolors()[:1].ravel())
        kinds.setdefault(look, []).extend(artist.get_offsets().tolist())
    return list(kinds.values())


def test_search_figure_marks_choice_default_and_divergence(tmp_path: Path) -> None:
    figure = search(tmp_path, "Checkerboard", "Rings")
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
    assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= 6
    assert figure.get_figwidth() == TEXT_WIDTH
    assert all(0 < low < high < 10 for low, high in (axis.get_ylim() for axis in figure.axes))


def test_search_figure_of_a_vae(tmp_path: Path) -> None:
    figure = search(tmp_path, "Rings", cell="vae-sg")
    *_, chosen = points(figure.axes[0])
    assert chosen == [[pytest.approx(-0.2), pytest.approx(2.1)]]
    save(figure, [tmp_path / "search.png"], dpi=40)
