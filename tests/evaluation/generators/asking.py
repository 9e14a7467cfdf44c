"""The repository's tiny experts, their questions, and tokenizers made on the spot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from modist.evaluation.generators import Ask

EXPERTS = Path(__file__).parents[3] / "examples" / "experts"
GENERAL, MATH = EXPERTS / "general", EXPERTS / "math"

torch.set_num_threads(1)


def questions(domain: str = "general", count: int = 10) -> list[str]:
    lines = (EXPERTS / "questions" / f"{domain}.jsonl").read_text(encoding="utf-8").splitlines()[:count]
    return [str(json.loads(line)["question"]) for line in lines]


def chat(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


def chats(count: int = 10, domain: str = "general", limit: int = 64, **more: Any) -> list[Ask]:
    return [Ask(f"{domain}-{i}", chat(text), limit, **more) for i, text in enumerate(questions(domain, count))]


def word_tokenizer(template: bool = True, end: bool = False) -> Any:
    """Words w0 ... w9 with `<s>` before every text, and `</s>` after it where `end`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<s>", "</s>", "<unk>", *(f"w{number}" for number in range(10))]
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if end else "<s> $A", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    if template:
        tokenizer.chat_template = (
            "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
            "<s> {{ messages[-1]['content'] }}{% if add_generation_prompt %} w9{% endif %}"
        )
    return tokenizer
