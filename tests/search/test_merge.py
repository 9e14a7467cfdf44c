"""`search_merge`, called from Python: the demo's experts, a few candidates by likelihood."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modist.errors import UserError
from modist.merge import merge
from modist.search.candidate import live_model
from modist.search.evolve import Watch
from modist.search.found import SECOND
from modist.search.journal import Entry, Journal
from modist.search.merge import search_merge
from modist.search.parents import Parents
from modist.search.settings import SearchSettings
from modist.search.splits import Splits
from tests.tiny_models import write_recipe

pytest.importorskip("cma")
pytest.importorskip("torch")
EXPERTS = Path(__file__).parents[2] / "examples" / "experts"
ROWS = (EXPERTS / "questions" / "answers.dev.jsonl").read_text(encoding="utf-8").splitlines()


@pytest.fixture
def metric(tmp_path: Path) -> str:
    (tmp_path / "data.jsonl").write_text("\n".join(ROWS[:12]) + "\n", encoding="utf-8")
    return f"likelihood:{tmp_path / 'data.jsonl'}"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    models = [{"model": EXPERTS / name, "parameters": {"weight": 0.5}} for name in ("general", "math")]
    return write_recipe(tmp_path / "linear.yml", {"merge_method": "linear", "models": models, "dtype": "bfloat16"})


def test_found_written_and_gone_on_with(tmp_path: Path, recipe: Path, metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SearchSettings(budget=5, layer_blocks=2, seed=2)
    told: list[Entry] = []

    def begin(journal: Journal) -> Watch:
        return lambda entry, done, best: told.append(entry)

    found = search_merge(recipe, metric, tmp_path / "a", settings, device="cpu", threads=1, parents=False, begin=begin)
    # The start belongs to both searches and is scored once.
    assert len(told) == 5 + 5 and len(found.evolved.candidates) == 5
    assert (tmp_path / "a" / "recipe.yml").read_text(encoding="utf-8").endswith(found.recipe)
    assert json.loads((tmp_path / "a" / "report.json").read_text(encoding="utf-8"))["best"]["second"] == found.best.second
    # Another way to the same number: the recipe merged to disk, scored on the half that nothing was chosen on.
    merge(tmp_path / "a" / "recipe.yml", tmp_path / "model")
    from modist.checkpoint import Checkpoint

    model, tokenizer = live_model(Checkpoint.open(tmp_path / "model"), "cpu", "float32", "float32")
    assert Splits([metric]).metrics[SECOND](model, tokenizer) == pytest.approx(found.best.second, abs=1e-9)
    # All is there, so nothing is loaded.
    monkeypatch.setattr("modist.search.candidate.live_model", None)
    said: list[str] = []
    again = search_merge(recipe, metric, tmp_path / "a", settings, device="cpu", threads=1, parents=False, say=said.append)
    assert again.marks == found.marks and again.recipe == found.recipe
    assert any("going on with a search that has" in line for line in said)


def test_splits_share_no_question(metric: str, tmp_path: Path) -> None:
    splits = Splits([metric])
    one, two = ({sample.place for sample in each.samples()} for each in splits.metrics.values())
    assert not one & two and len(one | two) == 12
    with pytest.raises(UserError, match="exclude each other"):
        Splits([metric], [metric], hold_out=False)
    with pytest.raises(UserError, match=r"data\.jsonl"):
        Splits([metric], [metric])
    assert list(Splits([metric], hold_out=False).metrics) == ["first"]


def test_parents_are_held_one_at_a_time(recipe: Path, metric: str) -> None:
    from modist.search.genes import open_genome

    genome = open_genome(recipe)
    parents = Parents(genome, dict(Splits([metric]).metrics), device="cpu")
    scores = [parents(index, split) for index in (0, 1) for split in ("first", "second")]
    assert len(set(scores)) == 4 and all(score < 0 for score in scores)
    held = parents._held
    assert held is not None and held[0] == 1
    parents.close()
    assert parents._held is None
