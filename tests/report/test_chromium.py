"""The page as headless Chromium shows it from a file: no word on the console, every picture visible, sorting by a click."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from modist.report.page import Picture, write_page
from modist.report.tables import Face, Grid, Head, Line
from tests.report.test_page import EVIL, PNG

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="40pt" height="20pt"><rect width="40" height="20" fill="#0072B2"/></svg>'


def opened(page: Path, profile: Path, *more: str) -> tuple[str, list[str]]:
    """The document after its scripts ran, and what was said on the console."""
    assert CHROMIUM is not None
    run = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--no-first-run",
            f"--user-data-dir={profile}",
            "--enable-logging=stderr",
            "--v=0",
            "--virtual-time-budget=3000",
            *more,
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout, [line for line in run.stderr.splitlines() if "CONSOLE" in line]


def grid(names: list[str]) -> Grid:
    values = [0.5, 0.2, 0.4, 0.9]
    lines = [
        Line(name, "parent" if at < 2 else "merge", (Face(f"{value}", value=value), Face(name)))
        for at, (name, value) in enumerate(zip(names, values, strict=True))
    ]
    return Grid((Head("gsm8k", "n=4", benchmark=True), Head("share", left=True)), tuple(lines), notes=(EVIL,))


@pytest.fixture
def page(tmp_path: Path) -> Path:
    (tmp_path / "one.png").write_bytes(PNG)
    (tmp_path / "two.svg").write_text(SVG)
    write_page(
        tmp_path / "a page #1.html",
        grid(["general", "math", EVIL, "TIES"]),
        [Picture(tmp_path / "one.png", "one", EVIL), Picture(tmp_path / "two.svg", EVIL)],
        title=EVIL,
        findings=[EVIL],
        settings={EVIL: EVIL},
        commands=[EVIL],
        disagreements={EVIL: [{"answer": EVIL}]},
    )
    for name in ("one.png", "two.svg"):
        (tmp_path / name).unlink()  # the page needs nothing beside it
    return tmp_path / "a page #1.html"


def test_no_console_errors_and_visible_pictures(page: Path, tmp_path: Path) -> None:
    dom, said = opened(page, tmp_path / "profile")
    assert said == []
    assert 'data-pictures="2"' in dom
    assert 'data-visible="2"' in dom
    assert dom.count("<script>") == 1


def test_a_broken_picture_and_a_foreign_script_are_noticed(page: Path, tmp_path: Path) -> None:
    """The test above could fail: a picture that is none is not visible, and a script that got in is refused aloud."""
    text = page.read_text(encoding="utf-8")
    broken = tmp_path / "broken.html"
    broken.write_text(
        re.sub(r"data:image/png;base64,[^\"]+", "data:image/png;base64,AAAA", text).replace(
            "</main>", "<script>document.title = 'taken'</script></main>"
        ),
        encoding="utf-8",
    )
    dom, said = opened(broken, tmp_path / "profile")
    assert 'data-visible="1"' in dom
    assert any("Content Security Policy" in line for line in said)
    assert "<title>taken" not in dom


def test_a_click_sorts_and_parents_stay_on_top(tmp_path: Path) -> None:
    """The script under test is the page's; a second one, allowed for this test alone, clicks."""
    write_page(tmp_path / "page.html", grid(["general", "math", "TIES", "MoD"]))
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    clicks = """
    const order = () => [...document.querySelectorAll("tbody th")].map((one) => one.textContent).join();
    const button = document.querySelectorAll("thead button")[1], found = [order()];
    for (let click = 0; click < 3; click++) { button.click(); found.push(order()); }
    document.querySelector("thead button").click(); found.push(order());
    document.documentElement.dataset.orders = found.join(" ");
    """
    text = re.sub(r"<meta http-equiv[^>]+>", "", text).replace("</body>", f"<script>{clicks}</script></body>")
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    dom, said = opened(tmp_path / "page.html", tmp_path / "profile")
    assert said == []
    orders = re.search(r'data-orders="([^"]+)"', dom)
    assert orders is not None
    given, falling, rising, again, names = orders[1].split(" ")
    assert given == again == "general,math,TIES,MoD"
    assert falling == "general,math,MoD,TIES"
    assert rising == "math,general,TIES,MoD"
    assert names == "general,math,MoD,TIES"
