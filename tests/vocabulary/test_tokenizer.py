"""Tokenizers read as data: the ids are those the library gives, and doubt is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modist.errors import CheckpointError, ModistError
from modist.vocabulary.tokenizer import loaded_ids, read_tokenizer
from modist.vocabulary.union import unite
from tests.vocabulary.tiny_tokenizers import SHARED, SPECIAL, entry, letters, loaded, pieces, read, whole, words

_REAL = ["models/stories260K", "models/babyllama-tok105", "tokenizers/gpt2-hf", "tokenizers/mistral-v3"]


@pytest.mark.parametrize("folder", [*_REAL, pytest.param("tokenizers/qwen2.5", marks=pytest.mark.full)])
def test_real_tokenizers_have_the_librarys_ids(folder: str) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    place = SHARED / folder
    if not place.is_dir():
        pytest.skip(f"{place} is not here")
    found = read_tokenizer(place)
    assert found is not None
    library = tokenizers.Tokenizer.from_file(str(place / "tokenizer.json"))
    assert found.tokens == library.get_vocab(with_added_tokens=True)
    assert found.size == max(found.tokens.values()) + 1
    assert found.spelling == ("byte-level" if "gpt2" in folder or "qwen" in folder else "metaspace")
    assert found.kind == "BPE"  # gpt2's file does not say so
    assert all(len(pair) == 2 for pair in found.merges)


@settings(max_examples=150, deadline=None)
@given(
    numbers=st.lists(st.integers(0, 9), max_size=6, unique=True),
    contents=st.lists(st.sampled_from(["w0", "w1", "w2", "x", "y", "z"]), max_size=6),
)
def test_added_tokens_are_numbered_as_the_library_does(numbers: list[int], contents: list[str]) -> None:
    pytest.importorskip("tokenizers")
    vocabulary = {f"w{index}": number for index, number in enumerate(numbers)}
    vocabulary.setdefault("<unk>", 10)
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"}
    # The ids stated are wrong on purpose: the library does not ask them.
    library = loaded(whole(model, [entry(text, 50 + number) for number, text in enumerate(contents)]))
    assert loaded_ids(vocabulary, contents) == {text: library.token_to_id(text) for text in contents}


def test_merges_are_read_in_both_forms() -> None:
    pairs = letters([("a", "b"), ("ab", "c")])
    strings = letters([("a", "b"), ("ab", "c")]) | {}
    strings["model"] = strings["model"] | {"merges": ["a b", "ab c"]}
    assert read(pairs).merges == read(strings).merges == (("a", "b"), ("ab", "c"))


def test_kinds_and_spellings() -> None:
    assert [read(data).kind for data in (words("ab"), letters([]), pieces({"a": -1.0}))] == ["WordLevel", "BPE", "Unigram"]
    assert [read(data).spelling for data in (words("ab"), letters([]), pieces({"a": -1.0}))] == ["plain", *["metaspace"] * 2]
    old = words("ab")
    del old["model"]["type"]
    assert read(old).kind == "WordLevel"
    assert read(pieces({"a": -1.0, "b": -2.0}, ["<x>"])).tokens == {"<unk>": 0, "a": 1, "b": 2, "<x>": 3}


def test_tokens_named_only_in_the_config_count() -> None:
    """transformers adds them when it loads; so their ids are taken."""
    transformers = pytest.importorskip("transformers")
    config = {"pad_token": "<pad>", "eos_token": "</s>", "extra_special_tokens": ["<tool>"]}
    found = read(words("ab", ["<x>"]), config=config)
    library = transformers.PreTrainedTokenizerFast(tokenizer_object=loaded(words("ab", ["<x>"])), **config)
    assert found.tokens == library.get_vocab()
    assert found.tokens["<pad>"] == 6 and found.tokens["<tool>"] == 7


def _with(change: dict[str, Any], base: dict[str, Any] | None = None) -> dict[str, Any]:
    return (base or words("ab")) | change


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (_with({"added_tokens": [entry("<x>", 40)]}), "gives the added token '<x>' the id 40, where whoever loads it gets 5"),
        (_with({"added_tokens": [entry("a", 7)]}), "gives the added token 'a' the id 7, where whoever loads it gets 3"),
        (_with({"added_tokens": [entry("<x>", 5), entry("<x>", 5)]}), "adds the token '<x>' twice"),
        (_with({"model": {"type": "WordLevel", "vocab": {"a": 0, "b": 0}}, "added_tokens": []}),
         "gives both 'a' and 'b' the id 0"),
        (_with({"model": {"type": "WordLevel", "vocab": {"a": 0, "b": 2}}, "added_tokens": [entry("<x>", 2)]}),
         "gives both 'b' and '<x>' the id 2"),
        (_with({"model": {"type": "WordLevel", "vocab": {"a": "0"}}}), "no tokenizer that can be read"),
        (_with({"model": {"type": "WordLevel", "vocab": {"a": -1}}}), "no tokenizer that can be read"),
        (_with({"model": None}), "no tokenizer that can be read"),
        (_with({"added_tokens": [{"content": "<x>"}]}), "no tokenizer that can be read"),
        (_with({"added_tokens": 3}), "no tokenizer that can be read"),
        ({}, "no tokenizer that can be read"),
    ],
)  # fmt: skip
def test_doubtful_tokenizers_are_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError) as error:
        read(data, "ada/one")
    assert message in str(error.value) and str(error.value).startswith("ada/one: tokenizer.json")
    assert "\n" not in str(error.value)


def test_folders(tmp_path: Path) -> None:
    assert read_tokenizer(tmp_path) is None
    (tmp_path / "tokenizer.model").write_bytes(b"pieces")
    with pytest.raises(CheckpointError, match=r"has tokenizer\.model but no tokenizer\.json, the only form read here"):
        read_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("[1, 2]")
    with pytest.raises(CheckpointError, match="not a JSON object"):
        read_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(words("ab")))
    found = read_tokenizer(tmp_path)
    assert found is not None and found.tokens == {text: number for number, text in enumerate([*SPECIAL, "a", "b"])}


def test_ids_beyond_any_vocabulary_are_refused() -> None:
    with pytest.raises(CheckpointError, match="has the id 1000000000000, which is more than any vocabulary needs"):
        read(whole({"type": "WordLevel", "vocab": {"a": 0, "b": 10**12}}))


_JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 1 << 40),
    st.text(max_size=3),
    st.just([]),
    st.just({}),
    st.just([["a"]]),
    st.just([1, 2]),
)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_any_damage_is_a_line_or_no_harm(data: st.DataObject) -> None:
    """One place of a tokenizer holds something else: it is read, united with a whole one and loaded, or refused."""
    kinds = [words("ab", ["<x>"]), letters([("a", "b"), ("ab", "c")], ["<x>"]), pieces({"a": -1.0, "b": -2.0}, ["<x>"])]
    whole_one = data.draw(st.sampled_from(kinds))
    damaged = json.loads(json.dumps(whole_one))
    config: Any = {"pad_token": "<pad>", "added_tokens_decoder": {"1": {"content": "<s>"}}, "extra_special_tokens": ["<t>"]}
    node: Any = data.draw(st.sampled_from([damaged, config]))
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            break
        key = data.draw(st.sampled_from(keys))
        if isinstance(node[key], (dict, list)) and node[key] and data.draw(st.booleans()):
            node = node[key]
            continue
        node[key] = data.draw(_JUNK)
        break
    try:
        other = read(damaged, "damaged", config)
        for parts in ([read(whole_one), other], [other, read(whole_one)]):
            united = unite(parts)
            assert united.tokenizer.tokens.keys() >= other.tokens.keys()
    except ModistError as error:
        assert "\n" not in str(error)
