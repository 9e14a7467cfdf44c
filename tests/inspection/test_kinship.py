"""The numbers, against plain float64 on whole tensors; and what no number may depend on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modist.inspection import Inspection, inspect_models
from tests.inspection.conftest import Flat, cosine, family, numbers, pearson
from tests.tiny_models import Tensor, Trio, encode, llama_shapes, random_tensors, read_folder, tuned


def check_against_float64(found: Inspection, base: Path, one: Path, two: Path) -> None:
    """Everything said of base, one, two (in this order, the base first) against whole tensors."""
    b, x, y = (flat.values for flat in Flat.of(base, one, two))
    weights = next(pair for pair in found.pairs if (pair.one, pair.other) == (one.name, two.name))
    assert weights.cosine == pytest.approx(cosine(x, y), rel=1e-12)
    assert weights.pearson == pytest.approx(pearson(x, y), rel=1e-12)
    assert weights.distance == pytest.approx(np.linalg.norm(x - y), rel=1e-12)
    assert weights.relative == pytest.approx(np.linalg.norm(x - y) / np.linalg.norm(x), rel=1e-12)
    assert weights.relative_to_other == pytest.approx(np.linalg.norm(x - y) / np.linalg.norm(y), rel=1e-12)
    assert weights.differing == np.mean(x != y)
    assert weights.elements == b.size

    (kin,) = found.kinships
    dx, dy = x - b, y - b
    assert kin.base == base.name
    assert kin.cosine == pytest.approx(cosine(dx, dy), rel=1e-9, abs=1e-12)
    assert kin.pearson == pytest.approx(pearson(dx, dy), rel=1e-9, abs=1e-12)
    assert kin.distance == pytest.approx(np.linalg.norm(dx - dy), rel=1e-12)
    assert kin.sign_agreement == np.mean((dx != 0) & (dy != 0) & (np.sign(dx) == np.sign(dy)))
    assert kin.both_moved == np.mean((dx != 0) & (dy != 0))

    kinds = {"all": "", "attention": "self_attn", "mlp": "mlp"}
    for delta, folder in zip(found.deltas, (one, two), strict=True):
        assert delta.model == folder.name
        for row in delta.layers:
            for kind, part in kinds.items():
                where = f".layers.{row.layer}."
                old, new = Flat.of(base, folder, chosen=lambda name, w=where, p=part: w in name and p in name)
                expected = np.linalg.norm(new.values - old.values) / np.linalg.norm(old.values)
                assert getattr(row, kind) == pytest.approx(expected, rel=1e-12)
        old, new = Flat.of(base, folder, chosen=lambda name: "embed_tokens" in name)
        expected = np.linalg.norm(new.values - old.values) / np.linalg.norm(old.values)
        assert delta.outside["embeddings"] == pytest.approx(expected, rel=1e-12)


def test_stories_against_float64(stories: Callable[[str], Path]) -> None:
    folders = stories(""), stories("-ft-gsm8k"), stories("-ft-grimm")
    check_against_float64(inspect_models(folders), *folders)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_random_models_against_float64(dtype: str, make: Callable[..., Path]) -> None:
    tensors = random_tensors(llama_shapes(layers=2), 3, dtype)
    base, one = make("base", tensors), make("one", tensors, seed=1, noise=0.01)
    two = make("two", tensors, seed=2, noise=0.02)
    check_against_float64(inspect_models([base, one, two]), base, one, two)


def test_doubles_are_not_rounded(make: Callable[..., Path]) -> None:
    """A difference that float32 cannot hold is seen."""
    tensors = {"model.layers.0.mlp.up_proj.weight": encode(np.ones((64, 64)), "F64")}
    near = {name: encode(tensor.float64 + 1e-12, "F64") for name, tensor in tensors.items()}
    (pair,) = inspect_models([make("one", tensors), make("near", near)]).pairs
    assert pair.differing == 1
    assert pair.distance == pytest.approx(64e-12, rel=1e-3)


def test_tiny_deltas_do_not_cancel(make: Callable[..., Path]) -> None:
    """Deltas a millionth of the weights: their cosine is as exact as that of any others."""
    tensors = {"model.layers.0.mlp.up_proj.weight": encode(np.random.default_rng(0).normal(size=(200, 50)), "F64")}
    folders = [make("base", tensors), make("one", tensors, seed=1, noise=1e-7), make("two", tensors, seed=2, noise=1e-7)]
    b, x, y = (flat.values for flat in Flat.of(*folders))
    (kin,) = inspect_models(folders).kinships
    assert kin.cosine == pytest.approx(cosine(x - b, y - b), abs=1e-10)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(block=st.integers(1000, 70_000), threads=st.integers(1, 7))
def test_blocks_and_threads_do_not_show(block: int, threads: int, big_trio: Trio) -> None:
    expected = numbers(_plain(inspect_models(big_trio.folders, threads=1)))
    found = numbers(_plain(inspect_models(big_trio.folders, threads=threads, block=block)))
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        if isinstance(value, float):
            assert found[path] == pytest.approx(value, rel=1e-12, abs=1e-12), path
        else:
            assert found[path] == value, path


@pytest.fixture(scope="module")
def big_trio(tmp_path_factory: pytest.TempPathFactory) -> Trio:
    """Tensors of several blocks, of sizes that no block size divides."""
    return family(tmp_path_factory.mktemp("big"), hidden=92, inner=333, layers=2, vocabulary=701)


def _plain(found: Inspection) -> dict[str, object]:
    plain = found.as_dict()
    del plain["verdicts"]
    return plain


def test_elements_that_are_not_finite_are_left_out_and_counted(make: Callable[..., Path]) -> None:
    tensors = random_tensors(llama_shapes(layers=1), 0, "F32")
    name = "model.layers.0.mlp.up_proj.weight"
    folders = [make(f"m{k}", tensors, seed=k, noise=0.1) for k in range(3)]
    models = [read_folder(folder) for folder in folders]
    broken = models[1][name].bits.copy()
    broken[0, :3] = (np.nan, np.inf, -np.inf)
    folders[1] = make("broken", {**models[1], name: Tensor("F32", broken)})
    found = inspect_models(folders)
    assert found.nonfinite == {"broken": 3}
    assert all(value == value for value in numbers(found.as_dict()).values())

    b, x, y = (flat.values for flat in Flat.of(*folders))
    kept = np.isfinite(x)
    (kin,) = [k for k in found.kinships if k.base == found.base]
    assert kin.elements == b.size - 3
    pair = next(p for p in found.pairs if p.one == "m0" and p.other == "m2")
    assert pair.cosine == pytest.approx(cosine(b[kept], y[kept]), rel=1e-12)


def test_a_whole_tensor_of_nan(make: Callable[..., Path]) -> None:
    tensors = random_tensors(llama_shapes(layers=1), 0, "F32")
    lost = {name: Tensor("F32", np.full_like(tensor.bits, np.nan)) for name, tensor in tensors.items()}
    found = inspect_models([make("whole", tensors), make("lost", lost)])
    assert found.nonfinite == {"lost": sum(t.bits.size for t in tensors.values())}
    assert found.pairs[0].elements == 0 and found.pairs[0].cosine is None
    assert [verdict.kind for verdict in found.verdicts] == ["unrelated"]


def test_only_tensors_of_one_name_and_shape_are_compared(make: Callable[..., Path]) -> None:
    tensors = random_tensors(llama_shapes(layers=1), 0)
    other = dict(tuned(tensors, 1, 0.01))
    del other["lm_head.weight"]
    other["model.embed_tokens.weight"] = random_tensors({"x": (97, 32)}, 5)["x"]
    other["counter"] = Tensor("I64", np.arange(3))
    found = inspect_models([make("one", tensors), make("other", other)])
    reasons = {left.tensor: left.reason for left in found.left_out}
    assert reasons == {
        "model.embed_tokens.weight": "shapes differ: 96x32, 97x32",
        "lm_head.weight": "only in one",
        "counter": "stored as I64, which is no floating-point number to compare",
    }
    assert found.compared == found.pairs[0].tensors == len(tensors) - 2


def test_zero_sized_tensors_and_zero_bases(make: Callable[..., Path]) -> None:
    zeros = {"a.weight": encode(np.zeros((4, 4)), "F32"), "empty": encode(np.zeros((0, 4)), "F32")}
    ones = {"a.weight": encode(np.ones((4, 4)), "F32"), "empty": encode(np.zeros((0, 4)), "F32")}
    found = inspect_models([make("zeros", zeros), make("ones", ones)])
    assert found.deltas[0].relative is None and found.pairs[0].cosine is None and found.pairs[0].distance == 4


def test_progress_counts_every_byte(trio: Trio) -> None:
    from modist.inspection import Onlooker

    seen: list[int] = []
    total: list[int] = []
    found = inspect_models(trio.folders, block=1000, onlooker=Onlooker(total.append, seen.append))
    assert total == [found.read_bytes] and sum(seen) == found.read_bytes
