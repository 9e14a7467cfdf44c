"""Random numbers that depend on what they are for, never on who computes them or when.

A stream is keyed by (seed, tensor name, the model's place in the recipe); element k of a tensor always gets the k-th draw of
its stream, because the generator can be advanced to any position.  Hence the same masks for any thread count and block size.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

_PER_STEP = 4


def stream_key(seed: int, tensor: str, stream: str) -> int:
    """128 bits that name one stream."""
    text = f"modist draws 1\0{seed}\0{tensor}\0{stream}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")


def draws(key: int, start: int, stop: int) -> npt.NDArray[np.uint16]:
    """Draws [start, stop) of a stream, uniform over the 2^16 values of a uint16.

    PCG64-DXSM (O'Neill 2014; numpy's documented stream) gives 64 bits a step, four draws; its state can jump.
    """
    bits = np.random.PCG64DXSM(key)
    bits.advance(start // _PER_STEP)
    steps = -(-stop // _PER_STEP) - start // _PER_STEP
    words: npt.NDArray[Any] = np.random.Generator(bits).integers(0, 2**64, size=steps, dtype=np.uint64)
    return words.astype("<u8", copy=False).view("<u2")[start % _PER_STEP :][: stop - start]


def wide_draws(key: int, start: int, stop: int) -> npt.NDArray[np.uint32]:
    """The same over the 2^32 values of a uint32."""
    return draws(key, 2 * start, 2 * stop).view("<u4")


class Uniform:
    """One uniform number in [0, 1) for each element of a block, known to 2^-32 where that matters.

    Sixteen bits decide all but one comparison in 65,536; there, sixteen more come from a hash of the element's place.
    """

    def __init__(self, key: int, start: int, stop: int) -> None:
        self._key = key
        self._start = start
        self._high = draws(key, start, stop)

    def below(self, probability: float) -> npt.NDArray[np.bool_]:
        """Which elements' numbers are below `probability`, [n]."""
        limit = min(1 << 32, max(0, round(probability * (1 << 32))))
        if limit == 1 << 32:
            return np.ones(len(self._high), np.bool_)
        high, low = divmod(limit, 1 << 16)
        mask = self._high < np.uint16(high)
        for element in np.flatnonzero(self._high == np.uint16(high)):
            mask[element] = self._low(int(element)) < low
        return mask

    def _low(self, element: int) -> int:
        place = self._key.to_bytes(16, "little") + (self._start + element).to_bytes(8, "little")
        return int.from_bytes(hashlib.blake2b(place, digest_size=2).digest(), "little")
