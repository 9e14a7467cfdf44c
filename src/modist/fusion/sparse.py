"""A distribution by its k most probable ids and one number for all the rest."""

from __future__ import annotations

from typing import NamedTuple

import torch

# Positions whose float32 work lies in memory at once: 256 MB at a vocabulary of 151k.
_ELEMENTS = 1 << 26


class SparseLogProbs(NamedTuple):
    """The next token's distribution at n positions; logarithms are natural, and over the full output of the model.

    Attributes:
        ids: the k most probable, the most probable first, int32 [n, k].
        log_probs: of those, float32 [n, k].
        log_tail: log of what all other ids have together, float32 [n]; -inf where nothing is left.
        gold: log p of the token that followed, float32 [n].
    """

    ids: torch.Tensor
    log_probs: torch.Tensor
    log_tail: torch.Tensor
    gold: torch.Tensor


def sparse_log_probs(logits: torch.Tensor, gold: torch.Tensor, k: int) -> SparseLogProbs:
    """The sparse form of a softmax.

    Args:
        logits: [n, vocabulary].
        gold: ids that followed, [n].
        k: ids to keep; all of them where the vocabulary is smaller.

    Raises:
        ValueError: a row's logits are not numbers (its message is the row's number).
    """
    rows = max(1, _ELEMENTS // logits.shape[1])
    parts = [_sparse(logits[at : at + rows], gold[at : at + rows], k, at) for at in range(0, len(logits), rows)]
    return SparseLogProbs(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _sparse(logits: torch.Tensor, gold: torch.Tensor, k: int, first: int) -> SparseLogProbs:
    top = logits.topk(min(k, logits.shape[1]), dim=1)
    highest = top.values[:, :1].float()
    shares = logits.float().sub_(highest).exp_() if logits.dtype != torch.float32 else (logits - highest).exp_()
    whole = shares.sum(1, keepdim=True)
    sound = torch.isfinite(whole[:, 0])
    if not bool(sound.all()):
        raise ValueError(first + int(torch.nonzero(~sound)[0]))
    log_whole = whole.log()
    log_probs = top.values.float() - highest - log_whole
    of_gold = logits.gather(1, gold[:, None]).float() - highest - log_whole
    # Summed, not 1 - sum p: so a tail of 1e-12 keeps its digits.
    rest = shares.scatter_(1, top.indices, 0.0).sum(1)
    log_tail = rest.log() - log_whole[:, 0]
    return SparseLogProbs(top.indices.int(), log_probs, log_tail, of_gold[:, 0])
