"""A method's parameters in a recipe: another method's words are remarked on, misspelt ones and impossible merges refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modist.errors import RecipeError
from modist.merge import merge
from tests.tiny_models import Trio, write_recipe


def slerp(trio: Trio, **more: Any) -> dict[str, Any]:
    return {
        "merge_method": "slerp",
        "base_model": trio.one,
        "models": [{"model": trio.one}, {"model": trio.two}],
        "parameters": {"t": 0.5, **more},
    }


def test_words_of_another_method_are_passed_over_and_said(llama: Trio, tmp_path: Path) -> None:
    plain = merge(write_recipe(tmp_path / "plain.yml", slerp(llama)), tmp_path / "plain")
    worded = merge(write_recipe(tmp_path / "worded.yml", slerp(llama, int8_mask=True, density=0.3)), tmp_path / "worded")
    assert not any("no effect" in text for text in plain.warnings)
    told = [text for text in worded.warnings if "no effect" in text]
    assert len(told) == 2 and "slerp has no parameter 'int8_mask', so it has no effect (it has: t)" in told[0]
    name = "model.safetensors"
    assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "worded" / name).read_bytes()


def test_words_of_no_method_are_misspelt(llama: Trio, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="slerp has no parameter 'int8_msk'"):
        merge(write_recipe(tmp_path / "r.yml", slerp(llama, int8_msk=True)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_method_that_ranks_whole_models_takes_no_stack(llama: Trio, tmp_path: Path) -> None:
    sources = [{"model": folder, "layer_range": [0, 1]} for folder in (llama.one, llama.two)]
    recipe = {
        "merge_method": "localize_and_stitch",
        "base_model": llama.base,
        "slices": [{"sources": sources}, {"sources": sources}],
    }
    with pytest.raises(RecipeError, match="slices: localize_and_stitch ranks whole models"):
        merge(write_recipe(tmp_path / "r.yml", recipe), tmp_path / "out")
