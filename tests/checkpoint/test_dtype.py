"""Widening and narrowing, bit for bit against torch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modist.checkpoint.dtype import FLOATS, HOLDERS, all_finite, narrow, round_to_bfloat16, widen

ALL16 = np.arange(1 << 16, dtype=np.uint16)


def _torch_narrow(values: np.ndarray, name: str) -> np.ndarray:
    import torch

    rounded = torch.from_numpy(values.copy()).to(getattr(torch, name))
    return rounded.view(torch.uint16).numpy()


def _same_or_both_nan(ours: np.ndarray, theirs: np.ndarray, nan: np.ndarray, exponent: int) -> None:
    """Equal bits; where the value is NaN any NaN pattern will do."""
    np.testing.assert_array_equal(ours[~nan], theirs[~nan])
    fraction = (1 << 15) - 1 ^ exponent
    for bits in (ours[nan], theirs[nan]):
        assert np.all((bits & exponent) == exponent)
        assert np.all(bits & fraction)


def test_every_bfloat16_widens_as_torch_says_and_comes_back() -> None:
    import torch

    wide = widen(ALL16, "BF16")
    theirs = torch.from_numpy(ALL16.copy()).view(torch.bfloat16).to(torch.float32).numpy()
    np.testing.assert_array_equal(wide.view(np.uint32), theirs.view(np.uint32))
    _same_or_both_nan(narrow(wide.copy(), "BF16"), ALL16, np.isnan(wide), 0x7F80)


def test_every_float16_widens_as_torch_says_and_comes_back() -> None:
    import torch

    wide = widen(ALL16.view(np.float16), "F16")
    theirs = torch.from_numpy(ALL16.copy()).view(torch.float16).to(torch.float32).numpy()
    nan = np.isnan(theirs)
    np.testing.assert_array_equal(np.isnan(wide), nan)
    np.testing.assert_array_equal(wide.view(np.uint32)[~nan], theirs.view(np.uint32)[~nan])
    _same_or_both_nan(narrow(wide, "F16").view(np.uint16), ALL16, nan, 0x7C00)


def _awkward() -> np.ndarray:
    """All halfway cases of bfloat16, their neighbours, every exponent, infinities, NaNs, and a million random patterns."""
    top = np.arange(1 << 16, dtype=np.uint32) << 16
    near = np.concatenate([top + low for low in (0x7FFF, 0x8000, 0x8001, 0x0001, 0xFFFF)])
    random = np.random.default_rng(5).integers(0, 1 << 32, 1 << 20, dtype=np.uint32)
    # Halfway between neighbouring float16 values, for each of them.
    half = ALL16.view(np.float16).astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        between = ((half[:-1].astype(np.float64) + half[1:]) / 2).astype(np.float32)
        largest = np.array([65504, 65519.996, 65520, 65536, 3.4e38, 5.96e-8, 2.98e-8, 2.9802322e-08], np.float32)
    return np.concatenate([near.view(np.float32), random.view(np.float32), between, largest, -largest])


@pytest.mark.parametrize(("stored", "name", "exponent"), [("BF16", "bfloat16", 0x7F80), ("F16", "float16", 0x7C00)])
def test_narrowing_rounds_as_torch_does(stored: str, name: str, exponent: int) -> None:
    values = _awkward()
    theirs = _torch_narrow(values, name)
    nan = np.isnan(values)
    ours = narrow(values.copy(), stored).view(np.uint16)
    _same_or_both_nan(ours, theirs, nan, exponent)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=40))
def test_narrowing_to_bfloat16_gives_a_nearest_value_and_ties_to_even(numbers: list[float]) -> None:
    values = np.array(numbers, np.float32)
    rounded = narrow(values.copy(), "BF16")
    exact = values.astype(np.float64)
    for step in (-1, 1):
        # The neighbours on the number line, as patterns; those past the ends or over zero are no neighbours.
        other = (rounded.astype(np.int32) + step).astype(np.uint16)
        with np.errstate(invalid="ignore"):
            chosen, beside = widen(rounded, "BF16").astype(np.float64), widen(other, "BF16").astype(np.float64)
            comparable = np.isfinite(chosen) & np.isfinite(beside) & ((rounded ^ other) < 0x8000)
            near, far = np.abs(exact - chosen), np.abs(exact - beside)
        assert np.all(near[comparable] <= far[comparable])
        tied = comparable & (near == far) & (near > 0)
        assert np.all(rounded[tied] % 2 == 0)


def test_round_to_bfloat16_leaves_its_argument_alone() -> None:
    values = np.array([1.00390625, 3.14159265, -7.7], np.float32)
    before = values.copy()
    assert round_to_bfloat16(values).tolist() == [1.0, 3.140625, -7.6875]
    np.testing.assert_array_equal(values, before)


def test_finite_means_what_numpy_means() -> None:
    for pattern in range(0, 1 << 16, 7):
        bits = np.array([0, pattern, 1], np.uint16)
        assert all_finite(bits, "BF16") == bool(np.isfinite(widen(bits, "BF16")).all())
        assert all_finite(bits.view(np.float16), "F16") == bool(np.isfinite(bits.view(np.float16)).all())
    for dtype in ("F32", "F64"):
        for value, good in ((1.0, True), (np.inf, False), (-np.inf, False), (np.nan, False)):
            assert all_finite(np.array([0, value], HOLDERS[dtype]), dtype) is good
    for dtype in HOLDERS.keys() - FLOATS:
        assert all_finite(np.array([127], HOLDERS[dtype]), dtype)
    assert all_finite(np.empty(0, np.uint16), "BF16")
