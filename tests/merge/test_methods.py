"""The registry: ours, other packages', and a user's method of 20 lines."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import yaml

from modist.errors import RecipeError, UserError
from modist.merge import merge, method
from modist.merge.method import methods
from tests.tiny_models import Trio, plain_trio, read_folder

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def trio(tmp_path: Path) -> Trio:
    return plain_trio(tmp_path / "trio", "F32")


def offer(monkeypatch: pytest.MonkeyPatch, *points: EntryPoint) -> None:
    monkeypatch.setattr(method, "entry_points", lambda group: [point for point in points if point.group == group])
    methods.cache_clear()


@pytest.fixture(autouse=True)
def forget() -> object:
    yield
    methods.cache_clear()


def test_the_documented_method_of_twenty_lines_works(monkeypatch: pytest.MonkeyPatch, trio: Trio, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n# loud\.py\n(.*?)```", (DOCS / "own-method.md").read_text(), re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    (tmp_path / "loud.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    offer(monkeypatch, EntryPoint("loud", "loud:LOUD", "modist.methods"))
    assert "loud" in methods()
    recipe = tmp_path / "r.yml"
    models = [{"model": str(trio.one), "parameters": {"weight": 0.5}}]
    recipe.write_text(yaml.safe_dump({"merge_method": "loud", "base_model": str(trio.base), "models": models}))
    merge(recipe, tmp_path / "out")
    base, one = read_folder(trio.base), read_folder(trio.one)
    for name, written in read_folder(tmp_path / "out").items():
        delta = one[name].float64 - base[name].float64
        expected = base[name].float64 + 0.5 * np.where(np.abs(delta) > np.sqrt(np.mean(delta**2)), delta, 0)
        assert np.allclose(written.float64, expected, rtol=0, atol=1e-6), name


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("no_such_module:X", "cannot be loaded"),
        ("os:path", "is not a modist.merge.Method"),
        ("modist.merge.methods.linear:LINEAR", "a name that is in use"),
    ],
)
def test_broken_offers_are_named(monkeypatch: pytest.MonkeyPatch, value: str, words: str) -> None:
    offer(monkeypatch, EntryPoint("theirs", value, "modist.methods"))
    with pytest.raises(UserError, match=words):
        methods()


def test_unknown_method_names_the_nearest(trio: Trio, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yml"
    recipe.write_text(yaml.safe_dump({"merge_method": "tise", "models": [{"model": str(trio.one)}]}))
    with pytest.raises(RecipeError, match=r"r.yml:1: merge_method: unknown merge method 'tise'; did you mean 'ties'"):
        merge(recipe, tmp_path / "out")


def test_every_method_is_documented() -> None:
    text = (DOCS / "methods.md").read_text()
    for name in methods():
        assert f"`{name}`" in text
