"""Texts coloured by responsibility."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from modist.errors import UserError
from modist.report.attribution import (
    TINTS,
    _laid,
    _width,
    check_picture,
    draw_attribution,
    marked,
    mean_shares,
    pieces_of,
    shade,
)


class Bytes:
    """A tokenizer of bytes, of which 0 is special, that drops a blank at the beginning as some do."""

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        text = bytes(number for number in ids if number or not skip_special_tokens).decode("utf-8", "replace")
        return text.removeprefix(" ")


@pytest.mark.parametrize("text", ["one two", "Füße 模型 🙂", " x", "a\n\nb", ""])
def test_pieces_join_to_the_text(text: str) -> None:
    ids = [*text.encode(), 0]
    pieces = pieces_of(Bytes(), ids)
    assert len(pieces) == len(ids) and "".join(pieces) == Bytes().decode(ids, True) and not pieces[-1]
    assert "".join(pieces_of(Bytes(), ids, text[:3])) == Bytes().decode(ids, True)[: len(text[:3])]


def test_half_a_character_at_the_end_is_kept() -> None:
    ids = list("aü".encode())[:2]
    assert pieces_of(Bytes(), ids) == ["a", "\N{REPLACEMENT CHARACTER}"]


def test_shades_mix() -> None:
    assert shade((1.0, 0.0)) == TINTS[0].lower() and shade((0.0, 1.0)) == TINTS[1].lower()
    mixed = shade((0.5, 0.5))
    assert all(
        abs(int(mixed[k : k + 2], 16) - (int(TINTS[0][k : k + 2], 16) + int(TINTS[1][k : k + 2], 16)) / 2) <= 1
        for k in (1, 3, 5)
    )
    assert len(shade([1 / 9] * 9)) == 7


def test_marks_and_means() -> None:
    pieces, rows = ["The", " an", "", "swer", " 4"], [(0.9, 0.1), (0.7, 0.3), (0, 1), (0.5, 0.5), (0.1, 0.9)]
    assert marked(pieces, rows) == "A[The an]~[swer]B[ 4]"
    assert mean_shares(rows, 2) == pytest.approx([0.44, 0.56])
    assert marked([], []) == ""


def test_lines_hold_what_fits() -> None:
    cells, last = _laid([("word " * 30, 0), ("x" * 200, 1), ("\n", 0), ("模" * 50, 1)])
    lines: dict[int, str] = {}
    for line, column, text, _ in cells:
        assert column == _width(lines.get(line, ""))
        lines[line] = lines.get(line, "") + text
    assert all(_width(line) <= 85 for line in lines.values()) and last == max(lines)
    assert all(line.strip(" ").count("wor") == line.count("word") for line in lines.values())
    assert sum(line.count("x") for line in lines.values()) == 200 and sum(line.count("模") for line in lines.values()) == 50


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_pictures(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"a.{suffix}"
    draw_attribution(["$x^2$", " \\frac", "\n\t", "模"], [(0.5, 0.5)] * 4, ["a_b", "$c"], path, weights=(0.5, 0.5), prompt="{")
    assert path.stat().st_size > 1000 and [file.name for file in tmp_path.iterdir()] == [path.name]
    draw_attribution([], [], ["a"], path)


def test_pictures_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="suffix"):
        check_picture(tmp_path / "a.gif")
    with pytest.raises(UserError, match="no folder"):
        check_picture(tmp_path / "b" / "a.png")
