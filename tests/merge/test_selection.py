"""The k largest, exactly: against a sort, whatever the sample said."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modist.merge.selection import Largest, by_magnitude, kth_largest, largest, rising


def each(count, work):
    return [work(number) for number in range(count)]


def reference(keys: np.ndarray, count: int) -> np.ndarray:
    mask = np.zeros(len(keys), bool)
    mask[np.argsort(-keys.astype(np.int64), kind="stable")[:count]] = True
    return mask


def select(keys: np.ndarray, count: int, sample: np.ndarray, room: int, block: int) -> np.ndarray:
    parts = [keys[start : start + block] for start in range(0, len(keys), block)]
    found: Largest = largest(count, len(keys), len(parts), each, lambda number: parts[number].copy(), sample, room)
    return np.concatenate([found.mask(number, part) for number, part in enumerate(parts)])


samples = {
    "good": lambda keys: keys[:: max(1, len(keys) // 100)],
    "none": lambda keys: keys[:0],
    "too low": lambda keys: np.zeros(50, np.uint32),
    "too high": lambda keys: np.full(50, 2**32 - 1, np.uint32),
    "all": lambda keys: keys,
}


@pytest.mark.parametrize("sample", samples)
@pytest.mark.parametrize("room", [0, 10, 1 << 20])
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_equals_a_stable_sort(sample: str, room: int, data: st.DataObject) -> None:
    width = data.draw(st.sampled_from([1, 4, 1000, 2**31, 2**32]))
    size = data.draw(st.integers(1, 400))
    seed = data.draw(st.integers(0, 1000))
    keys = np.random.default_rng(seed).integers(0, width, size, dtype=np.uint32)
    count = data.draw(st.integers(1, size))
    block = data.draw(st.integers(1, size))
    assert np.array_equal(select(keys, count, samples[sample](keys), room, block), reference(keys, count))


def test_a_large_one_needs_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = by_magnitude(np.random.default_rng(0).standard_normal(200_000).astype(np.float32)).copy()
    passes = []

    def counted(count, work):
        passes.append(count)
        return each(count, work)

    found = largest(100_000, len(keys), 1, counted, lambda number: keys.copy(), keys[::20], 1 << 20)
    assert np.array_equal(found.mask(0, keys), reference(keys, 100_000))
    assert len(passes) == 1


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=300), st.data())
@settings(deadline=None)
def test_kth_largest(values: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(values)))
    cut = data.draw(st.integers(0, len(values)))
    parts = [np.array(values[:cut], np.uint32), np.array(values[cut:], np.uint32)]
    assert kth_largest(parts, count) == sorted(values, reverse=True)[count - 1]


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=100))
@settings(deadline=None)
def test_keys_order_as_the_values_do(values: list[float]) -> None:
    floats = np.array(values, np.float32)
    for keys, quantity in ((rising(floats.copy()), floats), (by_magnitude(floats.copy()), np.abs(floats))):
        for other in range(len(floats)):
            assert np.array_equal(keys < keys[other], quantity < quantity[other])
            assert np.array_equal(keys == keys[other], quantity == quantity[other])
