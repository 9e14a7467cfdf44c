"""The recipes on the methods' pages merge, as they stand, from the project's folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from modist.merge import merge
from tests.tiny_models import read_folder

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "methods").glob("*.md"))
RECIPES = [
    (page.stem, number, text)
    for page in PAGES
    for number, text in enumerate(re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL))
    if "merge_method" in text and "statistics" not in text
]


def test_there_are_some() -> None:
    assert len(RECIPES) >= 12


@pytest.mark.parametrize(("page", "number", "text"), RECIPES, ids=[f"{page}-{number}" for page, number, _ in RECIPES])
def test_a_page_s_recipe_merges(page: str, number: int, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (tmp_path / "recipe.yml").write_text(text)
    report = merge(tmp_path / "recipe.yml", tmp_path / "out")
    assert report.method == yaml.safe_load(text)["merge_method"]
    out, base = read_folder(tmp_path / "out"), read_folder(ROOT / "examples" / "experts" / "base")
    assert out.keys() == base.keys()
    assert any((out[name].bits != tensor.bits).any() for name, tensor in base.items())
