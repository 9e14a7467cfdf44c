"""A response in the making, and what all experts have said of it: shared by the lazy decoder and its eager twin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from modist.mixture.gate import Gate
from modist.mixture.reader import Reader
from modist.mixture.weights import log_weights


@dataclass(frozen=True)
class Law:
    """What is decoded: weights, gate, vocabulary.

    Attributes:
        weights: one for each expert, summing to 1.
        gate: how they follow the response.
        size: ids of the mixture.
        blocked: bool [size]: ids that may not be chosen: some expert cannot read them and they end nothing.
        readable: bool [experts, size]: ids an expert has, under the same string; p_i = 0 elsewhere.
        stops: ids that end a response.
        filler: an id every expert can read, fed to rows that have ended.
        geometric: p ~ prod_i p_i^a_i instead of sum_i a_i p_i (a product of experts, over ids that all have).
    """

    weights: tuple[float, ...]
    size: int
    gate: Gate = field(default_factory=Gate)
    blocked: torch.Tensor | None = None
    readable: torch.Tensor | None = None
    stops: frozenset[int] = frozenset()
    filler: int = 0
    geometric: bool = False

    def spread(self, log_probs: torch.Tensor, expert: int) -> torch.Tensor:
        """An expert's log-probabilities [..., outputs] over the mixture's ids [..., size]: -inf where it has none."""
        outputs = log_probs.shape[-1]
        if outputs < self.size:
            missing = log_probs.new_full((*log_probs.shape[:-1], self.size - outputs), -torch.inf)
            log_probs = torch.cat([log_probs, missing], -1)
        if self.readable is not None and not bool(self.readable[expert, :outputs].all()):
            log_probs = log_probs.masked_fill(~self.readable[expert].to(log_probs.device), -torch.inf)
        return log_probs

    def mix(self, parts: Sequence[torch.Tensor], log_a: torch.Tensor) -> torch.Tensor:
        """log sum_i a_i p_i, [size], of spread log-probabilities [size] each; blocked ids dropped, the rest normalised."""
        dtype = parts[0].dtype
        if self.geometric:
            weighted = [
                log_a[index].exp().to(dtype) * part.cpu() for index, part in enumerate(parts) if log_a[index] > -torch.inf
            ]
            return self.unblocked(torch.log_softmax(torch.stack(weighted).sum(0), -1))
        stacked = torch.stack([part.cpu() + log_a[index].to(dtype) for index, part in enumerate(parts)])
        return self.unblocked(torch.logsumexp(stacked, 0))

    def unblocked(self, log_probs: torch.Tensor) -> torch.Tensor:
        if self.blocked is None:
            return log_probs
        return torch.log_softmax(log_probs.masked_fill(self.blocked.to(log_probs.device), -torch.inf), -1)

    def conditional(self, log_probs: torch.Tensor) -> tuple[torch.Tensor, float]:
        """A spread distribution [size] given that the id may be chosen, and log of its mass on such ids."""
        if self.blocked is None:
            return log_probs, 0.0
        allowed = log_probs.masked_fill(self.blocked.to(log_probs.device), -torch.inf)
        mass = float(torch.logsumexp(allowed, 0))
        return (allowed - mass if mass > -torch.inf else allowed), mass

    def takes(self, token: int, expert: int) -> bool:
        """Whether an id drawn from an expert's full output may be chosen and means the same to it."""
        if self.blocked is not None and bool(self.blocked[token]):
            return False
        return self.readable is None or bool(self.readable[expert, token])


@dataclass
class State:
    """Everything known of a batch of responses.

    Attributes:
        law: what is decoded.
        readers: one for each expert.
        chosen: the tokens, one list a row.
        ended: rows that have met a stop id.
        log_a: for each position, log weights [batch, experts], as they were when its tokens were drawn.
        sure: for each row, whether each token was decided without asking every expert.
        log_p: under the geometric law, for each position log p of its tokens, one a row.
    """

    law: Law
    readers: Sequence[Reader]
    rows: int
    chosen: list[list[int]] = field(default_factory=list)
    fed: list[list[int]] = field(default_factory=list)
    ended: list[bool] = field(default_factory=list)
    log_a: list[torch.Tensor] = field(default_factory=list)
    sure: list[list[bool]] = field(default_factory=list)
    log_p: list[list[float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sure = [[] for _ in range(self.rows)]
        self.chosen = [[] for _ in range(self.rows)]
        self.fed = [[] for _ in range(self.rows)]
        self.ended = [False] * self.rows

    @property
    def length(self) -> int:
        return len(self.fed[0])

    @property
    def tokens(self) -> torch.Tensor:
        """What experts read: ids all of them can, [batch, length]."""
        return torch.tensor(self.fed, dtype=torch.long).reshape(self.rows, self.length)

    @property
    def choices(self) -> torch.Tensor:
        """What was chosen, [batch, length]; rows that have ended go on with the filler."""
        padded = [row + feed[len(row) :] for row, feed in zip(self.chosen, self.fed, strict=True)]
        return torch.tensor(padded, dtype=torch.long).reshape(self.rows, self.length)

    def ask(self, expert: int) -> torch.Tensor:
        """An expert's log-probabilities at the current position, spread over the mixture's ids, [batch, size]."""
        reader = self.readers[expert]
        if not reader.knows(self.length):
            reader.follow(self.tokens, self.choices)
        return self.law.spread(reader.distribution(), expert)

    def weigh(self) -> torch.Tensor:
        """log weights [batch, experts] of the current position; a renewing gate has every expert catch up first."""
        if len(self.log_a) > self.length:
            return self.log_a[self.length]
        position, gate = self.length, self.law.gate
        base = log_weights(self.law.weights)
        if gate.renews_at(position):
            for expert in range(len(self.readers)):
                self.ask(expert)
            weights = torch.stack([gate.bayes(base, self._past(row, position)) for row in range(self.rows)])
        elif gate.kind == "callable":
            weights = torch.stack([gate.called(row, len(self.readers)) for row in self.chosen])
        else:
            weights = self.log_a[-1] if self.log_a else base.expand(self.rows, -1)
        self.log_a.append(weights)
        return weights

    def _past(self, row: int, position: int) -> torch.Tensor:
        """log p_i of one row's tokens before a position, [experts, tokens].

        With the prompt counted, experts whose prompts differ in length (templates of their own) are aligned at the end.
        """
        parts = []
        for reader in self.readers:
            own = [score[row] for score in reader.scores[:position]]
            if reader.prompt_scores is not None:
                own = [*reader.prompt_scores[row], *own]
            parts.append(torch.stack(own) if own else torch.zeros(0, dtype=torch.float64))
        longest = max(map(len, parts))
        return torch.stack([torch.cat([part.new_zeros(longest - len(part)), part]) for part in parts])

    def append(self, tokens: Sequence[int], sure: Sequence[bool]) -> None:
        """Add one token to every row, and whether it took fewer than all experts; rows that have ended take the filler."""
        choices = []
        for row, token in enumerate(tokens):
            if self.ended[row]:
                self.fed[row].append(self.law.filler)
                choices.append(self.law.filler)
                continue
            self.chosen[row].append(token)
            self.sure[row].append(sure[row])
            choices.append(token)
            self.ended[row] = token in self.law.stops
            readable = self.law.readable is None or bool(self.law.readable[:, token].all())
            self.fed[row].append(token if readable else self.law.filler)
        for reader in self.readers:
            if reader.seen == self.length - 1:
                reader.note(torch.tensor(choices))

    def forget(self, length: int) -> None:
        """Take back every token after the first `length`; those that stay ended nothing."""
        for row in range(self.rows):
            del self.chosen[row][length:], self.fed[row][length:], self.sure[row][length:]
            self.ended[row] = False
        del self.log_a[length + 1 :]
