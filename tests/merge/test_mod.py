"""`mod`: the released code's rule to the bit, the quantile's exact shares, the mixture density of Figure 1b."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from modist.checkpoint import Checkpoint
from modist.checkpoint.dtype import narrow, round_to_bfloat16
from modist.merge import merge
from modist.merge.methods.mod import released_rule
from tests.tiny_models import TORCH_NAMES, encode, read_folder, write_folder

SHARED = Path(__file__).parents[3] / "shared" / "models"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the real tiny models (../shared/models) are not here")


def recipe(path: Path, experts: list[Path], weights: list[float], **more: object) -> Path:
    data = {"base_model": str(experts[0]), "experts": [{"source_model": str(e)} for e in experts], "weights": weights}
    path.write_text(yaml.safe_dump(data | more))
    return path


def folder_of(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    stored = {name: encode(values, "F32") for name, values in tensors.items()}
    return write_folder(path, stored)


def released(theta: list[np.ndarray], a: float) -> np.ndarray:
    """The rule as torch computes it on bfloat16 tensors; two experts."""
    torch = pytest.importorskip("torch")
    one, two = (torch.from_numpy(np.array(t)).to(torch.bfloat16) for t in theta)
    low, high = one.min(), one.max()
    u = torch.zeros_like(one) if high == low else (one - low) / (high - low)
    return torch.where(u < a, one, two).view(torch.uint16).numpy()


@needs_shared
@pytest.mark.parametrize("a", [0.9, 0.5, 0.3])
def test_minmax_is_the_released_rule_on_real_fine_tunes(tmp_path: Path, a: float) -> None:
    experts = [SHARED / "stories260K-ft-gsm8k", SHARED / "stories260K-ft-grimm"]
    merge(recipe(tmp_path / "r.yml", experts, [a, 1 - a]), tmp_path / "out")
    parents = [read_folder(folder) for folder in experts]
    swapped = 0
    for name, written in read_folder(tmp_path / "out").items():
        theta = [parent[name].bits for parent in parents]
        assert written.dtype == "BF16"
        if "mlp" in name:
            expected = released(theta, a)
            swapped += int((expected != narrow(theta[0].reshape(-1), "BF16").reshape(expected.shape)).sum())
        else:
            expected = narrow(np.array(theta[0]).reshape(-1), "BF16").reshape(theta[0].shape)
        assert np.array_equal(written.bits, expected), name
    assert swapped > 0


@given(
    st.lists(st.floats(-4, 4, width=32), min_size=2, max_size=200),
    st.floats(0, 1, width=32),
)
@settings(max_examples=150, deadline=None)
def test_released_rule_agrees_with_torch(values: list[float], a: float) -> None:
    theta = round_to_bfloat16(np.array(values, np.float32))
    other = theta + 100
    chosen = released_rule(theta, theta.min(), theta.max(), [a])
    expected = released([theta, other], a)
    mine = np.where(chosen == 0, narrow(theta.copy(), "BF16"), narrow(other.copy(), "BF16"))
    assert np.array_equal(mine, expected)


def test_a_constant_tensor_is_u_zero() -> None:
    values = np.full(5, 2.0, np.float32)
    assert not released_rule(values, values[0], values[0], [0.5]).any()
    assert released_rule(values, values[0], values[0], [0.0]).all()


@pytest.mark.parametrize(("size", "distinct"), [(1, 1), (10, 3), (1000, 7), (300_001, 40), (300_001, 1 << 24)])
@pytest.mark.parametrize("weights", [[0.9, 0.1], [0.2, 0.5, 0.3], [0.0, 1.0], [1.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
def test_quantile_gives_each_expert_exactly_its_weight(tmp_path: Path, size: int, distinct: int, weights: list[float]) -> None:
    rng = np.random.default_rng(size + distinct)
    first = rng.integers(-distinct, distinct, size, endpoint=True) / 8
    name = "model.layers.0.mlp.up_proj.weight"
    experts = [folder_of(tmp_path / f"e{i}", {name: first if i == 0 else np.full(size, 1e6 * i)}) for i in range(len(weights))]
    merge(recipe(tmp_path / "r.yml", experts, weights, normalize="quantile", dtype="float32"), tmp_path / "out")
    written = read_folder(tmp_path / "out")[name].bits
    ends = [0, *(round(size * end) for end in np.cumsum(weights)[:-1]), size]
    order = np.argsort(first, kind="stable")
    expected = np.array(first, np.float32)
    for index in range(1, len(weights)):
        expected[order[ends[index] : ends[index + 1]]] = 1e6 * index
    assert np.array_equal(written, expected)


@pytest.mark.parametrize("select", ["random", "threshold"])
def test_only_random_gives_the_mixture_density(tmp_path: Path, select: str) -> None:
    size, name, a = 1_000_000, "model.layers.0.mlp.up_proj.weight", 0.6
    rng = np.random.default_rng(5)
    thetas = [rng.normal(0, 1, size), rng.normal(5, 1, size)]
    experts = [folder_of(tmp_path / f"e{i}", {name: theta}) for i, theta in enumerate(thetas)]
    more = {"select": "random"} if select == "random" else {"normalize": "quantile"}
    merge(recipe(tmp_path / "r.yml", experts, [a, 1 - a], dtype="float32", **more), tmp_path / "out")
    merged = read_folder(tmp_path / "out")[name].bits
    edges = np.linspace(-5, 10, 51)
    mixture = a * np.histogram(thetas[0], edges)[0] + (1 - a) * np.histogram(thetas[1], edges)[0]
    variation = 0.5 * np.abs(np.histogram(merged, edges)[0] - mixture).sum() / size
    if select == "random":
        assert variation < 0.01
        taken = np.mean(merged == np.array(thetas[0], np.float32))
        assert abs(taken - a) < 5 * np.sqrt(a * (1 - a) / size)
    else:
        assert variation > 0.1


def test_scope_all_reaches_every_tensor_and_mlp_only_the_mlp(tmp_path: Path) -> None:
    names = ["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.up_proj.weight"]
    experts = [folder_of(tmp_path / f"e{i}", {name: np.full((64, 64), float(i + 1)) for name in names}) for i in range(2)]
    report = merge(recipe(tmp_path / "a.yml", experts, [0.5, 0.5], select="random", scope="all"), tmp_path / "all")
    assert all(0.4 < np.mean(t.float64 == 1) < 0.6 for t in read_folder(tmp_path / "all").values())
    assert 0.45 < (report.parents[0].overall or 0) < 0.55
    report = merge(recipe(tmp_path / "m.yml", experts, [0.0, 1.0]), tmp_path / "mlp")
    found = {name: set(t.float64.reshape(-1)) for name, t in read_folder(tmp_path / "mlp").items()}
    assert found == {names[0]: {1.0}, names[1]: {1.0}, names[2]: {2.0}}
    assert report.parents[1].overall == pytest.approx(1 / 3)


def test_minmax_writes_bfloat16_unless_told_otherwise(tmp_path: Path) -> None:
    experts = [folder_of(tmp_path / f"e{i}", {"mlp.weight": np.linspace(-1, 1, 50) + i}) for i in range(2)]
    for more, dtype in (({}, "BF16"), ({"dtype": "float32"}, "F32"), ({"out_dtype": "float16"}, "F16")):
        merge(recipe(tmp_path / "r.yml", experts, [0.5, 0.5], **more), tmp_path / dtype)
        assert {tensor.dtype for tensor in read_folder(tmp_path / dtype).values()} == {dtype}
        config = Checkpoint.open(tmp_path / dtype).config
        assert {config[key] for key in ("dtype", "torch_dtype") if key in config} == {TORCH_NAMES[dtype]}
