"""The plain twin: every expert runs at every token, one token at a time, and the law is written out.

It draws the expert first and races the same exponentials as the lazy decoder, so the two give the same tokens, in float64
exactly.  Greedy it takes the argmax of the mixture.  Nothing here is fast; it is what the fast path is held against.

The geometric law (`Law.geometric`) is no mixture, so there is no expert to draw: `step_product` draws from the product itself.
"""

from __future__ import annotations

import math

import torch

from modist.mixture.race import race, uniform
from modist.mixture.state import State
from modist.mixture.warp import Warp


def everyone(state: State) -> tuple[list[torch.Tensor], torch.Tensor]:
    """All experts' log-probabilities [batch, size] at the current position, and log weights [batch, experts]."""
    parts = [state.ask(expert) for expert in range(len(state.readers))]
    return parts, state.weigh()


def step_experts(state: State, warp: Warp, seed: int) -> tuple[list[int], list[bool]]:
    """One token a row: expert first, then its warped distribution; what it gives to masked ids falls to the mixture of all."""
    parts, log_a = everyone(state)
    tokens = []
    for row in range(state.rows):
        expert = race(log_a[row], seed, "expert", state.length)
        allowed, masses = zip(*[state.law.conditional(part[row]) for part in parts], strict=True)
        warped = [warp(own) + mass if mass > -math.inf else own for own, mass in zip(allowed, masses, strict=True)]
        if masses[expert] == 0 or uniform(seed, row, state.length) < math.exp(masses[expert]):
            tokens.append(race(warped[expert], seed, row, state.length, 0))
        else:
            tokens.append(race(state.law.mix(warped, log_a[row]), seed, row, state.length, 1))
    return tokens, [False] * state.rows


def step_mixture(state: State, warp: Warp, seed: int) -> tuple[list[int], list[bool]]:
    """One token a row: from the unwarped mixture by way of an expert, kept if the warped law keeps it, else from that law."""
    parts, log_a = everyone(state)
    tokens = []
    for row in range(state.rows):
        log_p = state.law.mix([part[row] for part in parts], log_a[row])
        law = warp(log_p)
        keep = False
        token = -1
        if warp.temperature <= 1:
            expert = race(log_a[row], seed, "expert", state.length)
            token = race(state.readers[expert].distribution()[row], seed, row, state.length, 0)
            keep = state.law.takes(token, expert) and bool(law[token] > -torch.inf)
            if keep and warp.temperature < 1:
                ratio = float(torch.exp((log_p[token] - log_p.max()) * (1 / warp.temperature - 1)))
                keep = uniform(seed, row, state.length) < ratio
        tokens.append(token if keep else race(law, seed, row, state.length, 1))
    return tokens, [False] * state.rows


def step_product(state: State, warp: Warp, seed: int) -> tuple[list[int], list[bool]]:
    """One token a row from the warped product of the experts."""
    parts, log_a = everyone(state)
    mixes = [state.law.mix([part[row] for part in parts], log_a[row]) for row in range(state.rows)]
    tokens = [race(warp(log_p), seed, row, state.length, 1) for row, log_p in enumerate(mixes)]
    state.log_p.append([float(log_p[token]) for log_p, token in zip(mixes, tokens, strict=True)])
    return tokens, [False] * state.rows


def step_greedy(state: State) -> tuple[list[int], list[bool]]:
    """The argmax of the law for each row, the lowest id among equals."""
    parts, log_a = everyone(state)
    mixes = [state.law.mix([part[row] for part in parts], log_a[row]) for row in range(state.rows)]
    tokens = [int(log_p.argmax()) for log_p in mixes]
    if state.law.geometric:
        state.log_p.append([float(log_p[token]) for log_p, token in zip(mixes, tokens, strict=True)])
    return tokens, [False] * state.rows
