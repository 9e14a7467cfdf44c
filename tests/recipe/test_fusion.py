"""The dialect of fusing: what may be written, and the line that says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from modist.errors import RecipeError
from modist.recipe.fusion import load_fusion_recipe
from modist.recipe.json_schema import json_schema


@pytest.fixture
def room(tmp_path: Path) -> Path:
    for name in ("pivot", "one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "chats.jsonl").write_text("{}\n")
    return tmp_path


HEAD = "pivot: pivot\nexperts:\n  - source_model: one\n  - source_model: two\ndata: chats.jsonl\n"
ONE = HEAD.replace("  - source_model: two\n", "")


def read(room: Path, text: str):
    path = room / "recipe.yml"
    path.write_text(text)
    return load_fusion_recipe(path)


def test_defaults_are_the_published_ones(room: Path) -> None:
    found = read(room, HEAD)
    assert found.names == ("pivot", "one", "two") and found.weights is None
    assert (found.fusion.target, found.fusion.mode, found.fusion.top_k) == ("mince", "unified", 10)
    training = found.training
    assert (training.lambda_, training.learning_rate, training.epochs, training.global_batch) == (0.9, 5e-6, 3, 128)
    assert (training.warmup, training.schedule, training.weight_decay, training.max_length) == (0.03, "cosine", 0, 2048)
    # Beside the recipe, as it lies elsewhere.
    assert found.data == (room / "chats.jsonl",)


def test_weights_and_numbers_as_people_write_them(room: Path) -> None:
    text = """
pivot: {source_model: pivot, weight: 5e-1}
experts: [{source_model: one, weight: .3}, {source_model: two, weight: 0.2}]
data: chats.jsonl
fusion: {target: weights}
training: {learning_rate: 1e-5}
"""
    found = read(room, text)
    assert found.weights == (0.5, 0.3, 0.2) and found.training.learning_rate == 1e-5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEAD + "fusion: {targt: mince}\n", r"yml:6: fusion\.targt: unknown key 'targt'; did you mean 'target'\?"),
        (HEAD + "fusion:\n  target: minse\n", r"yml:7: fusion\.target: 'minse': .*did you mean 'mince'\?"),
        (HEAD + "training: {lambda: 1.5}\n", r"yml:6: training\.lambda: 1\.5: should be less than or equal to 1"),
        (HEAD + "training: {lamda: 0.5}\n", r"unknown key 'lamda'; did you mean 'lambda'\?"),
        (HEAD + "training: {batch_size: 3}\n", r"training\.batch_size: 3 does not divide the global_batch of 128; 2 does"),
        (HEAD + "training: {lora: {rnk: 4}}\n", r"training\.lora\.rnk: unknown key 'rnk'; did you mean 'rank'\?"),
        (HEAD + "fusion: {top_k: 0}\n", r"fusion\.top_k: 0: should be greater than or equal to 1"),
        (HEAD + "fusion: {temperature: 0}\n", r"fusion\.temperature: 0: should be greater than 0"),
        (HEAD + "fusion: {target: weights}\n", r"experts\[0\]: 'target: weights' needs a weight for every expert"),
        (HEAD.replace("data: chats.jsonl\n", ""), r"the key 'data' is missing"),
        (HEAD.replace("chats.jsonl", "chat.jsonl"), r"data: there is no file 'chat\.jsonl'"),
        (HEAD.replace("data: chats.jsonl", "data: [chats.jsonl, no.jsonl]"), r"data\[1\]: there is no file 'no\.jsonl'"),
        (HEAD.replace("data: chats.jsonl", "data: []"), r"data: names no file"),
        (HEAD.replace("two", "one"), r"yml:4: experts\[1\]\.source_model: 'one' is listed twice"),
        (HEAD.replace("two", "one+two"), r"yml:4: experts\[1\]: 'one\+.*two': adapters cannot be run; merge it into its model"),
        (HEAD.replace("two", "pivot"), r"experts\[1\]\.source_model: 'pivot' is the pivot"),
        (ONE + "fusion: {mode: pairwise_then_merge}\n", r"fusion\.mode: 'pairwise_then_merge' needs two experts"),
        (HEAD.replace("two", "./twoo"), r"experts\[1\]\.source_model: there is no folder '\./twoo'"),
        ("[1, 2]\n", r"a fusion's recipe is a mapping"),
        ("", r"empty; a recipe"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(room: Path, text: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(room)
    with pytest.raises(RecipeError, match=words):
        read(room, text)


WEIGHED = (
    "pivot: {pivot}\nexperts: [{{source_model: one, weight: {one}}}, {{source_model: two, weight: {two}}}]\ndata: chats.jsonl\n"
)


@pytest.mark.parametrize(
    ("pivot", "one", "two", "fusion", "words"),
    [
        ("pivot", 0.5, 0.4, "target: weights", r"the weights \[0\.0, 0\.5, 0\.4\], the pivot's first, sum to 0\.9"),
        ("pivot", 0.5, 0.5, "target: mince", r"experts\[0\]\.weight: weights belong to 'target: weights'"),
        ("pivot", 0.5, 0.5, "target: weights, mode: pairwise_then_merge", r"needs 'mode: unified'"),
        ("{source_model: pivot, weight: 0.2}", 0.5, 0.3, "target: weights, include_pivot: false", r"'include_pivot' is false"),
        (
            "{source_model: pivot, weight: 2}",
            0.5,
            0.3,
            "target: weights",
            r"pivot\.weight: 2: should be less than or equal to 1",
        ),
    ],
)
def test_weights_that_cannot_stand(
    room: Path, pivot: str, one: float, two: float, fusion: str, words: str, monkeypatch
) -> None:
    monkeypatch.chdir(room)
    with pytest.raises(RecipeError, match=words):
        read(room, WEIGHED.format(pivot=pivot, one=one, two=two) + f"fusion: {{{fusion}}}\n")


def test_the_schema_knows_it() -> None:
    schema = json_schema()
    file = next(part for part in schema["anyOf"] if part.get("title") == "FusionFile")
    assert {"pivot", "experts", "data"} <= set(file["required"])
    assert "lambda" in schema["$defs"]["TrainingSettings"]["properties"]
