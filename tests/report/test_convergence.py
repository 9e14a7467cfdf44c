"""The picture of a search: whole, the same twice, readable where some candidates are far below the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modist.errors import UserError

pytest.importorskip("matplotlib", reason="pictures need matplotlib: pip install 'modist[plot]'")

from modist.report import convergence
from modist.report.convergence import Level, Trace, draw_convergence

TRACES = [Trace("CMA-ES $x", (0.3, 0.4, 0.35, 0.5)), Trace("random", (0.3, 0.1, 0.45, 0.2))]
LEVELS = [Level("one", 0.42), Level("two $\\frac", 0.2), Level("the start", 0.3, parent=False)]


def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *given: Any) -> Any:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(convergence, "save", lambda figure, path: seen.setdefault("figure", figure))
    draw_convergence(tmp_path / "p.png", *given)
    return seen["figure"].axes[0]


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_it_is_drawn_the_same_twice(tmp_path: Path, suffix: str, magic: bytes) -> None:
    one = draw_convergence(tmp_path / f"a.{suffix}", TRACES, LEVELS, "accuracy:" + "x" * 60, "100% $ of it").read_bytes()
    two = draw_convergence(tmp_path / f"b.{suffix}", TRACES, LEVELS, "accuracy:" + "x" * 60, "100% $ of it").read_bytes()
    assert one.startswith(magic) and one == two


def test_lines_never_fall_and_dots_are_the_candidates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    axes = drawn(monkeypatch, tmp_path, TRACES, LEVELS, "accuracy")
    named = {line.get_label(): list(line.get_ydata()) for line in axes.lines if not line.get_label().startswith("_")}
    assert named["CMA-ES \\$x"] == [0.3, 0.4, 0.4, 0.5] and named["random"] == [0.3, 0.3, 0.45, 0.45]
    assert named["one"] == [0.42, 0.42]
    dots = sorted(number for line in axes.lines if line.get_marker() in ("o", "v") for number in line.get_ydata())
    assert dots == sorted([*TRACES[0].scores, *TRACES[1].scores])


def test_one_bad_candidate_does_not_flatten_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = (-1.2, *np.linspace(-1.3, -1.0, 30), -900.0)
    axes = drawn(monkeypatch, tmp_path, [Trace("s", scores)], [Level("a", -1.1), Level("base", -1.6)], "likelihood")
    low, high = axes.get_ylim()
    assert -1.8 < low < -1.55 and -1.0 < high < -0.9
    (edge,) = [line for line in axes.lines if line.get_marker() == "v" and len(line.get_ydata())]
    assert low < edge.get_ydata()[0] < -1.5


def test_a_single_candidate(tmp_path: Path) -> None:
    assert draw_convergence(tmp_path / "p.png", [Trace("s", (0.5,))], [], "accuracy").exists()


def test_no_such_format(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gif"):
        draw_convergence(tmp_path / "p.gif", TRACES, LEVELS, "accuracy")
