"""Who descends from whom."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from modist.inspection import Inspection, inspect_models
from tests.tiny_models import (
    Tensor,
    Trio,
    encode,
    llama_shapes,
    random_tensors,
    read_folder,
    tuned,
    write_folder,
)


def kinds(found: Inspection) -> list[str]:
    return [verdict.kind for verdict in found.verdicts]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_stories_is_the_ancestor_in_any_order(order: tuple[int, ...], stories: Callable[[str], Path]) -> None:
    folders = [stories(""), stories("-ft-gsm8k"), stories("-ft-grimm")]
    found = inspect_models([folders[place] for place in order])
    (verdict,) = found.verdicts
    assert (verdict.kind, verdict.ancestor) == ("ancestor", "stories260K")
    assert found.base == "stories260K"
    assert ("comes first" in found.base_reason) == (order[0] != 0)


def test_babyllama_is_unrelated(stories: Callable[[str], Path], babyllama: Path) -> None:
    found = inspect_models([babyllama, stories("-ft-grimm"), stories(""), stories("-ft-gsm8k")])
    assert kinds(found) == ["ancestor", "unrelated"]
    assert found.base == "stories260K"
    assert found.verdicts[1].text.startswith("babyllama-tok105 is unrelated to stories260K-ft-grimm, ")
    (verdict,) = inspect_models([babyllama, stories("")]).verdicts
    assert verdict.text == "babyllama-tok105 and stories260K are unrelated"
    assert "share no tensor" in verdict.evidence[0]


def test_two_fine_tunes_do_not_tell_which_came_first(stories: Callable[[str], Path]) -> None:
    (verdict,) = inspect_models([stories(""), stories("-ft-grimm")]).verdicts
    assert verdict.kind == "fine-tune" and verdict.ancestor is None
    found = inspect_models([stories(""), stories("-ft-grimm")], base=stories("-ft-grimm"))
    assert found.verdicts[0].ancestor == found.base == "stories260K-ft-grimm"


def test_a_card_tells_which_came_first(make: Callable[..., Path]) -> None:
    base, child = make("base"), make("child", seed=1, noise=0.01)
    (child / "README.md").write_text("---\nbase_model: someone/Base\n---\n# child\n")
    found = inspect_models([child, base])
    assert found.verdicts[0].text == "child is a fine-tune of base"
    assert found.base == "base"


def test_random_models_of_one_shape_are_unrelated(make: Callable[..., Path]) -> None:
    """Norm weights are alike in all models; the verdict rests on matrices."""
    folders = []
    for seed in range(3):
        tensors = random_tensors(llama_shapes(), seed)
        ones = {n: encode(np.ones(t.bits.shape), "BF16") if t.bits.ndim == 1 else t for n, t in tensors.items()}
        folders.append(make(f"model{seed}", ones))
    found = inspect_models(folders)
    assert kinds(found) == ["unrelated"]
    assert found.verdicts[0].text == "model0, model1 and model2 are unrelated"
    assert found.base == "model0"


def test_two_families(make: Callable[..., Path]) -> None:
    a, b = random_tensors(llama_shapes(), 1), random_tensors(llama_shapes(), 2)
    folders = [make("a", a), make("b", b), make("a1", a, seed=3, noise=0.02), make("b1", b, seed=4, noise=0.02)]
    found = inspect_models(folders)
    assert kinds(found) == ["fine-tune", "fine-tune", "unrelated"]
    assert found.verdicts[2].text == "b and b1 are unrelated to a and a1"


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_uneven_fine_tunes(order: tuple[int, ...], trio: Trio) -> None:
    """One tune is five times nearer to the base than the other."""
    found = inspect_models([trio.folders[place] for place in order])
    assert found.verdicts[0].ancestor == found.base == "base"


def test_a_tune_that_hardly_moved_cannot_be_told_from_its_base(make: Callable[..., Path]) -> None:
    found = inspect_models([make("base"), make("near", seed=1, noise=0.005), make("far", seed=2, noise=0.2)])
    assert kinds(found) == ["related"] and "cannot be told" in found.verdicts[0].text


def test_siblings_without_their_ancestor(make: Callable[..., Path]) -> None:
    found = inspect_models([make(f"tune{k}", seed=k, noise=0.05) for k in (1, 2, 3)])
    assert kinds(found) == ["common ancestor"]
    assert found.base == "tune1" and found.base_reason.startswith("the first model")


def test_copies_are_told_and_judged_once(make: Callable[..., Path]) -> None:
    base, one, two = make("base"), make("one", seed=1, noise=0.05), make("two", seed=2, noise=0.05)
    found = inspect_models([one, make("copy"), base, two])
    assert kinds(found) == ["identical", "ancestor"]
    assert found.verdicts[0].models == ("copy", "base") and found.base == "copy"


def _mixed(make: Callable[..., Path], choose: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> list[Path]:
    tensors = random_tensors(llama_shapes(), 0, "F32")
    one, two = tuned(tensors, 1, 0.05), tuned(tensors, 2, 0.05)
    merged = {name: encode(choose(one[name].float64, two[name].float64), "F32") for name in tensors}
    return [make("merged", merged), make("one", one), make("base", tensors), make("two", two)]


def test_an_average_is_no_ancestor(make: Callable[..., Path]) -> None:
    found = inspect_models(_mixed(make, lambda one, two: (one + two) / 2))
    assert kinds(found) == ["merge", "ancestor"]
    assert found.verdicts[0].text == "merged lies between one and two, as their average does"
    assert found.base == "base"


def test_a_selection_of_elements_is_no_ancestor(make: Callable[..., Path]) -> None:
    """The deltas of its parents never meet, so their cosine is 0, as those of two tunes nearly is."""
    draw = np.random.default_rng(0)
    folders = _mixed(make, lambda one, two: np.where(draw.random(one.shape) < 0.7, one, two))
    assert kinds(inspect_models(folders)) == ["merge", "ancestor"]
    found = inspect_models([folders[0], folders[1], folders[3]])
    assert kinds(found) == ["merge", "fine-tune"]
    assert found.base == "merged" and "nothing shows another" in found.base_reason


def test_adapters_of_different_modules_are_no_selection(make: Callable[..., Path]) -> None:
    tensors = random_tensors(llama_shapes(), 0, "F32")
    moved = tuned(tensors, 1, 0.05)
    one = {name: moved[name] if "self_attn" in name else tensor for name, tensor in tensors.items()}
    two = {name: moved[name] if "mlp" in name else tensor for name, tensor in tensors.items()}
    found = inspect_models([make("one", one), make("base", tensors), make("two", two)])
    assert found.verdicts[0].kind == "ancestor" and found.base == "base"


def test_a_manifest_excludes_a_merge(make: Callable[..., Path]) -> None:
    """The sum of two deltas closes a parallelogram: by the weights alone it could be the ancestor."""
    tensors = random_tensors(llama_shapes(), 0, "F32")
    one, two = tuned(tensors, 1, 0.05), tuned(tensors, 2, 0.05)
    total = {n: encode(one[n].float64 + two[n].float64 - tensors[n].float64, "F32") for n in tensors}
    folders = [make("sum", total), make("one", one), make("base", tensors), make("two", two)]
    assert "cannot be told" in inspect_models(folders).verdicts[0].text
    parents = [{"name": name} for name in ("one", "two", "base")]
    manifest = {"versions": {"modist": "0.1.0"}, "method": "task_arithmetic", "seed": 0, "parents": parents}
    (folders[0] / "modist_manifest.json").write_text(json.dumps(manifest))
    found = inspect_models(folders)
    assert kinds(found) == ["merge", "ancestor"]
    assert found.verdicts[0].text == "sum is a merge of one, two and base" and found.base == "base"


def test_a_stated_base_stands_and_the_evidence_is_told(trio: Trio) -> None:
    found = inspect_models(trio.folders, base=trio.two)
    assert found.base == "two" and "the evidence points to base" in found.base_reason
    assert [delta.model for delta in found.deltas] == ["base", "one"]
    added = inspect_models([trio.one, trio.two], base=trio.base)
    assert [model.name for model in added.models] == ["base", "one", "two"] and added.base == "base"


def test_folders_of_one_name_are_told_apart(trio: Trio, tmp_path: Path) -> None:
    twin = write_folder(tmp_path / "deep" / "base", read_folder(trio.one))
    found = inspect_models([trio.base, twin])
    assert [model.name for model in found.models] == [str(trio.base), str(twin)]


def test_different_architectures(make: Callable[..., Path]) -> None:
    gpt = {
        "wte.weight": encode(np.ones((8, 4)), "F32"),
        "h.0.attn.c_attn.weight": encode(np.ones((4, 12)), "F32"),
    }
    folder = make("gpt", gpt)
    (folder / "config.json").write_text(json.dumps({"architectures": ["GPT2LMHeadModel"], "n_layer": 1}))
    found = inspect_models([make("llama"), folder])
    assert kinds(found) == ["unrelated"]
    assert found.deltas == () and found.kinships == ()
    assert {a.name for a in found.comparison if a.gravity != "same"} >= {"architecture", "parameters"}


def test_adding_a_stranger_keeps_the_others_kinship(trio: Trio, make: Callable[..., Path]) -> None:
    stranger = make("stranger", {"other.weight": Tensor("F32", np.ones((3, 3), np.float32))})
    alone, beside = inspect_models(trio.folders), inspect_models([*trio.folders, stranger])
    assert beside.kinships == alone.kinships
    assert beside.compared == 0
