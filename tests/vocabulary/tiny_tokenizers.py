"""Small tokenizers as the data they are: tokenizer.json for words, for merged letters, for scored pieces."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modist.vocabulary.tokenizer import Tokenizer, make_tokenizer

SHARED = Path(__file__).parents[3] / "shared"
CONFIG = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
SPECIAL = ("<unk>", "<s>", "</s>")


def entry(content: str, number: int, *, special: bool = True, **flags: bool) -> dict[str, Any]:
    """One added token as tokenizer.json has it."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": not special}
    return {"id": number, "content": content, "special": special, **plain, **flags}


def whole(model: Mapping[str, Any], added: Sequence[Mapping[str, Any]] = (), **parts: Any) -> dict[str, Any]:
    empty = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    return {"version": "1.0", **empty, "added_tokens": list(added), **parts, "model": dict(model)}


def words(listed: Iterable[str], added: Iterable[str] = (), *, special: bool = True) -> dict[str, Any]:
    """A WordLevel tokenizer: SPECIAL, the words, and further added tokens, numbered as they come."""
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys([*SPECIAL, *listed]))}
    entries = [entry(text, vocabulary[text]) for text in SPECIAL]
    for text in added:
        entries.append(entry(text, vocabulary.get(text, len(vocabulary) + len(entries) - len(SPECIAL)), special=special))
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"}
    return whole(model, entries, pre_tokenizer={"type": "WhitespaceSplit"})


def letters(
    merges: Sequence[tuple[str, str]], added: Iterable[str] = (), alphabet: str = "abcdef", **model: Any
) -> dict[str, Any]:
    """A BPE tokenizer over a few letters and the space, whose ids follow its merges."""
    vocabulary = {letter: number for number, letter in enumerate([*alphabet, "▁"])}
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    entries = [entry(text, len(vocabulary) + number) for number, text in enumerate(added)]
    made = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": vocabulary,
            "merges": [list(pair) for pair in merges]} | model  # fmt: skip
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    back = {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "Fuse"}]}
    return whole(made, entries, normalizer=space, decoder=back)


def pieces(scores: Mapping[str, float], added: Iterable[str] = ()) -> dict[str, Any]:
    """A Unigram tokenizer: `<unk>` and scored pieces."""
    listed = [["<unk>", 0.0], *([text, score] for text, score in scores.items())]
    entries = [entry("<unk>", 0), *(entry(text, len(listed) + number) for number, text in enumerate(added))]
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": False}
    return whole({"type": "Unigram", "unk_id": 0, "vocab": listed}, entries, pre_tokenizer=metaspace, decoder=metaspace)


def wordpieces(listed: Iterable[str], added: Iterable[str] = ()) -> dict[str, Any]:
    """A WordPiece tokenizer: `[UNK]` and the pieces, `##` before those that continue a word."""
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(["[UNK]", *listed]))}
    entries = [entry("[UNK]", 0), *(entry(text, len(vocabulary) + number) for number, text in enumerate(added))]
    model = {"type": "WordPiece", "vocab": vocabulary, "unk_token": "[UNK]", "continuing_subword_prefix": "##",
             "max_input_chars_per_word": 100}  # fmt: skip
    decoder = {"type": "WordPiece", "prefix": "##", "cleanup": False}
    return whole(model, entries, pre_tokenizer={"type": "WhitespaceSplit"}, decoder=decoder)


def read(data: Mapping[str, Any], label: str = "one", config: Mapping[str, Any] | None = None) -> Tokenizer:
    return make_tokenizer(data, config or {}, label)


def loaded(data: Mapping[str, Any]) -> Any:
    """The same as the tokenizers library makes it."""
    from tokenizers import Tokenizer as Library

    return Library.from_str(json.dumps(data))


def write_tokenizer(folder: Path, data: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> dict[str, int]:
    """Put a tokenizer into a model's folder; gives its tokens and ids."""
    (folder / "tokenizer.json").write_text(json.dumps(data, ensure_ascii=False))
    (folder / "tokenizer_config.json").write_text(json.dumps(dict(CONFIG if config is None else config)))
    return read(data, folder.name, CONFIG if config is None else config).tokens
