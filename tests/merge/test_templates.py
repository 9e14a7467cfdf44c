"""The chat template of a result: chosen, written where transformers reads it, and checked before anything is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modist.errors import RecipeError
from modist.merge import merge as merge_models
from modist.merge.manifest import read_manifest
from modist.merge.plan import check_recipe
from modist.recipe import load_recipe
from modist.vocabulary.chat_template import named_template
from tests.merge.test_tokenizers import model, recipe
from tests.tiny_models import write_recipe
from tests.vocabulary.tiny_tokenizers import CONFIG, words

OWN = "{% for m in messages %}{{ m.content }};{% endfor %}"


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """Models of one vocabulary with the templates A, B and B, kept in three places."""
    made = [model(tmp_path / name, words(["a", "b"], ["<|im_start|>", "<|im_end|>"]), seed) for seed, name in enumerate("xyz")]
    (made[0] / "chat_template.jinja").write_text("A{{ messages }}")
    (made[1] / "chat_template.jinja").write_text("B{{ messages }}\n")
    (made[2] / "tokenizer_config.json").write_text(json.dumps({**CONFIG, "chat_template": "B{{ messages }}"}))
    (made[0] / "chat_template.json").write_text(json.dumps({"chat_template": "an older form"}))
    return made


def template(folder: Path) -> str:
    transformers = pytest.importorskip("transformers")
    found = transformers.AutoTokenizer.from_pretrained(folder).chat_template
    assert isinstance(found, str)
    return found


@pytest.mark.parametrize(
    ("asked", "expected"),
    [(None, "A{{ messages }}"), ("auto", "B{{ messages }}"), ("chatml", named_template("chatml")), (OWN, OWN)],
)
def test_what_is_asked_for_is_what_loads(
    asked: str | None, expected: str, three: list[Path], merge: Callable[..., Path]
) -> None:
    rest = {} if asked is None else {"chat_template": asked}
    out = merge(recipe(three, (0.2, 0.3, 0.5), **rest))
    assert template(out) == expected and (out / "chat_template.jinja").read_text() == expected
    assert (out / "chat_template.json").exists() == (asked is None)


def test_the_template_in_the_config_gives_way(three: list[Path], merge: Callable[..., Path]) -> None:
    out = merge(recipe(three[::-1], (0.2, 0.3, 0.5), chat_template="chatml"))
    config = json.loads((out / "tokenizer_config.json").read_text())
    assert "chat_template" not in config and config["eos_token"] == "</s>" and template(out) == named_template("chatml")


def test_of_templates_equally_common_the_donors(three: list[Path], merge: Callable[..., Path]) -> None:
    assert template(merge(recipe(three[:2], chat_template="auto"), "one")) == "A{{ messages }}"
    assert template(merge(recipe(three[1::-1], chat_template="auto"), "two")) == "B{{ messages }}"


def test_the_comparison_tells_whose_it_is(three: list[Path], tmp_path: Path) -> None:
    report = merge_models(
        write_recipe(tmp_path / "r.yml", recipe(three, (0.2, 0.3, 0.5), chat_template="auto")), tmp_path / "out"
    )
    aspect = next(aspect for aspect in report.comparison if aspect.name == "template")
    assert aspect.reason == "the result carries the most common, of y and z"


def test_remarks(three: list[Path], merge: Callable[..., Path]) -> None:
    def warnings(out: Path) -> str:
        manifest: dict[str, Any] | None = read_manifest(out)
        assert manifest is not None
        return " ".join(manifest["warnings"])

    assert "writes" not in warnings(merge(recipe(three, (0.2, 0.3, 0.5), chat_template="chatml"), "known"))
    llama3 = warnings(merge(recipe(three, (0.2, 0.3, 0.5), chat_template="llama3"), "unknown"))
    assert "chat_template: the template writes <|start_header_id|>, <|end_header_id|>, <|eot_id|>, which the result's" in llama3
    for folder in three:
        for name in ("chat_template.jinja", "chat_template.json"):
            (folder / name).unlink(missing_ok=True)
        (folder / "tokenizer_config.json").write_text(json.dumps(CONFIG))
    out = merge(recipe(three, (0.2, 0.3, 0.5), chat_template="auto"), "none")
    assert "no parent has a chat template" in warnings(out) and not (out / "chat_template.jinja").exists()


def test_a_template_with_a_union(tmp_path: Path, merge: Callable[..., Path]) -> None:
    """The tokens that the template needs come from another parent."""
    one = model(tmp_path / "one", words(["a"]), 1)
    two = model(tmp_path / "two", words(["a"], ["<|im_start|>", "<|im_end|>"]), 2)
    out = merge(recipe([one, two], tokenizer_source="union", chat_template="chatml"))
    manifest = read_manifest(out)
    assert manifest is not None and "writes" not in " ".join(manifest["warnings"])
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], return_dict=True)["input_ids"]
    assert {5, 4} < set(ids) or {tokenizer.convert_tokens_to_ids(text) for text in ("<|im_start|>", "<|im_end|>")} <= set(ids)


@pytest.mark.parametrize("asked", ["chatlm", "{{ messages", "{{ messages | shout }}"])
def test_errors_name_the_line_before_any_model_is_looked_at(asked: str, tmp_path: Path) -> None:
    """`modist recipe check` says so too."""
    (tmp_path / "a").mkdir()
    path = write_recipe(tmp_path / "r.yml", recipe([tmp_path / "a"], (1,), chat_template=asked))
    with pytest.raises(RecipeError, match=r"r\.yml:6: chat_template: "):
        check_recipe(load_recipe(path))
    with pytest.raises(RecipeError, match=r"r\.yml:6: chat_template: "):
        merge_models(path, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))
