"""Scoring: the exact log-likelihood of a text under the mixture, and under each expert, by one chunk an expert.

Nothing is lazy here and nothing is drawn: log sum_i a_i(t) p_i(x_t) is a sum over what the experts say of the text's own
tokens.  Texts longer than a context are read in windows that overlap by half, each token scored once, with at least half a
context before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from modist.errors import UserError
from modist.mixture.decode import Message, encode_prompts
from modist.mixture.gate import Gate
from modist.mixture.load import Experts, context_of, output_rows
from modist.mixture.reader import pick
from modist.mixture.weights import log_weights

# Logits held at once: half a gigabyte in float32.
_LOGITS = 1 << 27


@dataclass(frozen=True)
class Score:
    """What a mixture and its experts make of some text; logarithms are natural.

    Attributes:
        tokens: scored ones.
        nats_per_token: of the mixture, positive: the mean of -log p.
        experts: the same for each expert alone.
        responsibilities: each expert's mean share of a token, summing to 1.
    """

    tokens: int
    nats_per_token: float
    experts: tuple[float, ...]
    responsibilities: tuple[float, ...]

    @property
    def perplexity(self) -> float:
        return math.exp(self.nats_per_token) if self.nats_per_token < 700 else math.inf

    @property
    def log_likelihood(self) -> float:
        """log p of all scored tokens."""
        return -self.nats_per_token * self.tokens


def expert_scores(
    experts: Experts, index: int, tokens: Sequence[int], first: int = 1, advance: Callable[[float], object] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """What one expert says of a text's tokens t = first ... n-1: log p_i(x_t), and the log of what it leaves for ids that may
    be chosen at all (0 where all may); both float64 [n - first].

    Args:
        tokens: ids as the mixture has them; an id the expert cannot read scores -inf and ends what it can say.
        first: the first token to score, at least 1; those before it are context.
        advance: told which share of them is scored.
    """
    vocabulary = experts.vocabulary
    readable = vocabulary.readable[index][torch.tensor(tokens)]
    if not bool(readable[:-1].all()):
        wrong = int(torch.nonzero(~readable[:-1])[0])
        raise UserError(f"{experts.names[index]}: cannot read id {tokens[wrong]} in the middle of the text")
    model = experts.models[index]
    context = context_of(model) or len(tokens)
    allowed = None
    if not vocabulary.whole:
        chosen = ~vocabulary.masked(experts.stop_ids) & vocabulary.readable[index]
        allowed = chosen[: vocabulary.outputs[index]]
    found = []
    scored = first
    while scored < len(tokens):
        start = 0 if len(tokens) <= context or scored < context else scored - context // 2
        stop = min(len(tokens), start + context)
        for piece in _window(model, tokens[start:stop], scored - start, allowed):
            found.append(piece)
            scored += piece.shape[1]
            if advance is not None:
                advance((scored - first) / (len(tokens) - first))
    scores, masses = torch.cat(found, 1) if found else torch.zeros(2, 0, dtype=torch.float64)
    return torch.where(readable[first:], scores, -torch.inf), masses


def _window(model: Any, tokens: Sequence[int], first: int, allowed: torch.Tensor | None) -> Iterator[torch.Tensor]:
    """log p of tokens[first:] and the log mass of the `allowed` ids, [2, n], in pieces of which the logits fit in memory."""
    ids = torch.tensor([list(tokens)], device=model.device)
    # The last token is scored and not read; its predecessor's position gives it.
    end = len(tokens) - 1
    size = max(1, _LOGITS // output_rows(model))
    cache: Any = None
    if end - (first - 1) > size:
        from transformers import DynamicCache

        cache = DynamicCache()
    begin, stop = 0, min(end, first - 1 + size)
    while begin < end:
        keep = stop - max(begin, first - 1)
        more = {"past_key_values": cache, "use_cache": True} if cache is not None else {"use_cache": False}
        # Not around the yield: a generator would leave the caller in inference mode.
        with torch.inference_mode():
            logits = model(input_ids=ids[:, begin:stop], logits_to_keep=keep, **more).logits[0]
            logits = logits if logits.dtype == torch.float64 else logits.float()
            log_probs = torch.log_softmax(logits, -1)
            found = pick(log_probs, ids[0, stop - keep + 1 : stop + 1].cpu())
            masses = torch.zeros_like(found)
            if allowed is not None:
                masses = torch.logsumexp(log_probs[:, allowed.to(log_probs.device)], -1).double().cpu()
        yield torch.stack([found, masses])
        begin, stop = stop, min(end, stop + size)


def mixture_scores(
    parts: torch.Tensor,
    weights: Sequence[float],
    gate: Gate | None = None,
    tokens: Sequence[int] = (),
    before: torch.Tensor | None = None,
    masses: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """log p(x_t) and responsibilities from the experts' own scores.

    Args:
        parts: log p_i(x_t), [experts, n].
        weights: a_i.
        gate: how they follow the text; static by default.
        tokens: the n scored ids, for a callable gate.
        before: log p_i of the prompt's tokens, [experts, m], for a gate that counts them.
        masses: log of what each expert leaves for ids that may be chosen, [experts, n]; the mixture is normalised over
            those, as while decoding.

    Returns:
        log p, float64 [n]; r_i = a_i p_i(x) / p(x), float64 [experts, n].
    """
    gate = gate or Gate()
    base = log_weights(weights)
    parts = parts.double()
    count = parts.shape[1]
    if gate.kind == "callable":
        columns = [gate.called(list(tokens[:position]), len(weights)) for position in range(count)]
        log_a = torch.stack(columns, 1) if columns else torch.zeros_like(parts)
    elif gate.kind == "bayes":
        log_a = _bayes(gate, base, parts, before if gate.prompt else None)
    else:
        log_a = base[:, None].expand_as(parts)
    joint = parts + log_a
    total = torch.logsumexp(joint, 0)
    allowed = torch.logsumexp(masses + log_a, 0) if masses is not None else 0.0
    return total - allowed, torch.exp(joint - total)


def _bayes(gate: Gate, base: torch.Tensor, parts: torch.Tensor, before: torch.Tensor | None) -> torch.Tensor:
    """log a_i(t) of the bayes gate, [experts, n]: its discounted sum grows by one token a step, so it is never summed anew."""
    past = torch.zeros_like(base)
    for column in before.double().T if before is not None else ():
        past = column + (gate.discount * past if gate.discount else 0.0)
    columns: list[torch.Tensor] = []
    for position in range(parts.shape[1]):
        if position % gate.stride == 0:
            posterior = base + past
            # As `Gate.bayes` has it: where every expert finds the past impossible, the recipe's weights stand.
            columns.append(base if bool(torch.isneginf(posterior).all()) else torch.log_softmax(posterior, 0))
        else:
            columns.append(columns[-1])
        past = parts[:, position] + (gate.discount * past if gate.discount else 0.0)
    return torch.stack(columns, 1)


def score(
    experts: Experts, row: str | Sequence[Message], gate: Gate | None = None, advance: Callable[[float], object] | None = None
) -> Score:
    """Score one text, or a chat's last message.

    Args:
        experts: from `load_experts`.
        row: a text, as the mixture's tokenizer encodes it, whose first id is context; or messages, of which the last one is
            scored after the others, each expert reading them through its own template.
        gate: how weights follow the text.
        advance: told which share of the work is done, from 0 to 1.

    Raises:
        UserError: nothing to score, or an expert that cannot read the text.
    """
    if experts.tokenizer is None:
        raise UserError("no expert has a tokenizer, so there is nothing to read a text with")
    before = None
    if isinstance(row, str):
        tokens = list(experts.tokenizer(row)["input_ids"])
        if len(tokens) < 2:
            raise UserError("nothing to score: a text needs two tokens, of which the first is context")
        said = [expert_scores(experts, index, tokens, 1, _part(advance, index, len(experts))) for index in range(len(experts))]
        parts, masses = (torch.stack(column) for column in zip(*said, strict=True))
        chosen = tokens[1:]
    else:
        parts, masses, before, chosen = _chat(experts, row, gate is not None and gate.prompt, advance)
    log_p, shares = mixture_scores(parts, experts.weights, gate, chosen, before, masses)
    return Score(
        tokens=parts.shape[1],
        nats_per_token=-float(log_p.mean()),
        experts=tuple((-parts.mean(1)).tolist()),
        responsibilities=tuple(shares.mean(1).tolist()),
    )


def _part(advance: Callable[[float], object] | None, index: int, count: int) -> Callable[[float], object] | None:
    return None if advance is None else lambda share: advance((index + share) / count)


def _chat(
    experts: Experts, messages: Sequence[Message], with_prompt: bool, advance: Callable[[float], object] | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, list[int]]:
    """What experts say of the last message's tokens after their own reading of the others: log p_i and log masses,
    [experts, n]; log p_i of those others, if asked; the tokens."""
    if len(messages) < 2 or messages[-1].get("role") != "assistant":
        raise UserError("a chat is scored on its last message, which must be the assistant's")
    answer = list(experts.tokenizer(messages[-1]["content"], add_special_tokens=False)["input_ids"])
    if not answer:
        raise UserError("nothing to score: the assistant's message is empty")
    prompts = [rows[0] for rows in encode_prompts(experts, [messages[:-1]])]
    parts, masses, before = [], [], []
    for index, prompt in enumerate(prompts):
        first = 1 if with_prompt else len(prompt)
        found, mass = expert_scores(experts, index, [*prompt, *answer], first, _part(advance, index, len(experts)))
        parts.append(found[-len(answer) :])
        masses.append(mass[-len(answer) :])
        before.append(found[: -len(answer)])
    if not with_prompt:
        return torch.stack(parts), torch.stack(masses), None, answer
    # Prompts of different lengths (templates of their own) are aligned at their ends, as while decoding.
    longest = max(map(len, before))
    padded = [torch.cat([found.new_zeros(longest - len(found)), found]) for found in before]
    return torch.stack(parts), torch.stack(masses), torch.stack(padded), answer


def together(scores: Sequence[Score]) -> Score:
    """One score for many texts: every token counts the same."""
    total = sum(one.tokens for one in scores)

    def mean(values: Sequence[float]) -> float:
        return math.fsum(value * one.tokens for value, one in zip(values, scores, strict=True)) / total

    return Score(
        tokens=total,
        nats_per_token=mean([one.nats_per_token for one in scores]),
        experts=tuple(mean(column) for column in zip(*(one.experts for one in scores), strict=True)),
        responsibilities=tuple(mean(column) for column in zip(*(one.responsibilities for one in scores), strict=True)),
    )
