"""Two tiny models of different shapes and tokenizers, chats for them, and a recipe: what the tests of fusion run on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

torch.set_num_threads(1)

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
ANSWERS = [
    "Two and two are four.",
    "The sum is 42, or so they say.",
    "Größe and naïve façade: déjà vu!",
    "return [x ** 2 for x in range(10)]",
    "A bird 🐦 sings.",
    "I do not know.",
    "yes",
    "The answer is 7.",
]


def byte_tokenizer(folder: Path, merges: int, texts: Sequence[str] = ANSWERS, template: str = TEMPLATE) -> int:
    """A byte-level BPE with so many merges; returns its size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        list(texts) * 4,
        trainers.BpeTrainer(
            vocab_size=len(SPECIALS) + 256 + merges, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
        ),
    )
    PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=template
    ).save_pretrained(folder)
    return inner.get_vocab_size()


def tiny_model(folder: Path, seed: int, size: int, *, family: str = "qwen2", hidden: int = 32, layers: int = 2) -> Path:
    """A random model drawn wide, so that distributions are far from flat."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    kinds: dict[str, Any] = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}
    config, model = kinds[family]
    torch.manual_seed(seed)
    model(
        config(
            vocab_size=size,
            hidden_size=hidden,
            intermediate_size=48,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            initializer_range=0.3,
            tie_word_embeddings=family == "qwen2",
            bos_token_id=0,
            eos_token_id=2,
            pad_token_id=0,
        )
    ).save_pretrained(folder)
    return folder


def make_rooms(root: Path, chats: int = 24) -> Path:
    """`pivot` and `expert` (other sizes, other tokenizers), `chats.jsonl`, and `recipe.yml`; returns the recipe."""
    tiny_model(root / "pivot", 1, byte_tokenizer(root / "pivot", 60))
    tiny_model(root / "expert", 2, byte_tokenizer(root / "expert", 15), family="llama", hidden=48, layers=1)
    write_chats(root / "chats.jsonl", chats)
    return write_recipe(root)


def write_chats(path: Path, count: int) -> Path:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Question {number}?"},
                {"role": "assistant", "content": f"{ANSWERS[number % len(ANSWERS)]} ({number})"},
            ]
        }
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_recipe(root: Path, name: str = "recipe.yml", **parts: Any) -> Path:
    """A recipe; `fusion` and `training` change single settings."""
    training = {"learning_rate": 1e-3, "epochs": 2, "global_batch": 8, "batch_size": 4, "log_every": 1, "max_length": 256}
    recipe = {
        "pivot": str(root / "pivot"),
        "experts": [{"source_model": str(root / "expert")}],
        "data": str(root / "chats.jsonl"),
        **parts,
        "fusion": {"dtype": "float32", **parts.get("fusion", {})},
        "training": {**training, **parts.get("training", {})},
    }
    path = root / name
    path.write_text(json.dumps(recipe, indent=1), encoding="utf-8")
    return path
