"""What special tokens are for: the role, whatever the spelling."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

# Role -> the spellings by which it is known, the likeliest first.
SPELLINGS: dict[str, tuple[str, ...]] = {
    "bos": ("<s>", "<|begin_of_text|>", "<bos>", "<|startoftext|>", "<｜begin▁of▁sentence｜>", "[BOS]", "<|START_OF_TEXT|>"),
    "eos": ("</s>", "<|end_of_text|>", "<eos>", "<|endoftext|>", "<｜end▁of▁sentence｜>", "[EOS]", "<|END_OF_TEXT|>"),
    "pad": ("<pad>", "[PAD]", "<|pad|>", "<|PAD|>", "<|finetune_right_pad_id|>", "<PAD>", "<|fim_pad|>"),
    "unk": ("<unk>", "[UNK]", "<|unk|>", "<UNK>", "<|unknown|>"),
    "turn_start": (
        "<|im_start|>",
        "<start_of_turn>",
        "<|start_header_id|>",
        "<|start_of_role|>",
        "<|START_OF_TURN_TOKEN|>",
        "<|turn_start|>",
        "<|start|>",
    ),
    "turn_end": (
        "<|im_end|>",
        "<end_of_turn>",
        "<|eot_id|>",
        "<|end_of_turn|>",
        "<|end|>",
        "<|END_OF_TURN_TOKEN|>",
        "<|turn_end|>",
        "<|eot|>",
    ),
    "fim_prefix": ("<|fim_prefix|>", "<fim_prefix>", "[PREFIX]", "<｜fim▁begin｜>", "<|code_prefix|>", "▁<PRE>"),
    "fim_middle": ("<|fim_middle|>", "<fim_middle>", "[MIDDLE]", "<｜fim▁end｜>", "<|code_middle|>", "▁<MID>"),
    "fim_suffix": ("<|fim_suffix|>", "<fim_suffix>", "[SUFFIX]", "<｜fim▁hole｜>", "<|code_suffix|>", "▁<SUF>"),
    "tool_call": ("<tool_call>", "[TOOL_CALLS]", "<｜tool▁calls▁begin｜>", "<|python_tag|>"),
}

# What stands in for a role the other tokenizer has no token of: where there are no turn marks, the text's end ends an answer.
STAND_INS: dict[str, str] = {"turn_end": "eos", "eos": "turn_end"}

# A name that only keeps a row free, or marks what a base model never saw.
_RESERVED = re.compile(
    r"<\|?(?:reserved|unused|extra|placeholder|dummy)[^>]*>|\[(?:control|unused|reserved)[^\]]*\]|<(?:SPECIAL|pad)_?\d+>", re.I
)


def is_reserved(spelling: str) -> bool:
    """Whether a token's name says that it stands for nothing (`[control_12]`, `<unused0>`, `<|reserved_special_token_3|>`)."""
    return _RESERVED.fullmatch(spelling) is not None


def roles_of(specials: Mapping[str, int], stated: Mapping[str, Any], first: Iterable[str] = ()) -> dict[str, tuple[int, ...]]:
    """Role -> the ids that have it, the one to use first.

    Args:
        specials: spelling -> id of the tokens that may have a role.
        stated: what the tokenizer's own configuration says (`bos_token`, `eos_token` ...), as strings or as
            `{"content": ...}`; it comes before what names tell.
        first: spellings that the tokenizer puts before every text; the first of them is the bos, where nothing else says so.
    """
    found: dict[str, list[int]] = {}

    def add(role: str, spelling: Any) -> None:
        number = specials.get(spelling) if isinstance(spelling, str) else None
        if number is not None and number not in found.setdefault(role, []):
            found[role].append(number)

    for role in ("bos", "eos", "pad", "unk"):
        token = stated.get(f"{role}_token")
        add(role, token.get("content") if isinstance(token, Mapping) else None if token is None else str(token))
    for role, spellings in SPELLINGS.items():
        for spelling in spellings:
            add(role, spelling)
    if not found.get("bos"):
        for spelling in first:
            add("bos", spelling)
            break
    return {role: tuple(ids) for role, ids in found.items() if ids}
