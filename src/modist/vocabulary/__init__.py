"""Tokenizers compared (the same, padded, extended, different) and aligned.  Knows nothing of merging, mixing or fusing."""

from modist.vocabulary.alignment_cache import cache_folder
from modist.vocabulary.common import CommonVocabulary
from modist.vocabulary.counts import PairCounts
from modist.vocabulary.id_map import IdMap, align_ids
from modist.vocabulary.positions import PositionMap, align_positions
from modist.vocabulary.spans import encode, token_spans
from modist.vocabulary.texts import TokenTexts
from modist.vocabulary.tokens import token_map, tokens_of

__all__ = [
    "CommonVocabulary",
    "IdMap",
    "PairCounts",
    "PositionMap",
    "TokenTexts",
    "align_ids",
    "align_positions",
    "cache_folder",
    "encode",
    "token_map",
    "token_spans",
    "tokens_of",
]
