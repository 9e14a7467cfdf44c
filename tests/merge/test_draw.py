"""Random streams: the same number for an element whoever asks, and uniform."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modist.merge.draw import Uniform, draws, stream_key

KEY = stream_key(3, "model.layers.0.mlp.up_proj.weight", "a")


@given(st.integers(0, 5000), st.integers(0, 500), st.integers(0, 500))
@settings(deadline=None)
def test_any_cut_gives_the_same_draws(start: int, first: int, second: int) -> None:
    whole = draws(KEY, start, start + first + second)
    parts = [draws(KEY, start, start + first), draws(KEY, start + first, start + first + second)]
    assert np.array_equal(whole, np.concatenate(parts))


def test_it_is_the_generators_documented_stream() -> None:
    raw = np.random.PCG64DXSM(KEY).random_raw(100).astype("<u8").view("<u2")
    assert np.array_equal(draws(KEY, 0, 400), raw)


def test_streams_differ_by_seed_tensor_and_model() -> None:
    keys = {stream_key(s, t, m) for s in (0, 1) for t in ("x", "y") for m in ("a", "b")}
    assert len(keys) == 8


@pytest.mark.parametrize("probability", [0.0, 1e-6, 0.1, 0.5, 0.9, 1 - 1e-6, 1.0])
def test_below_has_its_probability(probability: float) -> None:
    size = 4_000_000
    share = Uniform(KEY, 0, size).below(probability).mean()
    assert abs(share - probability) <= 5 * np.sqrt(probability * (1 - probability) / size) + 1e-12


def test_sixteen_bits_are_not_the_end() -> None:
    """A probability between two multiples of 2^-16 must be told from both, on the elements that tie."""
    drawn = Uniform(KEY, 0, 1 << 21)
    low, high = 30000 / 65536, 30001 / 65536
    below, middle, above = (drawn.below(p) for p in (low, (low + high) / 2, high))
    assert not (below & ~middle).any() and not (middle & ~above).any()
    ties = int((above & ~below).sum())
    decided = int((middle & ~below).sum())
    assert ties > 10 and 0.15 * ties < decided < 0.85 * ties


def test_refinement_does_not_depend_on_the_cut() -> None:
    whole = Uniform(KEY, 0, 1 << 18).below(0.45777)
    parts = [Uniform(KEY, start, start + (1 << 15)).below(0.45777) for start in range(0, 1 << 18, 1 << 15)]
    assert np.array_equal(whole, np.concatenate(parts))
