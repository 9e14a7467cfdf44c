"""Small tokenizers of each family, trained in a moment."""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SHARED = Path(__file__).parents[3] / "shared"

CORPUS = [
    "Once upon a time there was a little girl who had a red ball and a small dog.",
    "the theory of the thing: then there, they think through 1234 and 5678.",
    "def f(x):\n    return x ** 2  # squared\n\n\tfor i in range(10): print(i)\n",
    "naïve café über straße, 你好 世界, привет мир, 🙂🙃 👩‍👩‍👧",
    "    deeply     indented   text\r\nwith other line ends\x00\x07",
]


def byte_level(vocabulary: int = 400, specials: tuple[str, ...] = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")) -> Tokenizer:
    """As GPT-2 and Qwen: bytes in their own alphabet, merged."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(specials),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def metaspace(vocabulary: int = 420) -> Tokenizer:
    """As Llama 2 and Mistral: `▁` for a space, bytes for what no piece covers, `<s>` before every text."""
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=["<unk>", "<s>", "</s>", *pieces], limit_alphabet=60, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    # The byte pieces are special only for the trainer.
    document = tokenizer.to_str()
    import json

    parsed = json.loads(document)
    parsed["added_tokens"] = [entry for entry in parsed["added_tokens"] if entry["content"] not in pieces]
    tokenizer = Tokenizer.from_str(json.dumps(parsed))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def unigram() -> Tokenizer:
    """As T5: Metaspace, pieces with scores."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def wordpiece() -> Tokenizer:
    """As BERT: small letters without accents, `##` inside a word."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=150, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def letters(alphabet: str, specials: tuple[str, ...] = ("<unk>",)) -> Tokenizer:
    """One id a character, nothing else."""
    pieces = {piece: number for number, piece in enumerate([*specials, *dict.fromkeys(alphabet)])}
    tokenizer = Tokenizer(models.BPE(vocab=pieces, merges=[], unk_token=specials[0]))
    tokenizer.add_special_tokens([AddedToken(special, special=True) for special in specials])
    return tokenizer
