"""Merges of models with different vocabularies beside mergekit 0.1.5's, token for token.

Run with `MODIST_MERGEKIT=/path/to/env/bin/mergekit-yaml pytest -m mergekit`.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.merge.test_parity_mergekit import DRIVER, MERGEKIT, pytestmark
from tests.merge.test_tokenizers import EMBEDDING, HEAD, WORDS, config_of, model, tokens_of
from tests.tiny_models import read_folder, write_recipe
from tests.vocabulary.tiny_tokenizers import letters, words

__all__ = ["pytestmark"]

Recipe = Mapping[str, Any]

TOKENIZERS = {
    "base": words(WORDS, ["<x>", "<y>"]),
    "one": words(WORDS[::-1], ["<y>", "<z>", "<w>"]),
    "two": words([*WORDS[3:], "emu", *WORDS[:3]], ["<z>", "<v>"]),
    "letters": letters([("a", "b"), ("ab", "c")], ["<s>", "</s>", "<x>"]),
    "more": letters([("a", "b"), ("ab", "c")], ["<s>", "</s>", "<y>", "<z>"]),
}


def models(root: Path, tied: bool) -> dict[str, Path]:
    made = {}
    for seed, (name, data) in enumerate(TOKENIZERS.items()):
        made[name] = model(root / name, data, seed, tied=tied, padding=seed % 3, dtype="F32")
    return made


def cases(at: Mapping[str, Path]) -> dict[str, Recipe]:
    """Named recipes; what is configured for a token is so for one or several parents."""

    def linear(*names: str, **rest: Any) -> Recipe:
        weights = (0.3, 0.5, 0.2)
        entries = [{"model": str(at[name]), "parameters": {"weight": weights[k]}} for k, name in enumerate(names)]
        return {"merge_method": "linear", "models": entries, "dtype": "float32", **rest}

    def based(*names: str, **rest: Any) -> Recipe:
        whole = linear(*names, **rest)
        return {**whole, "merge_method": "task_arithmetic", "base_model": str(at["base"])}

    row = {"kind": "model_token", "model": str(at["one"])}
    return {
        "union": linear("base", "one", base_model=str(at["base"]), tokenizer={"source": "union"}),
        "union of a task vector": based("one", tokenizer={"source": "union"}),
        "union of two": based("one", "two", tokenizer_source="union"),
        "mean": based("one", "two", tokenizer={"source": str(at["two"])}),
        "base": based("one", "two", tokenizer={"source": "base"}),
        "legacy base": based("one", tokenizer_source="base"),
        "a model": based("one", "two", tokenizer_source=str(at["one"])),
        "padded": based("one", "two", tokenizer={"source": "union", "pad_to_multiple_of": 32}),
        "letters": linear("letters", "more", base_model=str(at["letters"]), tokenizer={"source": "union"}),
        "tokens": based(
            "one",
            "two",
            tokenizer={
                "source": "union",
                "tokens": {
                    "<x>": {"source": str(at["base"])},
                    "<y>": {"source": str(at["one"]), "force": True},
                    "<z>": {"source": {"kind": "zero"}},
                    "<v>": {"source": {**row, "token": "w3"}},
                    "<w>": {"source": {"kind": "zero"}, "force": True},
                    "w4": {"source": {**row, "token_id": 6}, "force": True},
                    "<new>": {"source": {**row, "token": "<y>"}},
                },
            },
        ),
    }


NAMES = list(cases({name: Path(name) for name in TOKENIZERS}))


@pytest.fixture(scope="session", params=[False, True], ids=["untied", "tied"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Recipe], Path]:
    """The recipes, and the folder where mergekit put its results by name."""
    root = tmp_path_factory.mktemp("mergekit")
    recipes = cases(models(root / "models", request.param))
    asked = [
        {"recipe": str(write_recipe(root / f"{name}.yml", recipe)), "out": str(root / name)} for name, recipe in recipes.items()
    ]
    done = subprocess.run(
        [str(Path(MERGEKIT).parent / "python"), "-c", DRIVER],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=540,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.strip().splitlines()[-1])
    assert told["version"] == "0.1.5" and told["failed"] == {}
    return recipes, root


@pytest.mark.parametrize("name", NAMES)
def test_every_token_has_mergekits_row(name: str, both: tuple[dict[str, Recipe], Path], merge: Callable[..., Path]) -> None:
    recipes, root = both
    ours, theirs = merge(recipes[name]), root / name
    mine, other = tokens_of(ours), tokens_of(theirs)
    assert set(mine) == set(other)
    assert config_of(ours)["vocab_size"] == config_of(theirs)["vocab_size"]
    tables, others = read_folder(ours), read_folder(theirs)
    assert set(tables) == set(others)
    for tensor, made in tables.items():
        found = others[tensor]
        assert made.bits.shape == found.bits.shape, tensor
        if tensor in (EMBEDDING, HEAD):
            # mergekit numbers the ordinary tokens of others in no fixed order.
            for token, number in mine.items():
                np.testing.assert_allclose(made.bits[number], found.bits[other[token]], rtol=2e-6, atol=2e-7, err_msg=token)
            np.testing.assert_allclose(made.bits[len(mine) :], found.bits[len(mine) :], rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_allclose(made.bits, found.bits, rtol=2e-6, atol=2e-7, err_msg=tensor)


def test_ids_are_mergekits_where_it_fixes_them(both: tuple[dict[str, Recipe], Path], merge: Callable[..., Path]) -> None:
    recipes, root = both
    for name in ("union", "union of a task vector", "base", "a model", "letters"):
        assert tokens_of(merge(recipes[name], name)) == tokens_of(root / name)
