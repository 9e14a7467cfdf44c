"""The pictures of accuracies and of what was kept: written whole, the same twice, any name in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from modist.errors import UserError

pytest.importorskip("matplotlib", reason="pictures need matplotlib: pip install 'modist[plot]'")

from modist.report.bars import Panel, Point, draw_bars
from modist.report.overlap_picture import Bar, draw_overlap

NAMES = ["general", "math", "MoD $\\frac{1}$ \x00_&<", "a name that goes on and on " * 5]
KINDS = ["parent", "parent", "merge", "strange"]
MAGIC = {"png": b"\x89PNG", "svg": b"<?xml"}


def panels(count: int) -> list[Panel]:
    points = (Point(0.5, 0.4, 0.6), Point(0.7, 0.6, 0.8), Point(0.9, 0.85, 0.95, True), None)
    return [Panel(f"bench{number} $x", points) for number in range(count)]


@pytest.mark.parametrize(("count", "suffix"), [(1, "png"), (2, "svg"), (5, "png")])
def test_bars_are_drawn(tmp_path: Path, suffix: str, count: int) -> None:
    path = draw_bars(tmp_path / f"bars.{suffix}", NAMES, KINDS, panels(count), "100% $ of it")
    assert path.read_bytes().startswith(MAGIC[suffix])
    assert list(tmp_path.iterdir()) == [path]


def test_dots_are_filled_only_where_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import modist.report.bars as module

    seen = {}
    monkeypatch.setattr(module, "save", lambda figure, path: seen.setdefault("figure", figure))
    (panel,) = panels(1)
    doubtful = Panel(panel.title, (*panel.points, Point(0.8, 0.65, 0.9)))
    draw_bars(tmp_path / "bars.png", [*NAMES, "TIES"], [*KINDS, "merge"], [doubtful])
    (axes,) = seen["figure"].axes
    dots = {round(line.get_ydata()[0]): line for line in axes.lines if line.get_marker() == "o"}
    assert [dots[row].get_markerfacecolor() for row in (0, 1)] == ["#0072B2", "#D55E00"]
    assert dots[2].get_markerfacecolor() != "white"
    assert dots[4].get_markerfacecolor() == "white"
    assert 3 not in dots
    # The dashed line is the best parent's, in its colour.
    (best,) = [line for line in axes.lines if line.get_marker() != "o"]
    assert best.get_xdata()[0] == 70
    assert best.get_color() == "#D55E00"
    low, high = axes.get_xlim()
    assert low < 40
    assert high > 95


def test_the_same_picture_is_the_same_bytes(tmp_path: Path) -> None:
    for suffix in ("png", "svg"):
        one, two = (draw_bars(tmp_path / f"{name}.{suffix}", NAMES, KINDS, panels(1)) for name in "ab")
        assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_kept_lost_and_gained_are_drawn(tmp_path: Path, suffix: str) -> None:
    asked = {"both": 50, "first": 20, "second": 10, "neither": 20}
    bars = [Bar("again", asked, {"both": 45, "first": 2, "second": 3, "neither": 5}, True), Bar("all", asked, asked)]
    bars.append(Bar("none", asked, dict.fromkeys(asked, 0)))
    path = draw_overlap(tmp_path / f"kept.{suffix}", "A $", "B", bars, "title")
    assert path.read_bytes().startswith(MAGIC[suffix])


def test_bars_of_an_overlap_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import modist.report.overlap_picture as module

    seen = {}
    monkeypatch.setattr(module, "save", lambda figure, path: seen.setdefault("figure", figure))
    asked = {"both": 50, "first": 20, "second": 10, "neither": 20}
    draw_overlap(tmp_path / "kept.png", "A", "B", [Bar("m", asked, {"both": 45, "first": 2, "second": 3, "neither": 5})])
    (axes,) = seen["figure"].axes
    edges = [bar.get_x() + bar.get_width() for bar in axes.patches]
    assert max(edges) == 55
    assert min(edges) == -30
    assert {text.get_text() for text in axes.texts} >= {"+5", "−30", "45"}


@pytest.mark.parametrize(
    ("name", "words"), [("bars.gif", "must be one of"), ("bars", "must be one of"), ("no/bars.png", "no folder")]
)
def test_what_cannot_be_drawn(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        draw_bars(tmp_path / name, NAMES, KINDS, panels(1))
    assert list(tmp_path.iterdir()) == []
