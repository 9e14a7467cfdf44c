"""Sampling from a mixture: draw the expert first, and run only it.

Drawing i with probability a_i and then x from p_i is a draw from sum_i a_i p_i, so one expert a token is enough; the others
lag, and read what they missed in one chunk when their turn comes (ME, arXiv 2605.00419).  A batch shares the draw of the
expert.

`warp: experts` warps each expert's distribution and mixes the warped ones.  Where ids are masked, what an expert gives to them
is lost to it: it is warped given the others, and counts by its mass on them.  `warp: mixture` warps the mixture itself: x drawn
from the unwarped mixture is accepted if the warped law keeps it, which one expert can often certify alone (`Warp.certified`);
where it cannot, the others run, and a rejected token is drawn anew from the warped law, now known.  Above temperature 1 no draw
of one expert can be accepted, and all run.

`modist.mixture.eager` holds the plain twins of both steps; they share every random number, so they give the same tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from modist.mixture.race import race, uniform
from modist.mixture.state import State
from modist.mixture.warp import Warp

Step = Callable[[State, Warp, int], tuple[list[int], list[bool]]]


def drawn_expert(log_a: torch.Tensor, seed: int, position: int) -> int:
    """The expert a row hears at a position: one race for the whole batch, entered with the row's own weights [experts]."""
    return race(log_a, seed, "expert", position)


def step_experts(state: State, warp: Warp, seed: int) -> tuple[list[int], list[bool]]:
    """One lazy token a row under `warp: experts`, and whether it took fewer than all experts."""
    position, log_a = state.length, state.weigh()
    tokens, sure = [], [False] * state.rows
    for row in range(state.rows):
        if state.ended[row]:
            tokens.append(state.law.filler)
            continue
        expert = drawn_expert(log_a[row], seed, position)
        own, mass = state.law.conditional(state.ask(expert)[row])
        if mass == 0 or uniform(seed, row, position) < math.exp(mass):
            sure[row] = len(state.readers) > 1
            tokens.append(race(warp(own), seed, row, position, 0))
        else:
            tokens.append(race(mixed_of_warped(state, warp, row), seed, row, position, 1))
    return tokens, sure


def step_mixture(state: State, warp: Warp, seed: int) -> tuple[list[int], list[bool]]:
    """The same under `warp: mixture`."""
    position, log_a = state.length, state.weigh()
    tokens, sure = [], [False] * state.rows
    for row in range(state.rows):
        if state.ended[row]:
            tokens.append(state.law.filler)
            continue
        if warp.temperature > 1:
            tokens.append(race(warp(mixed(state, row)), seed, row, position, 1))
            continue
        expert = drawn_expert(log_a[row], seed, position)
        state.ask(expert)
        own = state.readers[expert].distribution()[row]  # over its own full output: an id it lacks is a draw rejected
        token = race(own, seed, row, position, 0)
        draw = uniform(seed, row, position)
        weight = float(log_a[row, expert].exp())
        floor, ceiling = weight * float(own[token].exp()), weight * float(own.max().exp()) + 1 - weight
        if state.law.takes(token, expert) and warp.certified(floor, ceiling, draw):
            sure[row] = len(state.readers) > 1
        elif not (state.law.takes(token, expert) and accepted(state, warp, row, token, draw)):
            token = race(warp(mixed(state, row)), seed, row, position, 1)
        tokens.append(token)
    return tokens, sure


def accepted(state: State, warp: Warp, row: int, token: int, draw: float) -> bool:
    """Whether the full law keeps a token that was drawn from the unwarped mixture; temperature at most 1."""
    log_p = mixed(state, row)
    if warp(log_p)[token] == -torch.inf:
        return False
    return warp.temperature == 1 or draw < float(torch.exp((log_p[token] - log_p.max()) * (1 / warp.temperature - 1)))


def mixed(state: State, row: int) -> torch.Tensor:
    """The unwarped mixture at the current position, [size]; every expert runs."""
    parts = [state.ask(expert)[row] for expert in range(len(state.readers))]
    return state.law.mix(parts, state.weigh()[row])


def mixed_of_warped(state: State, warp: Warp, row: int) -> torch.Tensor:
    """The mixture of the experts' warped distributions, [size]; every expert runs."""
    parts = []
    for expert in range(len(state.readers)):
        own, mass = state.law.conditional(state.ask(expert)[row])
        parts.append(warp(own) + mass if mass > -math.inf else own)
    return state.law.mix(parts, state.weigh()[row])
