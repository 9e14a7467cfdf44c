"""AIM's activations against hand-made sums, and the file that `modist statistics` writes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from modist.checkpoint import Checkpoint
from modist.cli.statistics import statistics_command
from modist.errors import ModistError, UserError
from modist.merge import merge
from modist.merge.scaling import model_digest, read_statistics
from modist.search.activations import mean_activations
from modist.search.statistics_file import make_statistics, read_random_tokens
from tests.mixture.tiny_experts import saved, tiny
from tests.tiny_models import read_folder, tuned, write_folder, write_recipe

EXPERTS = Path(__file__).parents[2] / "examples" / "experts"
TEXTS = [[5, 9, 100, 7, 7, 31], [12, 13], list(range(20, 60))]


class Reader(torch.nn.Module):
    """Two linear layers whose inputs are known: one-hot rows times a table, then |.| of a row of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(3, 2, bias=False)
        self.idle = torch.nn.Linear(2, 2)
        self.table = torch.tensor([[1.0, -2.0, 0.0], [3.0, 0.5, 0.0], [-5.0, 4.0, 0.0]])

    @property
    def device(self) -> torch.device:
        return self.table.device

    def forward(self, ids: torch.Tensor, use_cache: bool) -> torch.Tensor:
        assert not use_cache
        return self.first(self.table[ids])


def test_every_token_counts_alike() -> None:
    found = mean_activations(Reader(), [[0, 1], [2], [1]])
    assert list(found) == ["first.weight"], "a layer that is not run has no activations"
    assert np.allclose(found["first.weight"], [(1 + 3 + 5 + 3) / 4, (2 + 0.5 + 4 + 0.5) / 4, 0.0], rtol=1e-15)
    assert found["first.weight"].dtype == np.float64


def test_activations_of_a_real_model_by_another_way() -> None:
    """The MLP's input is the second norm's output, which transformers gives through hooks of its own."""
    model = tiny(3, "qwen2-tied")
    inputs: list[torch.Tensor] = []
    norm = model.model.layers[1].post_attention_layernorm
    handle = norm.register_forward_hook(lambda layer, given, gave: inputs.append(gave.detach().double()[0]))
    with torch.no_grad():
        for ids in TEXTS:
            model(torch.tensor([ids]))
    handle.remove()
    right = torch.cat(inputs).abs().mean(0).numpy()
    seen: list[int] = []
    found = mean_activations(model, TEXTS, seen.append)
    assert seen == [1, 2, 3]
    for name in ("gate_proj", "up_proj"):
        assert np.allclose(found[f"model.layers.1.mlp.{name}.weight"], right, rtol=1e-6)
    assert len(found) == 2 * 7 + 1, "q, k, v, o, gate, up, down of two layers, and the head"
    assert not any(layer._forward_pre_hooks for layer in model.modules()), "no hook stays behind"


def test_a_damaged_model_is_named() -> None:
    model = tiny(3)
    with torch.no_grad():
        model.model.layers[0].input_layernorm.weight[2] = float("nan")
    with pytest.raises(ModistError, match=r"inputs of model\.layers\.\d\S+ are not finite"):
        mean_activations(model, TEXTS)


# ---------------------------------------------------------------- the file


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("base") / "base", tiny(3, "qwen2-tied"), words=["one", "two", "three"])


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whose words are known: `one` is token 4."""
    return saved(tmp_path_factory.mktemp("reader") / "reader", tiny(3), words=["one", "two", "three"])


def rows(path: Path, *entries: Any) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def test_the_file_holds_them_and_says_what_they_are_of(reader: Path, tmp_path: Path) -> None:
    data = rows(tmp_path / "d.jsonl", {"text": "one two three two"}, {"text": " ".join(["three"] * 500)})
    report = make_statistics(reader, tmp_path / "s.safetensors", kind="aim", data=data)
    found = read_statistics(tmp_path / "s.safetensors")
    assert found.sha256 == report.sha256 and found.kind == "aim"
    assert found.metadata["model"] == "reader" and found.metadata["model_digest"] == model_digest(Checkpoint.open(reader))
    assert found.metadata["data"] == "d.jsonl"
    assert found.metadata["data_digest"] == hashlib.sha256(data.read_bytes()).hexdigest()
    ids = [[4, 5, 6, 5], [6] * 128]
    right = mean_activations(tiny(3), ids)
    assert set(found.values) == set(right)
    for name, values in found.values.items():
        assert np.array_equal(values, right[name].astype(np.float32)), name
    assert (report.tensors, report.sequences, report.tokens, report.cut) == (15, 2, 132, 1)
    assert 0.5 < report.parameters < 1
    again = make_statistics(reader, tmp_path / "s.safetensors", kind="aim", data=data)
    assert again == report, "the same numbers, over a file of its own making"


def test_chats_are_read_through_the_template(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Spell cat."}, {"role": "assistant", "content": "c a t"}]
    data = rows(tmp_path / "d.jsonl", {"messages": messages})
    report = make_statistics(EXPERTS / "general", tmp_path / "s.safetensors", kind="aim", data=data)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(EXPERTS / "general")
    assert report.tokens == len(tokenizer(tokenizer.apply_chat_template(messages, tokenize=False))["input_ids"])


def test_random_tokens_hang_on_the_seed(base: Path, tmp_path: Path) -> None:
    seen = []
    for seed in (0, 0, 1):
        report = make_statistics(base, tmp_path / f"{seed}.safetensors", kind="aim", random_tokens=(3, 20), seed=seed)
        seen.append(report.sha256)
        assert (report.sequences, report.tokens, report.data) == (3, 60, f"random tokens 3x20, seed {seed}")
    assert seen[0] == seen[1] != seen[2]


def test_a_merge_takes_the_file_and_no_other_base(base: Path, tmp_path: Path) -> None:
    """From the command's file to scaled bytes: the busiest channel keeps omega of its delta, embeddings all of it."""
    tensors = read_folder(base)
    config = json.loads((base / "config.json").read_text())
    expert = write_folder(tmp_path / "expert", tuned(tensors, 5, 0.05), config)
    make_statistics(base, tmp_path / "s.safetensors", kind="aim", random_tokens=(8, 32))
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": base,
        "models": [{"model": expert, "parameters": {"weight": 1.0}}],
        "scaling": {"kind": "aim", "statistics": tmp_path / "s.safetensors", "omega": 0.25},
    }
    merge(write_recipe(tmp_path / "r.yml", recipe), tmp_path / "out")
    values = read_statistics(tmp_path / "s.safetensors").values
    moved, written = read_folder(expert), read_folder(tmp_path / "out")
    for name, tensor in written.items():
        delta = moved[name].float64 - tensors[name].float64
        kept = tensor.float64 - tensors[name].float64
        if name not in values:
            assert np.allclose(kept, delta, atol=1e-6), name
            continue
        channel = int(values[name].argmax())
        assert np.allclose(kept[:, channel], 0.25 * delta[:, channel], atol=1e-6), name
        assert np.abs(kept).sum() > 0.25 * np.abs(delta).sum()
    assert len(values) == 14, "a tied head is stored as embeddings, which are left alone"
    recipe["base_model"], recipe["models"] = expert, [{"model": base, "parameters": {"weight": 1.0}}]
    with pytest.raises(UserError, match=r"was made for another model, 'base'; the base is 'expert'"):
        merge(write_recipe(tmp_path / "r.yml", recipe), tmp_path / "other")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "amm"}, "--kind amm: unknown; did you mean 'aim'"),
        ({"kind": "aim"}, "--kind aim needs --data"),
        ({"kind": "aim", "random_tokens": (2, 9), "data": Path("x")}, "exclude each other"),
        ({"kind": "aim", "random_tokens": (2, 9), "seed": -1}, "--seed -1"),
        ({"kind": "aim", "random_tokens": (2, 1000)}, "the model's context is 128 tokens"),
        ({"kind": "aim", "random_tokens": (2, 9), "dtype": "float23"}, "there is no dtype 'float23'; did you mean 'float32'"),
        ({"kind": "aim", "data": Path("nowhere.jsonl")}, "nowhere.jsonl: there is no such file"),
        ({"kind": "aim", "random_tokens": (2, 9), "out": "s.bin"}, "a .safetensors file"),
        ({"kind": "aim", "random_tokens": (2, 9), "out": "no/s.safetensors"}, "there is no folder"),
        ({"kind": "aim", "random_tokens": (2, 9), "model": "nowhere/at/all"}, "nowhere/at/all"),
    ],
)
def test_what_cannot_be_done_is_said(base: Path, tmp_path: Path, options: dict[str, Any], words: str) -> None:
    asked = {"model": base, "out": "s.safetensors"} | options
    with pytest.raises(UserError) as caught:
        make_statistics(asked.pop("model"), tmp_path / asked.pop("out"), **asked)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_chats_need_a_template_and_rows_a_token(reader: Path, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    data = rows(tmp_path / "d.jsonl", {"text": "one"}, {"messages": messages})
    with pytest.raises(UserError, match=r"d\.jsonl:2: a chat, and reader has no chat template; give rows of 'text'"):
        make_statistics(reader, tmp_path / "s.safetensors", kind="aim", data=data)
    rows(data, {"text": "one"}, {"text": " "})
    with pytest.raises(UserError, match=r"d\.jsonl:2: holds no token"):
        make_statistics(reader, tmp_path / "s.safetensors", kind="aim", data=data)


def test_a_model_is_not_overwritten(base: Path) -> None:
    weights = base / "model.safetensors"
    before = weights.read_bytes()
    with pytest.raises(UserError, match="is there and holds no statistics; it is not overwritten"):
        make_statistics(base, weights, kind="fisher")
    assert weights.read_bytes() == before


@pytest.mark.parametrize(("text", "wanted"), [("8x64", (8, 64)), (" 2 × 3 ", (2, 3))])
def test_random_tokens_are_read(text: str, wanted: tuple[int, int]) -> None:
    assert read_random_tokens(text) == wanted


@pytest.mark.parametrize("text", ["8", "0x9", "8x1", "-1x9", "8x64x2", "axb", ""])
def test_random_tokens_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match="write sequences x tokens"):
        read_random_tokens(text)


def test_the_command(base: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(statistics_command)
    line = [str(base), str(tmp_path / "s.safetensors"), "--kind", "fisher", "--random-tokens", "2x9", "--seed", "3"]
    told = CliRunner().invoke(app, [*line, "--json"], catch_exceptions=False)
    found = json.loads(told.stdout)
    assert found["kind"] == "fisher" and found["tokens"] == 18 and found["tensors"] == len(read_folder(base))
    told = CliRunner().invoke(app, line, catch_exceptions=False)
    assert "statistics of 26 tensors" in told.stdout and "fisher" in told.stdout
