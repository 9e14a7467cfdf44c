"""The quick product is the plain one but for rounding, and steps aside wherever it is not known to hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from modist.mixture import assemble, linear
from modist.mixture.decode import Run, Settings
from modist.mixture.linear import NarrowLinear, quicken
from tests.mixture.tiny_experts import tiny

torch.set_num_threads(1)
pytestmark = pytest.mark.skipif(not linear.available(), reason="this torch has no oneDNN product")


def quick(bias: bool = True, rows: int = 640, columns: int = 512) -> tuple[nn.Linear, nn.Linear]:
    """A plain layer and its quick twin on the same weights."""
    torch.manual_seed(0)
    plain = nn.Linear(columns, rows, bias=bias)
    twin = nn.Linear(columns, rows, bias=bias)
    twin.load_state_dict(plain.state_dict())
    assert quicken([twin]) == 1 and type(twin) is NarrowLinear
    return plain, twin


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (8, 1), (3, 7), (2, 300)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_it_equals_the_plain_product(shape: tuple[int, int], bias: bool) -> None:
    plain, twin = quick(bias)
    states = torch.randn(*shape, 512)
    with torch.inference_mode():
        exact = nn.functional.linear(
            states.double(), plain.weight.double(), None if plain.bias is None else plain.bias.double()
        )
        found = twin(states)
        assert found.shape == plain(states).shape and found.dtype == torch.float32
        # Not worse than torch's own, and never the same sum left out or counted twice.
        assert (found - exact).abs().max() < 4 * (plain(states) - exact).abs().max() + 1e-6


def test_rows_that_are_not_contiguous() -> None:
    plain, twin = quick()
    states = torch.randn(512, 2, 6).permute(1, 2, 0)[:, ::2]
    with torch.inference_mode():
        torch.testing.assert_close(twin(states), plain(states), atol=1e-4, rtol=0)


@pytest.mark.parametrize("how", ["training", "double", "bfloat16"])
def test_it_steps_aside(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, twin = quick()

    def never(*_: Any) -> Any:
        raise AssertionError("took oneDNN's way")

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", never)
    states = torch.randn(2, 3, 512)
    if how == "training":
        twin(states).sum().backward()
        plain(states).sum().backward()
        assert plain.weight.grad is not None and twin.weight.grad is not None
        assert torch.equal(plain.weight.grad, twin.weight.grad)
        return
    kind = torch.float64 if how == "double" else torch.bfloat16
    with torch.inference_mode():
        assert torch.equal(twin.to(kind)(states.to(kind)), plain.to(kind)(states.to(kind)))
        twin.float()
        with pytest.raises(AssertionError, match="oneDNN"):
            twin(states)


def test_only_large_plain_layers_change() -> None:
    class Own(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(512, 512), nn.Linear(8, 8), Own(512, 512))
    assert quicken([model]) == 1 and quicken([model]) == 0
    assert [type(layer) for layer in model] == [NarrowLinear, nn.Linear, Own]


def test_without_onednn_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    model = nn.Sequential(nn.Linear(512, 512))
    assert quicken([model]) == 0 and type(model[0]) is nn.Linear


def test_a_mixture_decodes_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole decode with every layer quickened, against one with none; the saved weights keep their names."""
    monkeypatch.setattr(linear, "LEAST_ELEMENTS", 1)
    found = []
    for kind in ("quick", "plain"):
        if kind == "plain":
            monkeypatch.setattr("modist.mixture.load.quicken", lambda models: 0)
        experts = assemble([tiny(1), tiny(2)], (0.5, 0.5))
        layers = [type(layer) for model in experts.models for layer in model.modules() if isinstance(layer, nn.Linear)]
        assert set(layers) == {NarrowLinear if kind == "quick" else nn.Linear}
        run = Run(experts, [[[3, 4, 5]], [[3, 4, 5]]], Settings(24, temperature=1.0))
        for _ in run.steps():
            pass
        (one,) = run.results()
        found.append((one.token_ids, list(experts.models[0].state_dict()), one.logprobs))
    assert found[0][:2] == found[1][:2]
    assert found[0][2] == pytest.approx(found[1][2], abs=1e-4) and found[0][2] != found[1][2]
