"""The paper's Figures 1-3: theory against the sum written out, and against what the merge methods make of drawn parameters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="mixing needs torch: pip install 'modist[mix]'")
pytest.importorskip("matplotlib", reason="pictures need matplotlib: pip install 'modist[plot]'")

from modist.evaluation.densities import (
    CAPTION,
    Normal,
    average_density,
    draw_figures,
    figure_panels,
    merged,
    mixture_density,
    share_of_first,
)
from modist.report.densities import Panel

APART = (Normal(0, 1), Normal(5, 1))


def density(normal: Normal, at: np.ndarray) -> np.ndarray:
    return np.exp(-((at - normal.mean) ** 2) / (2 * normal.deviation**2)) / (normal.deviation * np.sqrt(2 * np.pi))


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.9, 0.1), (1.0, 0.0)])
def test_the_mixture_is_the_sum_of_densities(weights: tuple[float, float]) -> None:
    at = np.linspace(-10, 15, 2001)
    found = mixture_density(APART, weights, at)
    assert found == pytest.approx(weights[0] * density(APART[0], at) + weights[1] * density(APART[1], at), abs=1e-9)


def test_figure_1_the_average_has_one_peak_between_and_the_mixture_two_in_place() -> None:
    at = np.linspace(-10, 15, 2501)

    def peaks(values: np.ndarray) -> list[float]:
        inner = (values[1:-1] > values[:-2]) & (values[1:-1] > values[2:])
        return [round(float(place), 1) for place in at[1:-1][inner]]

    assert peaks(average_density(APART, (0.5, 0.5), at)) == [2.5]
    mixture = mixture_density(APART, (0.5, 0.5), at)
    assert peaks(mixture) == [0.0, 5.0]
    # In place, but half as high: "preserves maximum density" is not so.
    assert mixture.max() == pytest.approx(0.5 * density(APART[0], np.zeros(1))[0], rel=1e-3)


@pytest.fixture(scope="module")
def panels() -> list[Panel]:
    return figure_panels(draws=40_000)


def test_what_comes_out_of_the_code_follows_the_theory(panels: list[Panel]) -> None:
    for panel in panels:
        bins = panel.drawn
        assert (bins.density * np.diff(bins.edges)).sum() == pytest.approx(1, abs=2e-3)
        if panel.result is not None:
            middles = (bins.edges[1:] + bins.edges[:-1]) / 2
            theory = np.interp(middles, panel.at, panel.result)
            assert np.abs(bins.density - theory).max() < 0.06 * theory.max() + 0.01, panel.title


def test_average_of_fine_tunes_moves_nothing(panels: list[Panel]) -> None:
    last = panels[-1]
    assert last.result is not None
    assert last.result == pytest.approx(last.parents[0][1], rel=0.01, abs=0.02)
    at = np.linspace(-10, 15, 501)
    one = average_density([Normal(0, 1)] * 2, (0.3, 0.7), at, correlation=1.0)
    assert one == pytest.approx(density(Normal(0, 1), at))


def test_the_released_rule_returns_the_first_model() -> None:
    theta = np.random.default_rng(0).standard_normal(50_000).astype(np.float32)
    share = share_of_first(theta, 0.9)
    assert 0.999 < share < 1
    other = np.full_like(theta, 7)
    ruled = merged("mod", [theta, other], (0.9, 0.1))
    # The swapped entries are the largest positive ones.
    assert theta[ruled == 7].min() >= theta[ruled != 7].max() - 0.05
    drawn = merged("mod", [theta, other], (0.9, 0.1), select="random", scope="all")
    assert (drawn != 7).mean() == pytest.approx(0.9, abs=0.01)


def test_panels_are_named_as_in_the_paper(panels: list[Panel]) -> None:
    assert [panel.title.split(":")[0] for panel in panels[:4]] == ["Figure 1a", "Figure 1b", "Figure 2", "Figure 3"]
    assert all(panel.title.startswith("Not in the paper") for panel in panels[4:])
    assert "no maximum is preserved" in CAPTION


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_they_are_drawn(tmp_path: Path, suffix: str) -> None:
    path = draw_figures(tmp_path / f"figures.{suffix}")
    assert path.stat().st_size > 10_000
    assert list(tmp_path.iterdir()) == [path]
