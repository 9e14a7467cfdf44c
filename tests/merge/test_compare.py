"""The parents side by side: what stops a merge, what is a note, and the flag that goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from modist.errors import UserError
from modist.merge import merge, prepare
from modist.merge.compare import refuse, rope_parameters, short_number
from tests.tiny_models import Trio, plain_trio

PAPER = Path(__file__).parents[2] / "examples" / "paper" / "1.5B"


@pytest.fixture
def parents(tmp_path: Path) -> Trio:
    return plain_trio(tmp_path / "trio")


def change(folder: Path, **keys: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    config.update(keys)
    config = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))


def paper(name: str, trio: Trio, tmp_path: Path) -> Path:
    """One of the paper's configurations, verbatim but for the models and the number of layers."""
    text = (PAPER / f"{name}.yml").read_text()
    layers = sum("mlp.up_proj" in line for line in json.dumps(sorted(prepare_names(trio.one))).split(","))
    text = text.replace("Qwen/Qwen2.5-1.5B-Instruct", str(trio.one)).replace("Qwen/Qwen2.5-Math-1.5B-Instruct", str(trio.two))
    path = tmp_path / f"{name}.yml"
    path.write_text(text.replace("[0, 28]", f"[0, {layers}]"))
    return path


def prepare_names(folder: Path) -> list[str]:
    from modist.checkpoint import Checkpoint

    return list(Checkpoint.open(folder).tensors)


@pytest.mark.parametrize("name", ["linear", "dare", "ties", "task_arithmetic", "slerp"])
def test_configurations_2_to_6_stop_at_qwens_rope(name: str, parents: Trio, tmp_path: Path) -> None:
    change(parents.one, rope_theta=1e6, rope_parameters=None, max_position_embeddings=32768)
    change(parents.two, rope_theta=1e4, rope_parameters=None, max_position_embeddings=4096)
    recipe = paper(name, parents, tmp_path)
    with pytest.raises(UserError, match=r"1e6.*1e4.*--allow rope$"):
        merge(recipe, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))
    merge(recipe, tmp_path / "out", allow=["rope"])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["rope_theta"] == 1e6


def test_configuration_1_runs_and_says_so_in_a_note(parents: Trio, tmp_path: Path) -> None:
    change(parents.two, rope_theta=1e6, rope_parameters=None, max_position_embeddings=4096)
    report = merge(paper("mod", parents, tmp_path), tmp_path / "out")
    notes = {aspect.name: aspect for aspect in report.comparison}
    assert notes["rope"].gravity == "note" and "no attention" in notes["rope"].reason


def test_context_alone_is_its_own_flag(parents: Trio, tmp_path: Path) -> None:
    change(parents.two, max_position_embeddings=99)
    with pytest.raises(UserError, match=r"--allow context$"):
        merge(paper("linear", parents, tmp_path), tmp_path / "out")


def test_attention_left_alone_by_a_filter_is_no_error(parents: Trio, tmp_path: Path) -> None:
    change(parents.two, max_position_embeddings=99)
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": str(parents.one),
        "models": [
            {
                "model": str(parents.two),
                "parameters": {"weight": [{"filter": "mlp", "value": 0.5}, {"value": 0}]},
            }
        ],
    }
    path = tmp_path / "r.yml"
    path.write_text(yaml.safe_dump(recipe))
    report = merge(path, tmp_path / "out")
    assert {a.name: a.gravity for a in report.comparison}["context"] == "note"


def test_the_warning_about_a_weight_that_cancels(parents: Trio, tmp_path: Path) -> None:
    for name in ("task_arithmetic", "ties"):
        report = merge(paper(name, parents, tmp_path), tmp_path / name)
        assert any("divides the weight 0.1" in text for text in report.warnings), name
    report = merge(paper("dare", parents, tmp_path), tmp_path / "dare")
    assert not any("divides the weight" in text for text in report.warnings)


def test_code_in_a_recipe_is_read_and_not_obeyed(parents: Trio, tmp_path: Path) -> None:
    report = merge(paper("mod", parents, tmp_path), tmp_path / "out")
    assert any("not obeyed" in text for text in report.warnings)


def tokenizer(folder: Path, tokens: list[str]) -> None:
    vocabulary = {token: number for number, token in enumerate(tokens)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": vocabulary, "merges": []}}))


def test_other_tokens_in_the_same_rows(parents: Trio, tmp_path: Path) -> None:
    tokenizer(parents.one, ["a", "b", "c"])
    tokenizer(parents.two, ["a", "c", "b"])
    with pytest.raises(UserError, match=r"other tokens.*--allow vocabulary"):
        merge(paper("linear", parents, tmp_path), tmp_path / "out")
    report = merge(paper("mod", parents, tmp_path), tmp_path / "out")
    assert {a.name: a.gravity for a in report.comparison}["vocabulary"] == "note"
    # Without a tokenizer in one parent there is nothing to hold against the other.
    (parents.two / "tokenizer.json").unlink()
    merge(paper("linear", parents, tmp_path), tmp_path / "linear")


def test_unknown_allowance_names_the_nearest(parents: Trio, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'rope'"):
        merge(paper("linear", parents, tmp_path), tmp_path / "out", allow=["ropes"])


def test_different_architectures_are_refused(parents: Trio, tmp_path: Path) -> None:
    change(parents.two, architectures=["MistralForCausalLM"], model_type="mistral")
    with pytest.raises(UserError, match=r"architecture.*--allow architecture"):
        merge(paper("linear", parents, tmp_path), tmp_path / "out")


def test_old_and_new_spellings_of_rope_are_one() -> None:
    old = {"rope_theta": 1e6, "rope_scaling": {"type": "yarn", "factor": 4.0}}
    new = {"rope_parameters": {"rope_theta": 1e6, "rope_type": "yarn", "factor": 4.0}}
    assert rope_parameters(old) == rope_parameters(new)
    assert rope_parameters({}) == {"rope_theta": 10000.0, "rope_type": "default"}
    assert [short_number(n) for n in (1e6, 10000.0, 500000, 1e4 + 1, 8e7)] == ["1e6", "1e4", "5e5", "10001", "8e7"]


def test_refuse_passes_what_is_allowed(parents: Trio, tmp_path: Path) -> None:
    shutil.copytree(parents.two, tmp_path / "copy")
    prepared = prepare(paper("linear", parents, tmp_path))
    refuse(prepared.aspects)
    assert {aspect.gravity for aspect in prepared.aspects} <= {"same", "note"}
