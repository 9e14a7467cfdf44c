"""Draws that lazy and eager decoding share: an exponential race, keyed by what the draw is for.

A token is the winner of argmax_x p(x) / E_x with E_x independent unit exponentials, which is a draw from p.  The exponentials
depend on (seed, row, position, attempt) alone: whoever computes p, and when, meets the same race, so two computations of one
law give one token unless their p differ where the race is close.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def exponentials(size: int, *key: int | str) -> torch.Tensor:
    """Unit exponentials float64 [size]; the first n are the same for any size of at least n."""
    text = "modist race 1\0" + "\0".join(map(str, key))
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")
    drawn = np.random.Generator(np.random.PCG64DXSM(seed)).standard_exponential(size)
    return torch.from_numpy(np.maximum(drawn, np.finfo(np.float64).tiny))


def race(log_probs: torch.Tensor, *key: int | str) -> int:
    """The id drawn from a distribution [size]; ids of probability 0 cannot win.

    Args:
        log_probs: log-probabilities, normalised or not, on any device.
        key: what the draw is for.
    """
    log_probs = log_probs.detach().double().cpu()
    scores = log_probs - exponentials(len(log_probs), *key).log()
    return int(scores.argmax())


def uniform(*key: int | str) -> float:
    """One number in (0, 1), for accepting or rejecting."""
    return float(torch.exp(-exponentials(1, "uniform", *key))[0])
