"""One expert reading along: its prompt, then the response in chunks as large as its lag.

A reader never decides anything.  It can say the distribution after any prefix of the response it is given, it keeps what it
said of the tokens chosen, and it can take tokens back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from modist.errors import ModistError, UserError
from modist.mixture.load import context_of, output_rows


class ExpertError(ModistError):
    """An expert failed while it ran (exit status 1)."""


class Core(Protocol):
    """What runs: a model behind a cache, or a fake with fixed logits."""

    outputs: int
    context: int | None

    def start(self, prompts: Sequence[Sequence[int]]) -> None:
        """Take the prompts, forgetting everything."""

    def read(self, tokens: torch.Tensor, keep: int) -> torch.Tensor:
        """Read tokens [batch, n], and first the prompts if unread: logits [batch, keep, outputs] of the last positions."""

    def rollback(self, count: int) -> None:
        """Forget the last `count` tokens read."""


class Reader:
    """One expert following one response of a batch.

    Attributes:
        core: what runs.
        seen: response tokens read; -1 before the prompt is.
        passes: forwards so far.
        chunks: tokens of the response in each of them.
        scores: log p_i(x_t), one tensor [batch] for each position known so far.
        masses: log of what it gives to the ids that may be chosen, likewise; empty where all may be.
    """

    def __init__(
        self,
        core: Core,
        name: str,
        prompts: Sequence[Sequence[int]],
        scoring: bool = True,
        score_prompt: bool = False,
        readable: torch.Tensor | None = None,
        blocked: torch.Tensor | None = None,
    ) -> None:
        """A reader before its prompts.

        Args:
            scoring: say and keep what it thinks of tokens it reads late; without, a chunk gives its last distribution alone,
                and the output layer is spared all others.
            score_prompt: keep what the expert says of the prompt's own tokens, in `prompt_scores` [batch, n].
            readable: bool [size]: ids it has under the mixture's meaning; p_i is 0 elsewhere.
            blocked: bool [size]: ids that may not be chosen.
        """
        self.core = core
        self.name = name
        self.passes = 0
        self.chunks: list[int] = []
        self.seen = -1
        self.scores: list[torch.Tensor] = []
        self.masses: list[torch.Tensor] = []
        self._scoring = scoring
        self._readable = readable
        # Of its own ids, those that no mass may be counted for.
        self._out = None if blocked is None or readable is None else (blocked | ~readable)[: core.outputs]
        longest = max(map(len, prompts))
        if core.context is not None and longest >= core.context:
            raise UserError(f"{name}: the prompt has {longest} tokens, its context holds {core.context}")
        if not min(map(len, prompts)):
            raise UserError(f"{name}: an empty prompt; give at least one token")
        core.start(prompts)
        self._prompts = prompts if score_prompt else None
        self.prompt_scores: torch.Tensor | None = None
        self._last: torch.Tensor | None = None  # log-probabilities [batch, outputs] after `seen` tokens

    def knows(self, position: int) -> bool:
        """Whether the distribution at a position is at hand without a pass."""
        return self.seen == position and self._last is not None

    def follow(self, tokens: torch.Tensor, choices: torch.Tensor) -> torch.Tensor:
        """Read up to the end of a response.

        Args:
            tokens: what to read, [batch, n]: ids this expert can read.
            choices: what was chosen, [batch, n]; differs from `tokens` only where an id ended a response.

        Returns:
            Log-probabilities [batch, m, outputs] at the positions not known before, n last; m is 1 where nothing was lagging,
            or nothing is scored.
        """
        end = tokens.shape[1]
        if self.knows(end):
            assert self._last is not None
            return self._last[:, None]
        first = max(self.seen, 0)
        keep = end - first + (self.seen < 0) if self._scoring else 1
        before = max(map(len, self._prompts)) - 1 if self._prompts and self.seen < 0 else 0
        try:
            logits = self.core.read(tokens[:, first:], keep + before)
        except ModistError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ExpertError(f"{self.name}: failed while it read {end - first} tokens: {reason}") from error
        log_probs = torch.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), -1)
        if before:
            self.prompt_scores = self._score_prompts(log_probs[:, :before])
            log_probs = log_probs[:, before:]
        if bool(log_probs[..., 0].isnan().any()):  # one NaN or infinite logit makes the whole distribution NaN
            raise ExpertError(f"{self.name}: its logits are not finite")
        self.passes += 1
        self.chunks.append(end - first)
        start = end - log_probs.shape[1] + 1
        for position in range(len(self.scores), end if self._scoring else 0):
            said = self._last if position < start else log_probs[:, position - start]
            assert said is not None
            self._score(said, choices[:, position])
        self.seen = end
        self._last = log_probs[:, -1]
        return log_probs

    def _score_prompts(self, log_probs: torch.Tensor) -> torch.Tensor:
        """log p of the prompts' tokens but the first, aligned at their ends; 0 where a shorter prompt has none."""
        assert self._prompts is not None
        scores = torch.zeros(log_probs.shape[:2], dtype=torch.float64)
        for row, prompt in enumerate(self._prompts):
            for back in range(1, len(prompt)):
                scores[row, -back] = pick(log_probs[row : row + 1, -back], torch.tensor([prompt[-back]]))[0]
        return scores

    def note(self, choices: torch.Tensor) -> None:
        """Score the newest token, [batch], where its distribution is at hand."""
        if self._scoring and self._last is not None and len(self.scores) == self.seen:
            self._score(self._last, choices)

    def _score(self, log_probs: torch.Tensor, choices: torch.Tensor) -> None:
        """Keep what log-probabilities [batch, outputs] say of the tokens chosen after them, [batch]."""
        score = pick(log_probs, choices)
        if self._readable is not None:
            score = torch.where(self._readable[choices], score, -torch.inf)
        self.scores.append(score)
        if self._out is not None:
            allowed = log_probs.masked_fill(self._out.to(log_probs.device), -torch.inf)
            self.masses.append(torch.logsumexp(allowed.double(), -1).cpu())

    def distribution(self) -> torch.Tensor:
        """Log-probabilities [batch, outputs] after all tokens read."""
        assert self._last is not None
        return self._last

    def rollback(self, length: int, distribution: torch.Tensor | None) -> None:
        """Forget everything after the first `length` tokens of the response.

        Args:
            distribution: what this expert said at that position, [batch, outputs]; needed where it had read beyond.
        """
        self.forget(length)
        if self.seen > length:
            assert distribution is not None
            self.core.rollback(self.seen - length)
            self.seen = length
            self._last = distribution

    def forget(self, length: int) -> None:
        """Drop what it said of tokens after the first `length`."""
        del self.scores[length:], self.masses[length:]


def pick(log_probs: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """log p of one id a row, float64 [batch]; -inf for ids beyond the output."""
    inside = ids < log_probs.shape[-1]
    safe = torch.where(inside, ids, 0).to(log_probs.device)
    found = log_probs.gather(-1, safe[:, None])[:, 0].double().cpu()
    return torch.where(inside.cpu(), found, -torch.inf)


class ModelCore:
    """A transformers model behind a cache that can be cropped; prompts of different lengths are padded on the left."""

    def __init__(self, model: Any, pad: int = 0) -> None:
        self.model = model
        self.outputs = output_rows(model)
        self.context = context_of(model)
        self._pad = pad

    def start(self, prompts: Sequence[Sequence[int]]) -> None:
        from transformers import DynamicCache

        width = max(map(len, prompts))
        device = self.model.device
        self._prompt = torch.tensor([[self._pad] * (width - len(row)) + list(row) for row in prompts], device=device)
        self._mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts], device=device)
        self._even = bool(self._mask.all())
        # Without a config every layer keeps all it has seen, so that tokens can be taken back under sliding windows too.
        self._cache = DynamicCache()
        self._unread = True

    def read(self, tokens: torch.Tensor, keep: int) -> torch.Tensor:
        with torch.inference_mode():
            return self._read(tokens, keep)

    def _read(self, tokens: torch.Tensor, keep: int) -> torch.Tensor:
        tokens = tokens.to(self.model.device)
        self._mask = torch.cat([self._mask, self._mask.new_ones(tokens.shape)], 1)
        if self._unread:
            tokens = torch.cat([self._prompt, tokens], 1)
            self._unread = False
        # Rows that have ended may run past the context while others go on; what is said of them goes nowhere.
        positions = (self._mask.cumsum(1) - 1).clamp(0, self.context and self.context - 1)[:, -tokens.shape[1] :]
        output = self.model(
            input_ids=tokens,
            attention_mask=None if self._even else self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        logits: torch.Tensor = output.logits
        return logits

    def rollback(self, count: int) -> None:
        self._cache.crop(-count)
        self._mask = self._mask[:, :-count]
