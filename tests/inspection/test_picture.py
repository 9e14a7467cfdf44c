"""The picture is written whole, in the format its suffix says, or refused before anything is read."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from modist.errors import UserError
from modist.inspection import inspect_models
from modist.inspection.picture import check_plot, draw
from tests.tiny_models import Trio

MAGIC = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}


@pytest.fixture(autouse=True)
def _matplotlib(request: pytest.FixtureRequest) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra `plot`")


@pytest.mark.parametrize("suffix", sorted(MAGIC))
def test_formats(suffix: str, trio: Trio, tmp_path: Path) -> None:
    path = tmp_path / f"picture.{suffix}"
    draw(inspect_models(trio.folders), path)
    assert path.read_bytes().startswith(MAGIC[suffix])
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_any_number_of_models(count: int, trio: Trio, tmp_path: Path) -> None:
    draw(inspect_models(trio.folders[:count], norms=True), tmp_path / "picture.svg")
    text = (tmp_path / "picture.svg").read_text()
    assert len(text) > 10_000


def test_the_same_inspection_gives_the_same_bytes(trio: Trio, tmp_path: Path) -> None:
    found = inspect_models(trio.folders)
    for name in ("a.svg", "b.svg"):
        draw(found, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_strangers_and_unread_models_are_drawn(trio: Trio, make: Callable[..., Path], tmp_path: Path) -> None:
    import numpy as np

    from tests.tiny_models import encode

    stranger = make("stranger", {"other.weight": encode(np.ones((3, 3)), "F32")})
    draw(inspect_models([trio.base, stranger]), tmp_path / "strangers.png")
    draw(inspect_models([stranger]), tmp_path / "unread.png")


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("picture.jpg", "picture", "picture.pgn"):
        with pytest.raises(UserError, match=r"must be one of \.png, \.svg, \.pdf"):
            check_plot(tmp_path / name)
    with pytest.raises(UserError, match="no folder"):
        check_plot(tmp_path / "missing" / "picture.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"pip install 'modist\[plot\]'"):
        check_plot(tmp_path / "picture.png")


def test_an_old_picture_survives_a_failure(trio: Trio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"old")

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    with pytest.raises(UserError, match="No space left"):
        draw(inspect_models(trio.folders[:2]), path)
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1
