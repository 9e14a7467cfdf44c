"""Tokenizers compared: the same, padded, extended, different.  Knows nothing of merging or mixing."""

from modist.vocabulary.common import CommonVocabulary
from modist.vocabulary.tokens import token_map, tokens_of

__all__ = ["CommonVocabulary", "token_map", "tokens_of"]
