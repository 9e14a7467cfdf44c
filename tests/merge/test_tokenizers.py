"""Merges of models with different vocabularies: every row is the right parent's, and every file says the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modist.errors import CheckpointError, ModistError, RecipeError, UserError
from modist.merge import merge as merge_models
from modist.merge import prepare
from modist.merge.compare import refuse
from modist.merge.manifest import read_manifest
from tests.tiny_models import (
    Tensor,
    encode,
    llama_config,
    llama_shapes,
    random_tensors,
    read_folder,
    write_folder,
    write_recipe,
)
from tests.vocabulary.tiny_tokenizers import CONFIG, SHARED, letters, loaded, words, write_tokenizer

EXPERTS = Path(__file__).parents[2] / "examples" / "experts"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
WORDS = [f"w{number}" for number in range(12)]


def model(
    folder: Path,
    data: Mapping[str, Any],
    seed: int,
    *,
    tied: bool = False,
    padding: int = 0,
    dtype: str = "F32",
    hidden: int = 8,
    inner: int = 12,
    **config: Any,
) -> Path:
    """A small Llama whose embeddings have a row for each token of a tokenizer, and padding."""
    folder.mkdir(parents=True)
    tokens = write_tokenizer(folder, data)
    shapes = llama_shapes(hidden=hidden, inner=inner, layers=2, vocabulary=max(tokens.values()) + 1 + padding)
    if tied:
        del shapes[HEAD]
    tensors = random_tensors(shapes, seed, dtype)
    return write_folder(folder, tensors, llama_config(tensors, **config))


@pytest.fixture
def one(tmp_path: Path) -> Path:
    return model(tmp_path / "one", words(WORDS, ["<x>", "<y>"]), 1)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """The same words in another order, other additions, and padding."""
    return model(tmp_path / "two", words(WORDS[::-1], ["<y>", "<z>"]), 2, padding=3, eos_token_id=14, pad_token_id=0)


def recipe(models: Sequence[Path], weights: Sequence[float] = (0.25, 0.75), **rest: Any) -> dict[str, Any]:
    entries = [{"model": str(path), "parameters": {"weight": weight}} for path, weight in zip(models, weights, strict=True)]
    return {"merge_method": "linear", "models": entries, **rest}


def tokens_of(folder: Path) -> dict[str, int]:
    return dict(loaded(json.loads((folder / "tokenizer.json").read_text())).get_vocab(with_added_tokens=True))


def rows(folder: Path, name: str = EMBEDDING) -> dict[str, np.ndarray]:
    """Token -> its row, of a tied model's head too."""
    tensors = read_folder(folder)
    table = tensors.get(name, tensors[EMBEDDING]).float64
    return {token: table[number] for token, number in tokens_of(folder).items() if number < len(table)}


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())  # type: ignore[no-any-return]


# -------------------------------------------------------------- base, union, a model


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("source", ["union", "base", "two"])
def test_every_row_is_the_right_parents(source: str, tied: bool, tmp_path: Path, merge: Callable[..., Path]) -> None:
    one = model(tmp_path / "one", words(WORDS, ["<x>", "<y>"]), 1, tied=tied)
    two = model(tmp_path / "two", words(WORDS[::-1], ["<y>", "<z>"]), 2, tied=tied, padding=3, eos_token_id=14)
    out = merge(recipe([one, two], tokenizer={"source": str(two) if source == "two" else source}))
    tokens = tokens_of(out)
    assert list(tokens) != [] and set(tokens) == {
        "union": {*tokens_of(one), *tokens_of(two)}, "base": set(tokens_of(one)), "two": set(tokens_of(two))
    }[source]  # fmt: skip
    assert config_of(out)["vocab_size"] == len(tokens) == len(read_folder(out)[EMBEDDING].bits)
    assert (HEAD in read_folder(out)) == (not tied)
    leader = two if source == "two" else one
    assert {text: tokens[text] for text in tokens_of(leader)} == tokens_of(leader)
    for name in (EMBEDDING, HEAD):
        mine, theirs, made = rows(one, name), rows(two, name), rows(out, name)
        for token, row in made.items():
            first = mine.get(token, theirs.get(token))
            second = theirs.get(token, mine.get(token))
            np.testing.assert_allclose(row, 0.25 * first + 0.75 * second, rtol=1e-5, atol=1e-7, err_msg=token)


def test_one_parent_alone_gives_its_own_rows(one: Path, two: Path, merge: Callable[..., Path]) -> None:
    """With all the weight on one parent, what the union holds for its tokens is that parent's, bit for bit."""
    for name, weights, parent in (("first", (1, 0), one), ("second", (0, 1), two)):
        out = merge(recipe([one, two], weights, tokenizer_source="union"), name)
        made, own = rows(out), rows(parent)
        assert all(np.array_equal(made[token], own[token]) for token in own)


def test_a_task_vector_of_a_token_the_base_lacks_comes_from_its_own(tmp_path: Path, merge: Callable[..., Path]) -> None:
    """The base takes the row of the only parent that has a token, so that parent's delta there is nothing."""
    base = model(tmp_path / "base", words(WORDS), 1)
    tuned = model(tmp_path / "tuned", words(WORDS, ["<x>"]), 2)
    entries = [{"model": str(tuned), "parameters": {"weight": 0.5}}]
    out = merge(
        {"merge_method": "task_arithmetic", "base_model": str(base), "models": entries, "tokenizer": {"source": "union"}}
    )
    made, own, old = rows(out), rows(tuned), rows(base)
    np.testing.assert_allclose(made["<x>"], own["<x>"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(made["w3"], 0.5 * own["w3"] + 0.5 * old["w3"], rtol=1e-5, atol=1e-7)


def test_of_several_the_base_fills_and_without_one_the_mean(tmp_path: Path, merge: Callable[..., Path]) -> None:
    parts = [model(tmp_path / name, words(WORDS, added), seed) for name, added, seed in (
        ("a", ["<x>"], 1), ("b", ["<x>", "<y>"], 2), ("c", [], 3))]  # fmt: skip
    weights = (0.2, 0.3, 0.5)
    a, b, _ = (rows(part) for part in parts)
    out = rows(merge(recipe(parts, weights, tokenizer={"source": "union"}), "plain"))
    np.testing.assert_allclose(out["<x>"], 0.2 * a["<x>"] + 0.3 * b["<x>"] + 0.5 * (a["<x>"] + b["<x>"]) / 2, rtol=1e-5)
    np.testing.assert_allclose(out["<y>"], b["<y>"], rtol=1e-5, atol=1e-7)
    entries = [{"model": str(part), "parameters": {"weight": weight}} for part, weight in zip(parts, weights, strict=True)]
    based = {
        "merge_method": "task_arithmetic",
        "base_model": str(parts[1]),
        "models": entries,
        "tokenizer": {"source": "union"},
    }
    made = rows(merge(based, "based"))
    np.testing.assert_allclose(made["<x>"], b["<x>"] + 0.2 * (a["<x>"] - b["<x>"]), rtol=1e-5)


def test_rows_are_padded_to_a_multiple_by_their_mean(one: Path, two: Path, merge: Callable[..., Path]) -> None:
    out = merge(recipe([one, two], tokenizer={"source": "union", "pad_to_multiple_of": 16}))
    table = read_folder(out)[EMBEDDING].float64
    assert len(table) == config_of(out)["vocab_size"] == 32 and len(tokens_of(out)) == 18
    np.testing.assert_allclose(table[18:], np.tile(table[:18].mean(0), (14, 1)), rtol=1e-5, atol=1e-7)


def test_single_tokens_from_where_they_are_asked(one: Path, two: Path, merge: Callable[..., Path]) -> None:
    asked = {
        "<z>": {"source": {"kind": "zero"}},
        "<y>": {"source": str(one), "force": True},
        "<new>": {"source": {"kind": "model_token", "model": str(two), "token": "w3"}},
        "<newer>": {"source": {"kind": "model_token", "model": str(one), "token_id": 5}},
        "w4": {"source": {"kind": "zero"}, "force": True},
        "w5": {},
    }
    out = merge(recipe([one, two], tokenizer={"source": "base", "tokens": asked}))
    mine, theirs, made = rows(one), rows(two), rows(out)
    assert {"<z>", "<new>", "<newer>"} < set(made)
    np.testing.assert_allclose(made["<z>"], 0.75 * theirs["<z>"], rtol=1e-5, atol=1e-7)  # the second keeps its own
    np.testing.assert_allclose(made["<y>"], mine["<y>"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(made["<new>"], theirs["w3"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(made["<newer>"], read_folder(one)[EMBEDDING].float64[5], rtol=1e-5, atol=1e-7)
    assert not made["w4"].any()
    np.testing.assert_allclose(made["w5"], 0.25 * mine["w5"] + 0.75 * theirs["w5"], rtol=1e-5, atol=1e-7)


# -------------------------------------------------------------- files that agree


def test_special_ids_follow_the_tokenizer(one: Path, two: Path, merge: Callable[..., Path]) -> None:
    (one / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 15], "temperature": 0.5}))
    (one / "vocab.json").write_text("{}")
    union = merge(recipe([one, two], tokenizer_source="union"), "union")
    assert {key: config_of(union)[key] for key in ("bos_token_id", "eos_token_id")} == {"bos_token_id": 1, "eos_token_id": 2}
    assert json.loads((union / "generation_config.json").read_text()) == {"eos_token_id": [2, 15], "temperature": 0.5}
    assert not (union / "vocab.json").exists()  # it would tell of fewer tokens
    other = merge(recipe([one, two], tokenizer_source=str(two)), "other")
    assert {key: config_of(other)[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")} == {
        "bos_token_id": 1, "eos_token_id": 14, "pad_token_id": 0
    }  # fmt: skip
    assert json.loads((other / "generation_config.json").read_text()) == {"eos_token_id": 14, "temperature": 0.5}
    assert (other / "tokenizer.json").read_bytes() == (two / "tokenizer.json").read_bytes()
    base = merge(recipe([one, two], tokenizer_source="base"), "base")
    assert (base / "tokenizer.json").read_bytes() == (one / "tokenizer.json").read_bytes() and (base / "vocab.json").exists()


def test_a_tokenizer_of_a_model_that_is_not_merged(one: Path, two: Path, tmp_path: Path, merge: Callable[..., Path]) -> None:
    third = model(tmp_path / "third", words(["w3", "emu"], ["<y>"]), 3, eos_token_id=1)
    out = merge(recipe([one, two], tokenizer={"source": str(third)}))
    made, mine, theirs = rows(out), rows(one), rows(two)
    assert set(made) == set(tokens_of(third)) and config_of(out)["eos_token_id"] == 1
    np.testing.assert_allclose(made["w3"], 0.25 * mine["w3"] + 0.75 * theirs["w3"], rtol=1e-5, atol=1e-7)
    assert not made["emu"].any()
    assert any("no parent has a row for 1 tokens of the result ('emu')" in text for text in read_manifest(out)["warnings"])


def test_the_manifest_and_the_comparison_tell(one: Path, two: Path, tmp_path: Path) -> None:
    report = merge_models(write_recipe(tmp_path / "r.yml", recipe([one, two], tokenizer_source="union")), tmp_path / "out")
    aspect = next(aspect for aspect in report.comparison if aspect.name == "vocabulary")
    assert aspect.gravity == "note"
    assert aspect.reason == "aligned by union: 18 rows, of which one takes 1 from others, two takes 1 from others"
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None
    told = manifest["vocabulary"]
    assert told["rows"] == told["tokens"] == 18 and told["source"] == "union" and told["filled"] == {"one": 1, "two": 1}
    assert len(told["alignment"]) == len(told["tokenizer"]) == 64


def test_another_alignment_is_another_merge(one: Path, two: Path, tmp_path: Path) -> None:
    """Only a parent's tokenizer changes, so the weights' files do not; resuming must not take the old rows."""
    path = write_recipe(tmp_path / "r.yml", recipe([one, two], tokenizer_source="union"))
    merge_models(path, tmp_path / "out")
    assert merge_models(path, tmp_path / "out", resume=True).already
    # Rows stay as they were, and the tokenizer does not.
    data = json.loads((two / "tokenizer.json").read_text())
    data["added_tokens"][-1]["lstrip"] = True
    (two / "tokenizer.json").write_text(json.dumps(data))
    assert not merge_models(path, tmp_path / "out", resume=True).already
    assert merge_models(path, tmp_path / "out", resume=True).already
    data = json.loads((two / "tokenizer.json").read_text())
    vocabulary = data["model"]["vocab"]
    vocabulary["w1"], vocabulary["w2"] = vocabulary["w2"], vocabulary["w1"]
    (two / "tokenizer.json").write_text(json.dumps(data))
    assert not merge_models(path, tmp_path / "out", resume=True).already


# -------------------------------------------------------------- padding, and large vocabularies


@pytest.mark.parametrize(("mine", "theirs"), [(5, 8), (8, 5)])
def test_padding_alone_needs_no_key(mine: int, theirs: int, tmp_path: Path, merge: Callable[..., Path]) -> None:
    one = model(tmp_path / "one", words(WORDS), 1, padding=mine)
    two = model(tmp_path / "two", words(WORDS), 2, padding=theirs)
    out = merge(recipe([one, two]))
    table, first, second = (read_folder(folder)[EMBEDDING].float64 for folder in (out, one, two))
    assert len(table) == config_of(out)["vocab_size"] == 15 + mine
    both = min(len(first), len(second))
    np.testing.assert_allclose(table[:both], 0.25 * first[:both] + 0.75 * second[:both], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(table[both:], first[both:], rtol=1e-5, atol=1e-7)
    assert any("padding behind the same 15 tokens" in text for text in read_manifest(out)["warnings"])


def test_other_tokens_without_a_key_are_an_error_that_names_it(one: Path, two: Path, tmp_path: Path) -> None:
    two = model(tmp_path / "more", words(WORDS, ["<x>", "<z>"]), 3)
    with pytest.raises(UserError, match=r"stand for other tokens.*'tokenizer: \{source: union\}'.*--allow vocabulary"):
        refuse(prepare(write_recipe(tmp_path / "r.yml", recipe([one, two]))).aspects)


@pytest.mark.parametrize(("mine", "theirs"), [(151_936, 152_064), (152_064, 151_936)])
def test_qwens_padding(mine: int, theirs: int, tmp_path: Path, merge: Callable[..., Path]) -> None:
    """The rows of Qwen2.5's small and large models, with its own tokenizer."""
    source = SHARED / "tokenizers" / "qwen2.5"
    if not source.is_dir():
        pytest.skip(f"{source} is not here")
    tables, folders = [], []
    for seed, count in enumerate((mine, theirs)):
        folder = tmp_path / str(seed)
        tables.append(np.random.default_rng(seed).standard_normal((count, 2)).astype(np.float32))
        tensors = {EMBEDDING: encode(tables[-1], "F32"), "model.norm.weight": encode(np.ones(2), "F32")}
        folders.append(write_folder(folder, tensors, {"model_type": "qwen2", "vocab_size": count, "tie_word_embeddings": True}))
        (folder / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    out = merge(recipe(folders))
    table = read_folder(out)[EMBEDDING].bits
    expected = (0.25 * tables[0][:151_936] + 0.75 * tables[1][:151_936]).astype(np.float32)
    assert len(table) == config_of(out)["vocab_size"] == mine
    np.testing.assert_allclose(table[:151_936], expected, rtol=1e-5, atol=1e-6)
    assert np.array_equal(table[151_936:], tables[0][151_936:])


def test_32002_against_32032(tmp_path: Path, merge: Callable[..., Path]) -> None:
    """Starling's and Hermes's vocabularies: one base's words, and additions that take the same ids."""
    listed = [f"w{number}" for number in range(31_997)]
    extra = [["<|end_of_turn|>", "<sep>"], ["<|im_end|>", "<|im_start|>", *(f"<extra{number}>" for number in range(30))]]
    tables, folders = [], []
    for seed, added in enumerate(extra):
        folder = tmp_path / str(seed)
        folder.mkdir()
        count = max(write_tokenizer(folder, words(listed, added)).values()) + 1
        shapes = {EMBEDDING: (count, 3), "model.norm.weight": (3,), HEAD: (count, 3)}
        tensors = random_tensors(shapes, seed, "BF16")
        tables.append({name: tensor.float64 for name, tensor in tensors.items()})
        folders.append(write_folder(folder, tensors, {"model_type": "mistral", "vocab_size": count}))
    assert [len(table[EMBEDDING]) for table in tables] == [32_002, 32_032]
    out = merge(recipe(folders, (0.5, 0.5), tokenizer_source="union", dtype="float32"))
    made, tokens = read_folder(out), tokens_of(out)
    assert len(tokens) == config_of(out)["vocab_size"] == 32_034
    assert [tokens[text] for text in ("<|end_of_turn|>", "<sep>", "<|im_end|>", "<|im_start|>")] == [
        32_000,
        32_001,
        32_002,
        32_003,
    ]
    for name in (EMBEDDING, HEAD):
        np.testing.assert_allclose(
            made[name].bits[:32_000], (tables[0][name][:32_000] + tables[1][name][:32_000]) / 2, rtol=1e-6
        )
        assert np.array_equal(made[name].bits[32_000:32_002], tables[0][name][32_000:])
        assert np.array_equal(made[name].bits[32_002:], tables[1][name][32_000:])


def test_biases_and_other_names(tmp_path: Path, merge: Callable[..., Path]) -> None:
    """Whatever has a row for each token is aligned: heads under other names, their biases."""
    tables = []
    for seed, listed in enumerate((WORDS, WORDS[::-1])):
        folder = tmp_path / str(seed)
        folder.mkdir()
        count = max(write_tokenizer(folder, words(listed)).values()) + 1
        shapes = {"transformer.wte.weight": (count, 2), "lm_head.bias": (count,), "embed_out.weight": (count, 2),
                  "final_logits_bias": (1, count), "transformer.h.0.ln.weight": (count,)}  # fmt: skip
        tensors = random_tensors(shapes, seed, "F32")
        tables.append({name: tensor.float64 for name, tensor in tensors.items()})
        write_folder(folder, tensors, {"model_type": "gpt2"})
    made = read_folder(merge(recipe([tmp_path / "0", tmp_path / "1"], (0, 1), tokenizer_source="union")))
    order = [0, 1, 2, *range(14, 2, -1)]
    for name, value in made.items():
        expected = tables[1][name]
        expected = expected if "ln" in name else expected[:, order] if name == "final_logits_bias" else expected[order]
        assert np.array_equal(value.float64, expected), name


# -------------------------------------------------------------- real ones


def test_experts_of_one_tokenizer_merge_under_any_source(tmp_path: Path, merge: Callable[..., Path]) -> None:
    """Where the tokenizers are equal, a union is what there was: the same bytes as without a key."""
    models = [EXPERTS / "general", EXPERTS / "math"]
    plain = merge(recipe(models), "plain")
    for source in ("union", "base"):
        out = merge(recipe(models, tokenizer={"source": source}), source)
        assert (out / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
        assert (out / "tokenizer.json").read_bytes() == (plain / "tokenizer.json").read_bytes()


def test_trained_models_one_with_a_token_more(tmp_path: Path, merge: Callable[..., Path]) -> None:
    """All the weight on the one that has it: the union speaks as that model did, whatever stands first."""
    transformers = pytest.importorskip("transformers")
    source = SHARED / "models" / "stories260K-ft-grimm"
    if not source.is_dir():
        pytest.skip(f"{source} is not here")
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    (tuned / "tokenizer_config.json").write_bytes((source / "tokenizer_config.json").read_bytes())
    data = json.loads((source / "tokenizer.json").read_text())
    data["added_tokens"].append({**data["added_tokens"][-1], "id": 512, "content": "<story>"})
    (tuned / "tokenizer.json").write_text(json.dumps(data))
    tensors = read_folder(source)
    old = tensors[EMBEDDING]
    tensors[EMBEDDING] = Tensor(old.dtype, np.concatenate([old.bits, old.bits[17:18]]))
    write_folder(tuned, tensors, config_of(source) | {"vocab_size": 513})
    base = SHARED / "models" / "stories260K"
    text = "<story> Once upon a time there was"

    def says(folder: Path) -> str:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        speaker = transformers.AutoModelForCausalLM.from_pretrained(folder)
        ids = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        return str(tokenizer.decode(speaker.generate(**ids, max_new_tokens=20, do_sample=False)[0]))

    out = merge(recipe([base, tuned], (0, 1), tokenizer_source="union"))
    assert tokens_of(out) == tokens_of(tuned) and says(out) == says(tuned)
    table = read_folder(out)
    assert all(np.array_equal(table[name].bits, tensors[name].bits) for name in tensors)


def test_a_union_of_merged_letters_loads_and_generates(tmp_path: Path, merge: Callable[..., Path]) -> None:
    """Ordinary tokens that only one parent has, an added token that only the other has."""
    transformers = pytest.importorskip("transformers")
    one = model(tmp_path / "one", letters([("a", "b"), ("ab", "c")], ["<s>", "</s>", "<x>"]), 1)
    two = model(tmp_path / "two", letters([("b", "c"), ("bc", "d")], ["<s>", "</s>", "<y>"]), 2)
    for folder in (one, two):
        (folder / "tokenizer_config.json").write_text(json.dumps(CONFIG | {"unk_token": None}))
    out = merge(recipe([one, two], tokenizer_source="union"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert dict(tokenizer.get_vocab()) == tokens_of(out)
    made, mine, theirs = rows(out), rows(one), rows(two)
    for text, token in (("abc", "abc"), ("bcd", "bcd"), ("<y>", "<y>"), ("<x>", "<x>"), ("ab", "ab"), ("bc", "bc")):
        (number,) = tokenizer(text, add_special_tokens=False).input_ids
        assert number == tokens_of(out)[token]
        first = mine.get(token, theirs.get(token))
        np.testing.assert_allclose(made[token], 0.25 * first + 0.75 * theirs.get(token, first), rtol=1e-5, atol=1e-7)
    loaded_model, info = transformers.AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"] and not info["unexpected_keys"]
    produced = loaded_model.generate(
        **tokenizer("abc bcd<y>", return_tensors="pt", return_token_type_ids=False), max_new_tokens=4, do_sample=False
    )
    assert tokenizer.decode(produced[0]).startswith("abc bcd<y>")


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_a_named_tokenizer_class_loads_the_union(family: str, tmp_path: Path, merge: Callable[..., Path]) -> None:
    """Classes like Qwen2Tokenizer rebuild themselves from the vocabulary; the ids must come out all the same."""
    transformers = pytest.importorskip("transformers")
    parts = []
    for seed, name in enumerate(("general", "math-chars")):
        folder = tmp_path / name
        folder.mkdir()
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (folder / file).write_bytes((EXPERTS / name / file).read_bytes())
        data = json.loads((folder / "tokenizer.json").read_text())
        count = len(data["model"]["vocab"])
        data["added_tokens"].append({**data["added_tokens"][0], "id": count, "content": f"<|{name}|>"})
        (folder / "tokenizer.json").write_text(json.dumps(data))
        tensors = random_tensors(llama_shapes(hidden=8, inner=12, layers=1, vocabulary=count + 1), seed, "F32")
        parts.append(write_folder(folder, tensors, llama_config(tensors, model_type=family)))
    for order in (parts, parts[::-1]):
        out = merge(recipe(order, tokenizer_source="union"), f"{order[0].name}-first")
        tokenizer = transformers.AutoTokenizer.from_pretrained(out)
        assert dict(tokenizer.get_vocab()) == tokens_of(out)
        plain = loaded(json.loads((out / "tokenizer.json").read_text()))
        text = "<|im_start|>user\nThe 17 apples<|general|> cost <|math-chars|>2 dollars; été 你好<|im_end|>\n"
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert ids == plain.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids) == text
        assert {tokens_of(out)[f"<|{part.name}|>"] for part in parts} < set(ids)


# -------------------------------------------------------------- with slices


def test_a_union_of_stacked_layers(tmp_path: Path, merge: Callable[..., Path]) -> None:
    """The bottom slice's models give the embeddings, the top one's the head; a token only the other has comes from there."""
    one = model(tmp_path / "one", words(WORDS, ["<x>"]), 1)
    two = model(tmp_path / "two", words(WORDS[::-1], ["<y>"]), 2)
    slices = [{"sources": [{"model": str(folder), "layer_range": [0, 2]}]} for folder in (one, two)]
    out = merge({"merge_method": "passthrough", "slices": slices, "tokenizer_source": "union"})
    made, head = rows(out), rows(out, HEAD)
    mine, theirs = rows(one), rows(two, HEAD)
    assert all(np.array_equal(made[token], mine[token]) for token in mine)
    assert all(np.array_equal(head[token], theirs[token]) for token in theirs)
    assert np.array_equal(made["<y>"], rows(two)["<y>"]) and np.array_equal(head["<x>"], rows(one, HEAD)["<x>"])
    assert config_of(out)["num_hidden_layers"] == 4 and config_of(out)["vocab_size"] == len(made) == 17


# -------------------------------------------------------------- what is refused


def _error(tmp_path: Path, data: Mapping[str, Any]) -> str:
    with pytest.raises(ModistError) as error:
        merge_models(write_recipe(tmp_path / "r.yml", data), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    message = str(error.value)
    assert "\n" not in message and message.startswith(str(tmp_path / "r.yml"))
    return message


def _row(source: dict[str, Any]) -> dict[str, Any]:
    return {"tokens": {"<x>": {"source": {"kind": "model_token", **source}}}}


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        ({"source": "unoin"}, "tokenizer.source: 'unoin' is neither base nor union nor a folder; did you mean 'union'?"),
        ({"sauce": "base"}, "tokenizer.sauce: unknown key 'sauce'; did you mean 'source'?"),
        ({"pad_to_multiple_of": 0}, "tokenizer.pad_to_multiple_of: 0: "),
        ({"tokens": {"<x>": {"sorce": "A"}}}, "tokenizer.tokens.<x>.sorce: unknown key 'sorce'; did you mean 'source'?"),
        ({"tokens": {"<x>": {"source": {"kind": "zeros"}}}}, "did you mean 'zero'?"),
        (_row({"model": "ONE"}), "needs 'token' or 'token_id', one of the two; found neither"),
        (_row({"model": "ONE", "token": "a", "token_id": 1}), "found both 'a' and 1"),
        (_row({"token": "a"}), "'kind: model_token' needs the 'model'"),
        ({"tokens": {"<x>": {"source": {"kind": "zero", "token": "a"}}}}, "'token' belongs to 'kind: model_token'"),
        ({"tokens": {"<x>": {"force": True}}}, "'force' needs a source"),
        ({"tokens": {"<yy>": {}}}, "tokenizer.tokens.<yy>: no parent has the token '<yy>'; did you mean '<y>'?"),
        ({"tokens": {"<z>": {"source": "ONE"}}}, "tokenizer.tokens.<z>.source: one has no row for the token '<z>'"),
        (_row({"model": "ONE", "token": "<yy>"}), "one has no row for the token '<yy>'; did you mean '<y>'?"),
        (_row({"model": "ONE", "token_id": 99}), "token_id: one has no row 99; its embeddings have 17"),
        ({"tokens": {"<x>": {"source": "OTHER"}}}, "is no model of this merge"),
        ({"tokens": {"": {"source": "ONE"}}}, "tokenizer.tokens: an empty token"),
        (3, "tokenizer: "),
    ],
    ids=str,
)  # fmt: skip
def test_errors_name_line_and_key(tokenizer: Any, message: str, one: Path, two: Path, tmp_path: Path) -> None:
    text = json.dumps(tokenizer).replace("ONE", str(one)).replace("OTHER", str(tmp_path))
    found = _error(tmp_path, recipe([one, two], tokenizer=json.loads(text)))
    assert message in found


def test_both_keys(one: Path, two: Path, tmp_path: Path) -> None:
    found = _error(tmp_path, recipe([one, two], tokenizer={"source": "base"}, tokenizer_source="base"))
    assert "tokenizer_source: 'tokenizer' says it already" in found


@pytest.mark.parametrize(
    "keys", [{"tokenizer": {"source": "union"}}, {"tokenizer_source": "base"}, {"chat_template": "chatml"}]
)
def test_a_search_says_that_it_has_no_such_key(keys: dict[str, Any], tmp_path: Path) -> None:
    from modist.search.genes import make_genome
    from modist.search.settings import SearchSettings

    parents = [model(tmp_path / name, words(WORDS), seed) for seed, name in enumerate("ab")]
    prepared = prepare(write_recipe(tmp_path / "r.yml", recipe(parents, **keys)))
    with pytest.raises(RecipeError, match="candidates run inside the donor's model with its own tokenizer and template"):
        make_genome(prepared.plan, SearchSettings())


def test_tokenizers_that_do_not_go_together(one: Path, tmp_path: Path) -> None:
    other = model(tmp_path / "other", letters([("a", "b")]), 3)
    found = _error(tmp_path, recipe([one, other], tokenizer_source="union"))
    assert "tokenizer_source: the tokenizers of one and other cannot be united" in found
    assert isinstance(_raised(tmp_path, recipe([one, other], tokenizer_source="union")), RecipeError)
    # Only what both have is merged where one tokenizer is kept.
    path = write_recipe(tmp_path / "base.yml", recipe([one, other], tokenizer_source="base"))
    merge_models(path, tmp_path / "base")


def _raised(tmp_path: Path, data: Mapping[str, Any]) -> Exception:
    with pytest.raises(ModistError) as error:
        merge_models(write_recipe(tmp_path / "r.yml", data), tmp_path / "out")
    return error.value


def test_tokenizers_that_cannot_be_read(one: Path, two: Path, tmp_path: Path) -> None:
    both = recipe([one, two], tokenizer_source="union")
    data = json.loads((two / "tokenizer.json").read_text())
    data["added_tokens"].append({**data["added_tokens"][-1], "id": 40, "content": "<w>"})
    (two / "tokenizer.json").write_text(json.dumps(data))
    assert "two: tokenizer.json gives the added token '<w>' the id 40, where whoever loads it gets 17" in _error(tmp_path, both)
    (two / "tokenizer.json").write_text("{")
    assert "not JSON" in _error(tmp_path, both)
    (two / "tokenizer.json").unlink()
    (two / "tokenizer.model").write_bytes(b"pieces")
    assert "has tokenizer.model but no tokenizer.json" in _error(tmp_path, both)
    (one / "tokenizer.json").unlink()
    (two / "tokenizer.model").unlink()
    assert "one has no tokenizer.json, so there is no vocabulary to align to" in _error(tmp_path, both)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_links_out_of_a_folder_are_refused(name: str, one: Path, two: Path, tmp_path: Path) -> None:
    """Whatever a union or a voted template would put into the result."""
    secret = tmp_path / "secret"
    secret.write_bytes((two / name).read_bytes() if (two / name).exists() else b"{{ secret }}")
    (two / name).unlink(missing_ok=True)
    (two / name).symlink_to(secret)
    keys = {"chat_template": "auto"} if name.endswith("jinja") else {}
    for source in ("union", str(two)):
        with pytest.raises(CheckpointError, match=rf"{name}: is a link to .*secret, outside the model's folder"):
            merge_models(
                write_recipe(tmp_path / "r.yml", recipe([one, two], tokenizer_source=source, **keys)), tmp_path / "out"
            )
    assert not list(tmp_path.glob("out*"))


def test_a_base_of_another_form_is_carried_where_nothing_needs_aligning(tmp_path: Path, merge: Callable[..., Path]) -> None:
    """`tokenizer_source: base` stands in many recipes for nothing more than this."""
    parts = [model(tmp_path / name, words(WORDS), seed) for seed, name in enumerate("ab")]
    for part in parts:
        (part / "tokenizer.json").rename(part / "tokenizer.model")
    out = merge(recipe(parts, tokenizer_source="base"))
    assert (out / "tokenizer.model").read_bytes() == (parts[0] / "tokenizer.model").read_bytes()
    assert len(read_folder(out)[EMBEDDING].bits) == 15


def test_a_parent_without_a_tokenizer_has_the_bases(one: Path, two: Path, merge: Callable[..., Path]) -> None:
    (two / "tokenizer.json").unlink()
    out = merge(recipe([one, two], tokenizer_source="union"))
    assert any(
        "two has no tokenizer.json: its rows are taken to stand for one's tokens" in text
        for text in read_manifest(out)["warnings"]
    )
    table, first, second = (read_folder(folder)[EMBEDDING].float64 for folder in (out, one, two))
    np.testing.assert_allclose(table, 0.25 * first + 0.75 * second[:17], rtol=1e-5, atol=1e-7)
