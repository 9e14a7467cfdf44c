"""Unions of tokenizers, cut by the tokenizers library: who has a token still has it, and a text comes back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modist.errors import UserError
from modist.vocabulary.merges import cut, join
from modist.vocabulary.tokenizer import Tokenizer, make_tokenizer, read_tokenizer
from modist.vocabulary.union import unite
from tests.vocabulary.tiny_tokenizers import SHARED, entry, letters, loaded, pieces, read, whole, wordpieces, words

pytest.importorskip("tokenizers")

EXPERTS = Path(__file__).parents[2] / "examples" / "experts"


def check(parts: Sequence[Tokenizer]) -> tuple[Any, Tokenizer]:
    """The union as the library loads it, with what must hold of any."""
    united = unite(parts)
    made = united.tokenizer
    library = loaded(made.data)
    assert library.get_vocab(with_added_tokens=True) == made.tokens
    assert make_tokenizer(json.loads(json.dumps(made.data)), made.config, "again").tokens == made.tokens
    for part in parts:
        assert set(part.tokens) <= set(made.tokens)
    assert {text: made.tokens[text] for text in parts[0].tokens} == parts[0].tokens
    for part in parts:
        for content in part.added:
            assert library.encode(content, add_special_tokens=False).ids == [made.tokens[content]], content
    return library, made


# -------------------------------------------------------------- added tokens


def test_added_tokens_follow_in_the_order_of_parents_and_ids() -> None:
    one, two = read(words("ab", ["<x>", "<y>"])), read(words("ab", ["<y>", "<z>", "<w>"]), "two")
    three = read(words("ab", ["<v>", "<z>"]), "three")
    united = unite([one, two, three])
    assert list(united.tokenizer.tokens)[5:] == ["<x>", "<y>", "<z>", "<w>", "<v>"]
    assert [united.tokenizer.tokens[text] for text in ("<x>", "<y>", "<z>", "<w>", "<v>")] == [5, 6, 7, 8, 9]
    assert united.grown and not united.remodelled and united.remarks == ()
    library, _ = check([one, two, three])
    assert library.encode("a<z>b").tokens == ["a", "<z>", "b"]


def test_nothing_new_leaves_the_first_as_it_is() -> None:
    one, two = read(words("abc", ["<x>"])), read(words("ab"), "two")
    united = unite([one, two])
    assert united.tokenizer is one and not united.grown and united.remarks == ()


def test_words_of_others_become_words() -> None:
    one, two = read(words(["cat", "dog"], ["<x>"])), read(words(["emu", "dog", "cat"], ["<y>"]), "two")
    library, made = check([one, two])
    assert made.tokens["emu"] == 6 and made.tokens["<y>"] == 7 and made.tokens["<x>"] == 5
    assert library.encode("emu <y> dog gnu").tokens == ["emu", "<y>", "dog", "<unk>"]


def test_special_in_one_and_ordinary_in_another() -> None:
    one, two = read(words(["tool", "dog"])), read(words(["dog"], ["tool"]), "two")
    united = unite([one, two])
    assert united.tokenizer.tokens["tool"] == one.tokens["tool"] and "tool" in united.tokenizer.added
    assert "'tool' is an added token of two and an ordinary one of another parent" in united.remarks[0]
    check([one, two])
    library, made = check([two, one])
    assert made.tokens.keys() == two.tokens.keys() and library.encode("dogtool").tokens == ["dog", "tool"]


def test_settings_of_a_token_that_differ_are_told() -> None:
    one, two = read(words("a", ["<x>"])), read(words("a", ["<x>"], special=False), "two")
    united = unite([one, two])
    assert united.remarks == (
        "'<x>' is not the same kind of token in one and two (special and normalized differ):"
        " the union has it as the first does",
    )
    assert united.tokenizer.added["<x>"]["special"] and not united.grown


def test_tokens_to_be_made() -> None:
    united = unite([read(words("a", ["<x>"]))], ["<x>", "<new>"])
    assert united.tokenizer.tokens["<new>"] == 5 and not united.tokenizer.added["<new>"]["special"]
    assert loaded(united.tokenizer.data).encode("a<new>a").tokens == ["a", "<new>", "a"]


def test_the_tokens_of_the_config_get_entries() -> None:
    one = read(words("a"), config={"pad_token": "<pad>", "added_tokens_decoder": {}})
    made = unite([one, read(words("a", ["<x>"]), "two")]).tokenizer
    assert made.tokens["<pad>"] == 4 and made.tokens["<x>"] == 5
    assert made.config["added_tokens_decoder"]["5"] == {
        "content": "<x>", "special": True, "normalized": False, "lstrip": False, "rstrip": False, "single_word": False
    }  # fmt: skip
    assert [part["content"] for part in made.data["added_tokens"]][-2:] == ["<pad>", "<x>"]


def test_ids_with_gaps_stay() -> None:
    """The library numbers added tokens by the size of the model's vocabulary, which a gap makes too small."""
    model = {"type": "WordLevel", "vocab": {"<unk>": 0, "a": 1, "b": 5}, "unk_token": "<unk>"}
    one = read(whole(model, [entry("<x>", 3)], pre_tokenizer={"type": "WhitespaceSplit"}))
    library, made = check([one, read(words("abc", ["<y>", "<z>"]), "two")])
    assert made.tokens["b"] == 5 and made.tokens["<x>"] == 3 and made.tokens["<s>"] > 5
    assert library.encode("b <x> c<z>").ids == [made.tokens[text] for text in ("b", "<x>", "c", "<z>")]


# -------------------------------------------------------------- merges


def test_the_first_cuts_as_it_did_where_the_second_has_nothing_to_join() -> None:
    one, two = read(letters([("b", "c")])), read(letters([("a", "b"), ("ab", "c")]), "two")
    library, made = check([one, two])
    # The second's pairs never meet "bc", so a bridge leads there.
    assert library.encode("abc").tokens == ["abc"] and library.encode("bc").tokens == ["bc"]
    assert library.encode("ab").tokens == ["ab"] and ("a", "bc") in made.merges
    assert made.model["merges"] == [["b", "c"], ["a", "b"], ["ab", "c"], ["a", "bc"]]


def test_one_that_extends_the_other_is_the_union() -> None:
    one, two = read(letters([("a", "b")])), read(letters([("a", "b"), ("ab", "c")]), "two")
    united = unite([one, two])
    assert united.remarks == () and united.tokenizer.merges == two.merges and united.remodelled
    assert unite([two, one]).tokenizer is two


def test_a_token_its_owner_never_makes_gets_no_bridge() -> None:
    """`aa` comes first, so the pair (`a`, `aba`) is never met."""
    dead = [("a", "a"), ("a", "b"), ("ab", "a"), ("a", "aba")]
    one, two = read(letters([])), read(letters(dead), "two")
    assert loaded(two.data).encode("aaba").tokens == ["aa", "b", "a"]
    united = unite([one, two])
    assert united.tokenizer.merges == two.merges and united.remarks == ()


def test_unreachable_tokens_are_counted() -> None:
    joined = join(
        [("b", "c"), ("d", "e")],
        [("a", "b"), ("ab", "c"), ("abc", "d"), ("abcd", "e")],
        ["ab", "abc", "abcd", "abcde"],
        "abcde",
    )
    assert joined.bridges == 2 and joined.unreachable == ()
    lost = join([("b", "c")], [("a", "b"), ("c", "d"), ("ab", "cd")], ["abcd", "ab", "cd"], "abcd")
    assert lost.unreachable == ("abcd",)
    one, two = read(letters([("b", "c")])), read(letters([("a", "b"), ("c", "d"), ("ab", "cd")]), "two")
    (remark,) = unite([one, two]).remarks
    assert "two cuts texts by other merges than one" in remark
    assert remark.endswith("1 of the 3 tokens only two has are no longer cut from any text ('abcd')")


@st.composite
def tables(draw: st.DrawFn) -> list[tuple[str, str]]:
    """A merge table whose pairs are made of tokens made before."""
    made: list[tuple[str, str]] = []
    known = list("abcdef")
    for _ in range(draw(st.integers(0, 6))):
        pair = (draw(st.sampled_from(known)), draw(st.sampled_from(known)))
        if pair not in made:
            made.append(pair)
            known.append("".join(pair))
    return made


_TEXT = st.text(alphabet="abcdef ", max_size=12)


@settings(max_examples=150, deadline=None)
@given(first=tables(), second=tables(), texts=st.lists(_TEXT, min_size=3, max_size=3))
def test_any_two_tables(first: list[tuple[str, str]], second: list[tuple[str, str]], texts: list[str]) -> None:
    one, two = read(letters(first, ["<x>"])), read(letters(second, ["<y>", "<x>"]), "two")
    library, made = check([one, two])
    for text in texts:
        assert library.decode(library.encode(text).ids) == text
        assert "".join(cut(text.replace(" ", "▁"), {pair: rank for rank, pair in enumerate(made.merges)})) == text.replace(
            " ", "▁"
        )
    own = loaded(one.data)
    for token in one.words:
        if own.encode(token.replace("▁", " ")).tokens == [token]:
            assert library.encode(token.replace("▁", " ")).tokens == [token]
    # Of the second's, those that no text gives any more are told.
    theirs = loaded(two.data)
    new = [token for token in two.words if token not in one.words and theirs.encode(token).tokens == [token]]
    missing = {token for token in new if library.encode(token).tokens != [token]}
    remarks = " ".join(unite([one, two]).remarks)
    assert bool(missing) == ("no longer cut from any text" in remarks)
    if missing:
        assert f"{len(missing)} of the" in remarks


@settings(max_examples=100, deadline=None)
@given(table=tables(), word=st.text(alphabet="abcdef", min_size=1, max_size=12))
def test_cut_is_the_librarys(table: list[tuple[str, str]], word: str) -> None:
    assert cut(word, {pair: rank for rank, pair in enumerate(table)}) == loaded(letters(table)).encode(word).tokens


def test_byte_fallback_is_kept_alive() -> None:
    """A union with one that spells unknown letters as bytes does too."""
    tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    plain, able = letters([]), letters([], byte_fallback=True)
    able["model"]["vocab"] |= {text: 7 + number for number, text in enumerate(tokens)}
    for data in (plain, able):
        steps = data["decoder"]["decoders"]
        data["decoder"] = {"type": "Sequence", "decoders": [steps[0], {"type": "ByteFallback"}, {"type": "Fuse"}]}
        data["model"] |= {"unk_token": None}
    able["model"] |= {"merges": [["a", "b"]], "vocab": able["model"]["vocab"] | {"ab": 263}}
    library, _ = check([read(plain), read(able, "two")])
    text = "ab é 你"
    assert library.decode(library.encode(text).ids) == text


# -------------------------------------------------------------- pieces


def test_pieces_keep_their_scores() -> None:
    one, two = (
        read(pieces({"a": -2.0, "b": -2.0, "ab": -3.0, "▁": -2.0})),
        read(pieces({"a": -2.5, "ba": -1.0, "▁": -2.0}, ["<x>"]), "two"),
    )
    united = unite([one, two])
    assert "score the same pieces differently" in united.remarks[0] and "1 new pieces" in united.remarks[0]
    library, made = check([one, two])
    assert made.model["vocab"][-2:] == [["ba", -1.0], ["<x>", -10000.0]] or made.model["vocab"][-1] == ["ba", -1.0]
    assert library.encode("ab").tokens == ["ab"] and library.encode("ba").tokens == ["ba"]
    assert library.decode(library.encode("ab ba").ids) == "ab ba"


# -------------------------------------------------------------- wordpieces

_PIECES = st.lists(st.text(alphabet="abc", min_size=2, max_size=4), max_size=6)


@settings(max_examples=100, deadline=None)
@given(first=_PIECES, second=_PIECES, continuing=_PIECES, more=_PIECES, text=st.text(alphabet="abcz ", max_size=14))
def test_any_two_of_wordpieces(first: list[str], second: list[str], continuing: list[str], more: list[str], text: str) -> None:
    """WordPiece takes the longest piece, so who knows a piece still gets it, at a word's start and within one."""
    single = [*"abcz", *(f"##{letter}" for letter in "abcz")]
    one = read(wordpieces([*single, *first, *(f"##{part}" for part in continuing)], ["<x>"]))
    two = read(wordpieces([*single[::-1], *second, *(f"##{part}" for part in more)], ["<y>", "<x>"]), "two")
    library, made = check([one, two])
    for part in (one, two):
        for piece in set(part.words) - set(part.added):
            inside = piece.startswith("##")
            tokens = library.encode(f"z{piece[2:]}" if inside else piece).tokens
            assert tokens == (["z", piece] if inside else [piece])
    encoded = library.encode(text)
    assert library.decode(encoded.ids) == " ".join(text.split())
    assert all(made.tokens[token] == number for token, number in zip(encoded.tokens, encoded.ids, strict=True))


# -------------------------------------------------------------- what cannot be united


def test_what_cannot_be_united_is_refused_in_one_line() -> None:
    byte_level = letters([("a", "b")], pre_tokenizer={"type": "ByteLevel"})
    byte_level["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    cases = [
        (read(letters([("a", "b")])), read(byte_level, "two"), "one spells tokens metaspace and the other byte-level"),
        (read(letters([("a", "b")])), read(pieces({"x": -1.0}), "two"), "one cuts texts by BPE and the other by Unigram"),
        (
            read(letters([])),
            read(letters([("a", "b")], continuing_subword_prefix="##"), "two"),
            "their continuing_subword_prefix differs",
        ),
    ]
    for one, two, message in cases:
        with pytest.raises(UserError) as error:
            unite([one, two])
        assert message in str(error.value) and "\n" not in str(error.value)
        assert "the tokenizers of one and two cannot be united" in str(error.value) and "'source: base'" in str(error.value)


def test_other_rules_are_told() -> None:
    two = words(["emu"]) | {"normalizer": {"type": "Lowercase"}}
    (remark,) = unite([read(words(["cat"])), read(two, "two")]).remarks
    assert "two's tokenizer has another normalizer than one's, which the union has" in remark


# -------------------------------------------------------------- real ones


@cache
def real(name: str) -> Tokenizer:
    place = {"experts": EXPERTS, "shared": SHARED}[name.split("/")[0]] / name.split("/", 1)[1]
    if not place.is_dir():
        pytest.skip(f"{place} is not here")
    found = read_tokenizer(place, place.name)
    assert found is not None
    return found


PAIRS = [
    ("shared/models/stories260K", "shared/models/babyllama-tok105"),
    ("shared/models/babyllama-tok105", "shared/models/stories260K"),
    ("experts/general", "experts/math-chars"),
    ("experts/math-chars", "experts/general"),
]


@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_real_pairs(pair: tuple[str, str]) -> None:
    parts = [real(name) for name in pair]
    library, made = check(parts)
    for part in parts:
        own = loaded(part.data)
        for token, number in part.tokens.items():
            text = own.decode([number], skip_special_tokens=False)
            if text and own.encode(text, add_special_tokens=False).ids == [number]:
                assert library.encode(text, add_special_tokens=False).ids == [made.tokens[token]], token


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=40), pair=st.sampled_from(PAIRS))
def test_any_text_comes_back_as_from_a_parent(text: str, pair: tuple[str, str]) -> None:
    """What one of the parents gives back whole, the union does."""
    parts = [real(name) for name in pair]
    united = _library(pair)
    ways = [loaded_once(name) for name in pair]
    back = [one.decode(one.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) for one in (united, *ways)]
    assert parts[0].spelling == parts[1].spelling
    if text in back[1:]:
        assert back[0] == text


@cache
def loaded_once(name: str) -> Any:
    return loaded(real(name).data)


@cache
def _library(pair: tuple[str, str]) -> Any:
    return loaded(unite([real(name) for name in pair]).tokenizer.data)


def test_qwen_with_more_tokens() -> None:
    """A large vocabulary and fine-tunes that add to it: ids stay, additions follow, texts are cut as before."""
    base = real("shared/tokenizers/qwen2.5")
    more = [dict(part) for part in base.data["added_tokens"]]
    size = base.size
    tuned = make_tokenizer(
        {**base.data, "added_tokens": [*more, entry("<think>", size), entry("</think>", size + 1)]}, base.config, "tuned"
    )
    other = make_tokenizer(
        {**base.data, "added_tokens": [*more, entry("<tool>", size), entry("<think>", size + 1)]}, base.config, "other"
    )
    united = unite([base, tuned, other])
    made = united.tokenizer
    assert united.remarks == () and not united.remodelled
    assert [made.tokens[text] for text in ("<think>", "</think>", "<tool>")] == [size, size + 1, size + 2]
    assert made.words == base.words and made.merges == base.merges
    assert made.config["added_tokens_decoder"][str(size + 2)]["content"] == "<tool>"


@pytest.mark.full
def test_two_large_tables() -> None:
    """GPT-2's and Qwen's under one pre-tokenizer: all of the first's tokens are still cut, and nearly all of the second's."""
    one, qwen = real("shared/tokenizers/gpt2-hf"), real("shared/tokenizers/qwen2.5")
    rules = {key: one.data[key] for key in ("normalizer", "pre_tokenizer", "decoder")}
    two = make_tokenizer({**qwen.data, **rules}, qwen.config, "two")
    united = unite([one, two])
    library = loaded(united.tokenizer.data)
    kept, lost = {one.label: 0, two.label: 0}, {one.label: 0, two.label: 0}
    for part in (one, two):
        alone = loaded(part.data)
        for token, number in part.words.items():
            text = alone.decode([number])
            if "\N{REPLACEMENT CHARACTER}" not in text and alone.encode(text).tokens == [token]:
                (kept if library.encode(text).tokens == [token] else lost)[part.label] += 1
    assert lost[one.label] == 0 and kept[one.label] > 45_000
    assert 0 < lost["two"] <= 1210 and kept["two"] > 100_000
    assert "; 1210 of the 109387 tokens only two has are no longer cut from any text" in " ".join(united.remarks)
    # With its own pre-tokenizer more are, which no count of merges can know.
    assert "; at least 1210 of the 109387" in " ".join(unite([one, qwen]).remarks)
