"""The result's vocabulary: its tokenizer, the rows it needs, and every tensor with a row for each token aligned to it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from modist.checkpoint.dtype import FLOATS
from modist.checkpoint.folder import Checkpoint
from modist.merge.rows import AlignedRows, rows_of
from modist.merge.source import TensorSource
from modist.recipe.vocabulary import TokenizerOption
from modist.vocabulary.alignment import Alignment, Holder, Wish, align, pad
from modist.vocabulary.tokenizer import Tokenizer

_LAYER = re.compile(r"\.\d+\.")
_BY_TOKEN = re.compile(
    r"(^|\.)(embed_tokens|wte|word_embeddings|embed_in|tok_embeddings|lm_head|embed_out|output|output_layer)\.(weight|bias)$"
    r"|(^|\.)shared\.weight$|(^|\.)final_logits_bias$|(^|\.)predictions\.(bias|decoder\.(weight|bias))$"
)


@dataclass(frozen=True)
class Vocabulary:
    """The vocabulary of a merge whose rows are not simply the parents'.

    Attributes:
        parents: every model of the recipe, those that take part first.
        lead: which of them gives the rows at ids without a token.
        holders: their tokens and rows; of padding alone, the rows and no tokens.
        tokenizer: the result's, or None where the donor's is carried as it is and only padding differs.
        files: small files of the result that take the place of the donor's; None leaves one out.
        option: what the recipe asks for, or None.
        wishes: token -> what it is made from.
        base: which parent is the base, or None.
        special: `..._token_id` -> id in config and generation config, where they are not the donor's.
        warnings: remarks.
    """

    parents: tuple[Checkpoint, ...]
    lead: int | None
    holders: tuple[Holder, ...]
    tokenizer: Tokenizer | None = None
    option: TokenizerOption | None = None
    wishes: Mapping[str, Wish] = field(default_factory=dict)
    base: int | None = None
    files: Mapping[str, bytes | None] = field(default_factory=dict)
    special: Mapping[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    _alignments: dict[Any, Alignment] = field(default_factory=dict, repr=False)

    @property
    def rows(self) -> int:
        """Rows of the embeddings."""
        return self.alignment(range(len(self.parents)), [holder.rows for holder in self.holders]).rows

    @staticmethod
    def covers(name: str, source: TensorSource) -> bool:
        """Whether a tensor has a row for each token, given the lead's copy."""
        return is_by_token(name) and source.present and source.dtype in FLOATS and source.size > 0

    def alignment(self, taking_part: Sequence[int], rows: Sequence[int]) -> Alignment:
        """The rows of a tensor, made once for each set of parents.

        Args:
            taking_part: the parents it is merged from.
            rows: each parent's rows of it.
        """
        key = (tuple(taking_part), tuple(rows))
        if key not in self._alignments:
            self._alignments[key] = self._align(*key)
        return self._alignments[key]

    def _align(self, taking_part: tuple[int, ...], rows: tuple[int, ...]) -> Alignment:
        if self.tokenizer is None:
            assert self.lead is not None
            return pad(rows, self.lead)
        holders = [Holder(holder.tokens, count) for holder, count in zip(self.holders, rows, strict=True)]
        return align(
            self.tokenizer.tokens,
            holders,
            base=self.base if self.base in taking_part else None,
            taking_part=taking_part,
            wishes=self.wishes,
            gaps=self.lead,
            multiple=self.option.multiple if self.option else None,
        )

    def aligned(self, sources: Sequence[TensorSource], everywhere: Sequence[TensorSource]) -> list[TensorSource]:
        """The inputs' copies of one tensor with the output's rows.

        Args:
            sources: of the inputs, in the plan's order.
            everywhere: of `parents`, in order; `sources` begin it.
        """
        rows = [rows_of(source.shape) if source.present else 0 for source in everywhere]
        taking_part = [index for index, source in enumerate(sources) if source.present]
        alignment = self.alignment(taking_part, rows)
        return [
            AlignedRows(index, everywhere, alignment) if source.present else source for index, source in enumerate(sources)
        ]

    @property
    def record(self) -> dict[str, Any]:
        """For the manifest, and for telling one merge from another."""
        whole = self.alignment(range(len(self.parents)), [holder.rows for holder in self.holders])
        made = self.tokenizer
        told: dict[str, Any] = {"rows": whole.rows, "alignment": whole.digest}
        if made is not None and self.option is not None:
            text = json.dumps([made.data, made.config], sort_keys=True, ensure_ascii=False)
            told |= {"source": str(self.option.source), "tokens": len(made.tokens), "tokenizer": sha256(text.encode()).hexdigest()}
        names = [parent.label for parent in self.parents]
        return told | {"filled": dict(zip(names, whole.filled, strict=True))}


def is_by_token(name: str) -> bool:
    """Whether a tensor has a row for each token: embeddings, heads and their biases."""
    return bool(_BY_TOKEN.search(name)) and not _LAYER.search(name)
