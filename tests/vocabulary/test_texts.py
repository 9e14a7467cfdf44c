"""What ids stand for, in each family."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import pre_tokenizers

from modist.errors import CheckpointError, UserError
from modist.vocabulary import TokenTexts
from modist.vocabulary.conventions import byte_alphabet
from modist.vocabulary.roles import is_reserved, roles_of
from modist.vocabulary.texts import SPECIAL, TEXT, UNUSED
from tests.vocabulary.small_tokenizers import CORPUS, SHARED, byte_level, letters, metaspace, unigram, wordpiece

MAKERS = [byte_level, metaspace, unigram]


def test_the_alphabet_of_bytes_is_gpt2s() -> None:
    alphabet = byte_alphabet()
    assert sorted(alphabet.values()) == list(range(256))
    assert set(alphabet) == set(pre_tokenizers.ByteLevel.alphabet())
    assert [alphabet[c] for c in "AĠĊĉ"] == [65, 32, 10, 9]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("text", CORPUS[:4])
def test_texts_of_tokens_join_to_the_text(make: object, text: str) -> None:
    tokenizer = make()  # type: ignore[operator]
    texts = TokenTexts.of(tokenizer)
    joined = b"".join(texts.texts[number] for number in tokenizer.encode(text, add_special_tokens=False).ids)
    assert joined.removeprefix(b" ").decode() == text


def test_each_family_is_known_for_what_it_is() -> None:
    assert [TokenTexts.of(make()).family for make in (byte_level, metaspace, unigram, wordpiece)] == [
        "byte-level",
        "metaspace",
        "metaspace",
        "wordpiece",
    ]
    assert TokenTexts.of(letters("abc")).family == "plain"


def test_byte_fallback_pieces_are_bytes() -> None:
    texts = TokenTexts.of(metaspace())
    number = texts.spellings.index("<0x0A>")
    assert texts.texts[number] == b"\n" and texts.fallback[number] and int(texts.fallback.sum()) == 256
    # Without byte fallback the same spelling is six letters.
    document = json.loads(letters("a").to_str())
    document["model"]["vocab"]["<0x0A>"] = 2
    plain = TokenTexts.of(_Written(document))
    assert plain.texts[2] == b"<0x0A>" and not plain.fallback.any()


class _Written:
    """A tokenizer as far as reading it goes."""

    def __init__(self, document: object) -> None:
        self._text = json.dumps(document)

    def to_str(self) -> str:
        return self._text


def test_a_piece_goes_before_a_byte_for_the_same_text() -> None:
    texts = TokenTexts.of(metaspace())
    assert texts.spellings[texts.by_text[b"a"]] == "a"
    assert texts.spellings[texts.by_text[b"\x01"]] == "<0x01>"


def test_specials_have_no_text_and_a_role() -> None:
    texts = TokenTexts.of(metaspace())
    assert dict(texts.roles) == {"unk": (0,), "bos": (1,), "eos": (2,)}
    assert [texts.texts[number] for number in range(3)] == [b""] * 3
    assert texts.kind[:4].tolist() == [SPECIAL] * 3 + [TEXT]


def test_configuration_decides_before_names(tmp_path: Path) -> None:
    byte_level().save(str(tmp_path / "tokenizer.json"))
    assert TokenTexts.of(tmp_path).roles["eos"] == (0,)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "<|im_end|>"}, "pad_token": "<|endoftext|>"}')
    texts = TokenTexts.of(str(tmp_path))
    assert texts.roles["eos"] == (2, 0) and texts.roles["pad"] == (0,) and texts.roles["turn_end"] == (2,)
    assert texts.name == tmp_path.name


def test_the_first_token_of_the_template_is_the_bos() -> None:
    assert roles_of({"[GO]": 7, "</s>": 2}, {}, ["[GO]"]) == {"eos": (2,), "bos": (7,)}
    assert roles_of({"[GO]": 7, "<s>": 1}, {}, ["[GO]"])["bos"] == (1,)


@pytest.mark.parametrize(
    ("name", "reserved"),
    [
        ("[control_12]", True),
        ("<unused0>", True),
        ("<|reserved_special_token_3|>", True),
        ("<|extra_0|>", True),
        ("<|im_start|>", False),
        ("<pad>", False),
        ("[PAD]", False),
        ("unused", False),
    ],
)
def test_reserved_names(name: str, reserved: bool) -> None:
    assert is_reserved(name) is reserved


def test_holes_stand_for_nothing() -> None:
    document = json.loads(letters("ab").to_str())
    document["model"]["vocab"]["c"] = 9
    texts = TokenTexts.of(_Written(document))
    assert texts.size == 10 and texts.kind.tolist() == [SPECIAL, TEXT, TEXT, *[UNUSED] * 6, TEXT]
    assert texts.show(5) == "(no token 5)" and texts.show(9) == "c"


def test_the_digest_tells_tokenizers_apart() -> None:
    one, two = TokenTexts.of(byte_level(400)), TokenTexts.of(byte_level(399))
    assert one.digest == TokenTexts.of(byte_level(400)).digest != two.digest
    assert TokenTexts.of(letters("abcd")).digest != TokenTexts.of(letters("abdc")).digest


def test_what_cannot_be_read_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no tokenizer\.json here$"):
        TokenTexts.of(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"")
    with pytest.raises(UserError, match=r"tokenizer\.model, which AutoTokenizer"):
        TokenTexts.of(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": {"vocab": {"a": "x"}}}')
    with pytest.raises(CheckpointError, match=rf"{tmp_path.name}: its tokenizer\.json cannot be understood"):
        TokenTexts.of(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": {"vocab": {}}}')
    with pytest.raises(CheckpointError, match="no tokens"):
        TokenTexts.of(tmp_path)
    with pytest.raises(UserError, match="no fast tokenizer"):
        TokenTexts.of({"a": 0})


def test_a_transformers_tokenizer_tells_its_roles() -> None:
    transformers = pytest.importorskip("transformers")
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=byte_level(), eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    texts = TokenTexts.of(fast, "ours")
    assert texts.name == "ours" and texts.roles["eos"][0] == 2 and texts.roles["pad"] == (0,)
    assert texts.texts == TokenTexts.of(byte_level()).texts


@pytest.mark.skipif(not (SHARED / "tokenizers").is_dir(), reason="the shared tokenizers are not here")
def test_real_tokenizers_join_to_the_text() -> None:
    from tokenizers import Tokenizer

    text = " ".join(CORPUS[:4])
    for name, size in (("gpt2-hf", 50_257), ("mistral-v3", 32_768), ("qwen2.5", 151_665)):
        texts = TokenTexts.of(SHARED / "tokenizers" / name)
        tokenizer = Tokenizer.from_file(str(SHARED / "tokenizers" / name / "tokenizer.json"))
        joined = b"".join(texts.texts[number] for number in tokenizer.encode(text, add_special_tokens=False).ids)
        assert texts.size == size and joined.removeprefix(b" ").decode() == text
