"""Greedy decoding of a mixture with as few passes as can be proved enough: always the eager argmax.

Experts are asked in the order of their weights.  After some of them, with weight R left, the best id is settled once

    top1 - top2 > R

of the partial sums a_i p_i (the threshold bound of Fagin, Lotem and Naor 2001; tight without knowledge of the others).
Where it is not settled, the best id so far is a guess: decoding goes on, and the next expert checks all guesses in one
chunk that also reads the last one, so that its word for the following token is at hand too.  A guess that fails is
replaced and everything after it is taken back.  How many guesses are let stand before a check follows from how many
held so far, and from what a failure would cost: n experts never take more than n passes a token, which is what the
eager twin takes.

No published use of this combination for token mixtures is known to the authors; certified partial sums are classical, and
verifying several tokens in one chunk is speculative decoding's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from modist.mixture.state import State

MOST_GUESSES = 8
MEMORY = 0.9
# How far a chunk's probabilities may lie from a single step's, by the precision of the logits.
SLACK = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


@dataclass
class Guess:
    """One position not settled yet.

    Attributes:
        position: in the response.
        said: expert -> its log-probabilities there, [1, outputs].
        partial: sum of a_i p_i over the experts that spoke, [size].
        left: weight of the others.
    """

    position: int
    said: dict[int, torch.Tensor]
    partial: torch.Tensor
    left: float


class Greedy:
    """Decodes one response; `run` yields tokens once they are settled."""

    def __init__(self, state: State, slack: float) -> None:
        assert state.rows == 1
        self.state = state
        self.slack = slack
        self.guesses: list[Guess] = []
        self.held = 0.8

    def run(self, limit: int) -> Iterator[int]:
        """Settled tokens, until a stop id or `limit` tokens."""
        state = self.state
        given = 0
        while True:
            self._extend()
            finished = state.ended[0] or state.length >= limit
            if self.guesses and (finished or len(self.guesses) >= self._patience() or self._no_guess_may_stand()):
                self._verify()
                finished = state.ended[0] or state.length >= limit
            end = self.guesses[0].position if self.guesses else state.length
            while given < end:
                yield state.chosen[0][given]
                given += 1
            if finished and not self.guesses:
                return

    def _no_guess_may_stand(self) -> bool:
        """Whether the next position needs every likelihood, or has another leader, who would read past the guesses unheard."""
        state = self.state
        if state.law.gate.kind != "callable":
            return state.law.gate.renews_at(state.length)
        leader = self._order(state.weigh())[0]
        return any(leader not in guess.said for guess in self.guesses)

    def _order(self, log_a: torch.Tensor) -> list[int]:
        """The experts by their weights [1, experts], the heaviest first."""
        return sorted(range(len(self.state.readers)), key=lambda expert: (-float(log_a[0, expert]), expert))

    def _extend(self) -> None:
        """Append the best id known, as a guess where it is not settled."""
        state, position = self.state, self.state.length
        order = self._order(state.weigh())
        ready = [expert for expert in order if state.readers[expert].knows(position)]
        asked = ready if order[0] in ready else [order[0], *ready]
        guess = Guess(position, {}, torch.zeros(0), 1.0)
        for expert in asked:
            state.ask(expert)
            self._hear(guess, expert, state.readers[expert].distribution())
        token, margin = self._best(guess)
        alone = len(asked) < len(order) and guess.left > 0
        sure = not alone or margin > guess.left + self.slack
        if not sure:
            self.guesses.append(guess)
        state.append([token], [alone and sure])

    def _hear(self, guess: Guess, expert: int, log_probs: torch.Tensor) -> None:
        """Add one expert's word to a position's partial sum."""
        law, log_a = self.state.law, self.state.log_a[guess.position][0]
        guess.said[expert] = log_probs
        term = torch.exp(law.spread(log_probs[0], expert).cpu() + log_a[expert].to(log_probs.dtype))
        guess.partial = term if not len(guess.partial) else guess.partial + term
        silent = [other for other in range(len(self.state.readers)) if other not in guess.said]
        guess.left = float(log_a[silent].exp().sum()) if silent else 0.0

    def _best(self, guess: Guess) -> tuple[int, float]:
        """The best id so far, lowest among equals, and its lead over the next."""
        law = self.state.law
        if guess.left <= 0:
            # Everything is known: the very sum the eager twin takes the argmax of.
            experts = range(len(self.state.readers))
            parts = [law.spread(guess.said[e][0], e) if e in guess.said else guess.partial.log() - torch.inf for e in experts]
            return int(law.mix(parts, self.state.log_a[guess.position][0]).argmax()), torch.inf
        partial = guess.partial if law.blocked is None else guess.partial.masked_fill(law.blocked, -1.0)
        token = int(partial.argmax())
        if len(partial) == 1:
            return token, torch.inf
        top = partial.topk(2).values
        return token, float(top[0] - top[1])

    def _verify(self) -> None:
        """Have further experts check the guesses, in the order of their weights, until none is left."""
        state = self.state
        for expert in self._order(state.log_a[self.guesses[0].position]):
            if not self.guesses:
                return
            if all(expert in guess.said for guess in self.guesses):
                continue
            self._check(expert)
        assert not self.guesses

    def _check(self, expert: int) -> None:
        """One expert reads up to the last guess and says what it thinks of each."""
        state, reader = self.state, self.state.readers[expert]
        end = state.length
        known = {reader.seen: reader.distribution()} if reader.seen >= 0 and reader.knows(reader.seen) else {}
        chunk = reader.follow(state.tokens, state.choices)
        known |= {end - chunk.shape[1] + 1 + index: chunk[:, index] for index in range(chunk.shape[1])}
        standing = []
        for guess in self.guesses:
            if expert not in guess.said:
                self._hear(guess, expert, known[guess.position])
            token, margin = self._best(guess)
            settled = guess.left <= 0 or margin > guess.left + self.slack
            if token == state.chosen[0][guess.position]:
                if settled:
                    self.held = MEMORY * self.held + (1 - MEMORY)
                    state.sure[0][guess.position] = guess.left > 0
                else:
                    standing.append(guess)
            elif settled:
                self.held = MEMORY * self.held
                self._replace(guess, token, known)
                break
            else:
                standing.append(guess)
        self.guesses = standing

    def _replace(self, guess: Guess, token: int, known: dict[int, torch.Tensor]) -> None:
        """Put the right id in a failed guess's place and take back all that followed."""
        state, position = self.state, guess.position
        for expert, reader in enumerate(state.readers):
            if reader.seen > position:
                reader.rollback(position, guess.said[expert])
            else:
                reader.forget(position)
        state.forget(position)
        state.append([token], [guess.left > 0])

    def _patience(self) -> int:
        """How many guesses to let stand: the number with the fewest passes a token, were each to hold with probability `held`.

        k guesses cost k passes and one check.  If all hold, the token after them needs one pass and no check; if the j-th
        fails, j tokens came of it.
        """
        experts = len(self.state.readers)
        spent = sum(reader.passes for reader in self.state.readers)
        # If the first guess fails, all that followed it was in vain: one pass more, and the checks, must fit what n passes a
        # token allow for the tokens settled by then.
        if spent + experts > experts * (self.guesses[0].position + 1):
            return 1
        hold = min(self.held, 0.99)
        best, choice = float("inf"), 1
        for k in range(1, MOST_GUESSES + 1):
            all_hold = hold**k
            tokens = sum(j * hold ** (j - 1) * (1 - hold) for j in range(1, k + 1)) + (k + 1) * all_hold
            passes = (k + 1) * (1 - all_hold) + (k + 2) * all_hold
            if passes / tokens < best:
                best, choice = passes / tokens, k
        return choice
