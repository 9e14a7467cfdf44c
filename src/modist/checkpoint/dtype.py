"""Element types as they are stored, and the way between them and float32.

Merging needs neither torch nor a bfloat16 type: a bfloat16 is the upper half of a float32, so widening is a shift and
narrowing is an integer addition that rounds to nearest, ties to even.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

# The stored name (safetensors' spelling) -> the numpy type that holds its bits.
HOLDERS: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("u1"),
}
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
# One byte or less an element, with scales stored elsewhere: to be dequantised before anything can be averaged.
QUANTISED = frozenset({"F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0", "F4", "F6_E2M3", "F6_E3M2"})
NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
TORCH_NAMES = {stored: name for name, stored in NAMES.items()}


def widen(stored: Array, dtype: str) -> Floats:
    """Stored elements as float32, in a new array; exact for every dtype but F64."""
    if dtype == "BF16":
        wide = stored.astype(np.uint32)
        np.left_shift(wide, 16, out=wide)
        return wide.view(np.float32)
    return stored.astype(np.float32)


def narrow(values: Array, dtype: str) -> Array:
    """Float values in the stored form of `dtype`, rounded once, to nearest, ties to even."""
    if dtype != "BF16":
        with np.errstate(over="ignore"):
            return values.astype(HOLDERS[dtype], copy=False)
    bits = values.astype(np.float32, copy=False).view(np.uint32)
    unordered = np.isnan(values)
    rounding = np.right_shift(bits, 16)
    np.bitwise_and(rounding, 1, out=rounding)
    np.add(rounding, np.uint32(0x7FFF), out=rounding)
    np.add(rounding, bits, out=rounding)
    out: Array = rounding.view(np.uint16)[1::2].copy()
    if unordered.any():
        # The addition above may carry a NaN's mantissa into infinity or over the sign.
        out[unordered] = 0x7FC0
    return out


def round_to_bfloat16(values: Array) -> Floats:
    """float32 values on bfloat16's grid, as torch's `.to(torch.bfloat16)` gives them."""
    return widen(narrow(np.asarray(values, dtype=np.float32), "BF16"), "BF16")


def bytes_of(stored: Array) -> memoryview:
    """The memory of a contiguous array, as bytes that can be read and written."""
    return memoryview(cast(Any, stored.view(np.uint8))) if stored.size else memoryview(b"")


def all_finite(stored: Array, dtype: str) -> bool:
    """Whether no stored element is NaN or infinite; integers always are finite."""
    if dtype not in FLOATS or not stored.size:
        return True
    if dtype == "BF16":
        return int(np.bitwise_and(stored, 0x7FFF).max()) < 0x7F80
    if dtype == "F16":
        return int(np.bitwise_and(stored.view(np.uint16), 0x7FFF).max()) < 0x7C00
    return bool(np.isfinite(stored).all())
