"""The page as text: everything escaped, nothing from outside, one file whole or absent."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from modist.errors import UserError
from modist.report.page import Picture, write_page
from modist.report.tables import Face, Grid, Head, Line

EVIL = "</td></script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\x00\u202e"
PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAEElEQVR4nGNgYPgPRhAKABfuA/1xWZBgAAAAAElFTkSuQmCC")
VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Every tag with its attributes, and whether they close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data: str) -> None:
        self.text += data


def grid(name: str = "x") -> Grid:
    face = Face(name, "▲", name, name, name, True, name, 1.5)
    heads = (Head(name, name, "a", name, True), Head(name, name, "b", left=True))
    lines = (Line(name, "parent", (face, face)), Line(name, "merge", (face, Face("—"))))
    return Grid(heads, lines, name, (face, face), (name,))


def full(path: Path, tmp_path: Path, text: str = "x") -> str:
    picture = tmp_path / "p.png"
    picture.write_bytes(PNG)
    write_page(
        path,
        grid(text),
        [Picture(picture, text, text)],
        [text],
        title=text,
        lead=text,
        findings=[text],
        more=[(text, grid(text))],
        settings={text: text},
        commands=[text],
        disagreements={text: [{text: text}]},
    )
    return path.read_text(encoding="utf-8")


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    plain, evil = (Page(full(tmp_path / f"{n}.html", tmp_path, text)) for n, text in enumerate(("x", EVIL)))
    assert [tag for tag, _ in plain.tags] == [tag for tag, _ in evil.tags]
    assert [sorted(found) for _, found in plain.tags] == [sorted(found) for _, found in evil.tags]
    assert plain.open == evil.open == []
    assert "<script>alert(1)</script>" in evil.text
    assert evil.text.count("alert(1)") > 15
    assert "\x00" not in evil.text
    assert "\u202e" not in evil.text


def test_nothing_comes_from_outside(tmp_path: Path) -> None:
    text = full(tmp_path / "page.html", tmp_path)
    assert not re.search(r"https?:|//\w|@import|url\(", text)
    for tag, found in Page(text).tags:
        for name in ("src", "href"):
            value = found.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, value)
        assert not any(name.startswith("on") or name == "style" for name in found), found


def test_the_policy_names_the_page_s_own_script_and_style(tmp_path: Path) -> None:
    text = full(tmp_path / "page.html", tmp_path)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'")
    for tag in ("script", "style"):
        (inner,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.S)
        digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy[1]
    assert "unsafe" not in policy[1]


def test_sections_in_order_and_only_what_is_there(tmp_path: Path) -> None:
    text = full(tmp_path / "page.html", tmp_path)
    assert re.findall(r'<section id="([^"]+)"', text) == ["table", "table-2", "pictures", "meaning", "run", "graders"]
    bare = Grid((Head("a"),), (Line("m", "merge", (Face("1"),)),))
    write_page(tmp_path / "bare.html", bare)
    small = (tmp_path / "bare.html").read_text(encoding="utf-8")
    assert re.findall(r'<section id="([^"]+)"', small) == ["table"]
    write_page(tmp_path / "bare.html", bare, disagreements={})
    assert "Nowhere" in (tmp_path / "bare.html").read_text(encoding="utf-8")


def test_rows_and_marks(tmp_path: Path) -> None:
    text = full(tmp_path / "page.html", tmp_path)
    table = text.split('<section id="table">')[1].split("</section>")[0]
    assert table.count("<tbody>") == 2  # parents sort among themselves
    assert 'class="above"' in table
    assert 'data-v="1.5"' in table
    assert table.count("<b>x</b>") == 5
    assert "<tfoot>" in table


def test_long_lists_and_answers_are_cut(tmp_path: Path) -> None:
    rows = [{"answer": "y" * 5000, "id": str(number)} for number in range(500)]
    write_page(tmp_path / "page.html", grid(), disagreements={"a": rows})
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.count("yyy …") == 200
    assert "300 more are in the runs" in text
    assert "a: 500" in text
    assert len(text) < 200_000


def test_half_a_character_can_be_written(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", grid("\ud800"), notes=["\udfff"])
    (tmp_path / "page.html").read_text(encoding="utf-8")


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        write_page(tmp_path / "no" / "page.html", grid())
    with pytest.raises(UserError, match="cannot be read"):
        write_page(tmp_path / "page.html", grid(), [Picture(tmp_path / "none.png", "x")])
    with pytest.raises(UserError, match="png and svg"):
        write_page(tmp_path / "page.html", grid(), [Picture(tmp_path / "x.pdf", "x")])
    assert list(tmp_path.iterdir()) == []
