"""The result's vocabulary: its tokenizer, the rows it needs, and every tensor with a row for each token aligned to it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
        digest: SHA-256 of the result's tokenizer.json.
        special: file (config or generation config) -> `..._token_id` -> id, where they are not the donor's.
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
    digest: str = ""
    special: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    _alignments: dict[Any, Alignment] = field(default_factory=dict, repr=False)

    @property
    def rows(self) -> int:
        """Rows of the embeddings."""
        return self._whole.rows

    @property
    def _whole(self) -> Alignment:
        """As if every parent took part, with the rows of their embeddings."""
        return self.alignment(range(len(self.parents)), [holder.rows for holder in self.holders])

    def covers(self, name: str, source: TensorSource, member: int) -> bool:
        """Whether a tensor has a row for each token, given one parent's copy."""
        has_rows = source.present and source.dtype in FLOATS and source.size > 0
        return has_rows and is_by_token(name) and rows_of(source) == self.holders[member].rows

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

    def aligned(
        self, sources: Sequence[TensorSource], members: Sequence[int], everywhere: Sequence[TensorSource]
    ) -> list[TensorSource]:
        """A tensor's sources with the output's rows.

        Args:
            sources: of the tensor.
            members: which of `parents` each is of.
            everywhere: the tensor of each of `parents`, so that rows can be had from those that do not take part.
        """
        rows = [rows_of(source) if source.present else 0 for source in everywhere]
        taking_part = sorted({member for member, source in zip(members, sources, strict=True) if source.present})
        alignment = self.alignment(taking_part, rows)
        return [
            AlignedRows(member, everywhere, alignment) if source.present else source
            for member, source in zip(members, sources, strict=True)
        ]

    @property
    def summary(self) -> str:
        """One line: how many rows, and how many of them each parent takes from others."""
        if self.option is None:
            return f"the same tokens, and padding: the result has {self.rows} rows"
        names = [parent.label for parent in self.parents]
        filled = [f"{name} takes {count} from others" for name, count in zip(names, self._whole.filled, strict=True) if count]
        source = f"by {self.option.source}" if self.option.source in ("base", "union") else f"to {self.option.source}"
        return f"aligned {source}: {self.rows} rows" + (f", of which {', '.join(filled)}" if filled else "")

    @property
    def record(self) -> dict[str, Any]:
        """For the manifest, and for telling one merge from another."""
        whole = self._whole
        made = self.tokenizer
        told: dict[str, Any] = {"rows": whole.rows, "alignment": whole.digest}
        if made is not None and self.option is not None:
            told |= {"source": str(self.option.source), "tokens": len(made.tokens), "tokenizer": self.digest}
        names = [parent.label for parent in self.parents]
        return told | {"filled": dict(zip(names, whole.filled, strict=True))}


def is_by_token(name: str) -> bool:
    """Whether a tensor has a row for each token: embeddings, heads and their biases."""
    return bool(_BY_TOKEN.search(name)) and not _LAYER.search(name)
