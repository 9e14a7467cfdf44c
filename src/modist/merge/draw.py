"""Random numbers that depend on what they are for, never on who computes them or when.

A stream is keyed by (seed, tensor name, model); element k of a tensor always gets the k-th draw of its stream, because the
generator can be advanced to any position.  Hence the same masks for any thread count and any block size.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

Draws = npt.NDArray[np.uint32]


def stream_key(seed: int, tensor: str, model: str) -> int:
    """128 bits that name one stream."""
    text = f"modist draws 1\0{seed}\0{tensor}\0{model}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")


def draws(key: int, start: int, stop: int) -> Draws:
    """Draws [start, stop) of a stream: uniform over the 2^32 values of a uint32.

    PCG64-DXSM (O'Neill 2014; numpy's documented stream) gives 64 bits a step, two draws; its state can jump.
    """
    bits = np.random.PCG64DXSM(key)
    bits.advance(start // 2)
    words: npt.NDArray[Any] = np.random.Generator(bits).integers(
        0, 2**64, size=(stop + 1) // 2 - start // 2, dtype=np.uint64
    )
    return words.astype("<u8", copy=False).view("<u4")[start % 2 :][: stop - start]


def below(probability: float) -> np.uint32:
    """The limit for which `draw < limit` has this probability, to within 2^-32; 0 <= probability < 1."""
    return np.uint32(min((1 << 32) - 1, max(0, round(probability * (1 << 32)))))
