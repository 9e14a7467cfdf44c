"""`modist search merge` on the demo's experts: what it writes is what it found, stopped or not, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modist.errors import ModistError
from modist.mixture.load import load_model, load_tokenizer
from modist.search import candidate
from modist.search.likelihood_metric import Likelihood
from tests.cli.mixtures import GENERAL, MATH, ROOT, Modist
from tests.tiny_models import read_folder, write_recipe

pytest.importorskip("cma")
QUESTIONS = ROOT / "examples" / "experts" / "questions"
ROWS = (QUESTIONS / "answers.dev.jsonl").read_text(encoding="utf-8").splitlines()
BASE = ROOT / "examples" / "experts" / "base"


@pytest.fixture
def modist(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Modist:
    monkeypatch.chdir(tmp_path)
    return Modist(monkeypatch, capsys)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(ROWS[:16]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    made = {
        "merge_method": "task_arithmetic",
        "base_model": BASE,
        "models": [
            {"model": GENERAL, "parameters": {"weight": 0.5}},
            {"model": MATH, "parameters": {"weight": 0.5}},
        ],
        "dtype": "bfloat16",
    }
    return write_recipe(tmp_path / "ta.yml", made)


def of(found: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [mark for mark in found["others"] if mark["kind"] == kind]


def test_what_is_written_is_what_was_found(modist: Modist, tmp_path: Path, recipe: Path, data: Path) -> None:
    words = ("search", "merge", recipe, "--metric", f"likelihood:{data}", "--budget", 9, "--device", "cpu", "--threads", 1)
    found = modist.json(*words, "--out", "a", "--picture", "p.png", "--merge", "--seed", 1)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "lock",
        "model",
        "recipe.yml",
        "report.json",
        "search.jsonl",
    ]
    assert json.loads((tmp_path / "a" / "report.json").read_text()) == found
    assert [gene["label"] for gene in found["genes"]] == ["weight of general", "weight of math"]
    assert (found["candidates"], found["random_candidates"], found["method"]) == (9, 9, "task_arithmetic")
    assert [len(of(found, kind)) for kind in ("start", "random", "parent")] == [1, 1, 3]
    assert 1 <= len(of(found, "finalist")) <= 2
    (start,) = of(found, "start")
    assert found["best"]["first"] > start["first"] and found["best"]["second"] is not None
    assert [mark["name"] for mark in of(found, "parent")] == ["general", "math", "base"]
    assert any("on the second split" in line for line in found["findings"])
    # The very numbers, by another way: the written merge, loaded from disk, on the same halves of the data.
    from modist.search.part import Part

    alone = Likelihood(data, part=Part(0, 2)), Likelihood(data, part=Part(1, 2))
    for folder, mark in ((tmp_path / "a" / "model", found["best"]), (MATH, of(found, "parent")[1])):
        model, tokenizer = load_model("merge", folder, dtype="float32"), load_tokenizer(folder)
        assert [metric(model, tokenizer) for metric in alone] == pytest.approx([mark["first"], mark["second"]], abs=1e-9)
    assert (
        (tmp_path / "a" / "recipe.yml")
        .read_text()
        .startswith(f"# Found by modist search merge: candidate {found['best']['candidate']}")
    )
    status, _, _ = modist("merge", "a/recipe.yml", "b")
    assert status == 0
    one, two = read_folder(tmp_path / "a" / "model"), read_folder(tmp_path / "b")
    assert all(one[name].bits.tobytes() == tensor.bits.tobytes() for name, tensor in two.items())
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


class Dying(Likelihood):
    """Ctrl-C at the nth model."""

    left = 0

    def __call__(self, model: Any, tokenizer: Any) -> float:
        Dying.left -= 1
        if Dying.left < 0:
            raise KeyboardInterrupt
        return super().__call__(model, tokenizer)


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Dying]]:
    from modist.search import likelihood_metric

    monkeypatch.setattr(likelihood_metric, "Likelihood", Dying)
    yield Dying
    Dying.left = 0


def test_stopped_and_given_again(
    modist: Modist, recipe: Path, data: Path, dying: type[Dying], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("search", "merge", recipe, "--metric", f"likelihood:{data}", "--budget", 5, "--device", "cpu", "--threads", 1)
    dying.left = 10**6
    whole = modist.json(*words, "--out", "whole")
    # Among the parents, in the first generation, in the second split.
    for left in (1, 7, 9):
        dying.left = left
        status, out, err = modist(*words, "--out", "a")
        assert (status, out) == (130, "") and err.endswith("the same command goes on from what is scored\n"), left
    dying.left = 10**6
    again = modist.json(*words, "--out", "a")
    for key in ("genes", "best", "others", "recipe", "findings"):
        assert again[key] == whole[key], key
    # With all scores there, no model is loaded.
    monkeypatch.setattr(candidate, "live_model", None)
    dying.left = 0
    assert modist.json(*words, "--out", "a")["best"] == whole["best"]


def test_a_metric_that_gives_nan_is_named(modist: Modist, recipe: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Likelihood, "__call__", lambda self, model, tokenizer: float("nan"))
    words = ("search", "merge", recipe, "--metric", f"likelihood:{data}", "--out", "a", "--no-parents", "--device", "cpu")
    status, out, err = modist(*words)
    assert status in (1, 2) and not out
    assert f"likelihood:{data}: gives nan" in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--budget", 0), "--budget 0: a search needs at least 1 candidate"),
        (("--bounds", "weight=0.6:1"), "the recipe's weight of general is 0.5, outside the bounds, 0.6 to 1"),
        (("--start", "weight=2"), "--start weight=2: lies outside the bounds"),
        (("--population", 1), "--population 1: a generation needs at least 2"),
        (("--genes", "lamda"), "did you mean 'lambda'?"),
        (("--modules", "mpl"), "did you mean 'mlp'?"),
        (("--layer-blocks", "few"), "--layer-blocks few: write a number of layers, or all"),
        (("--workers", 2), "--workers belongs to --ray"),
        (("--second", "likelihood:x", "--no-second"), "exclude each other"),
        (("--picture", "p.gif"), "--picture"),
        (("--dtype", "float23"), "float23"),
        (("--allow", "ropes"), "--allow ropes: unknown; did you mean 'rope'?"),
    ],
)
def test_bad_flags(modist: Modist, tmp_path: Path, recipe: Path, data: Path, flags: tuple[Any, ...], said: str) -> None:
    err = modist.refused("search", "merge", recipe, "--metric", f"likelihood:{data}", "--out", "a", *flags)
    assert said in err
    assert not (tmp_path / "a" / "search.jsonl").exists()


def test_data_that_cannot_be_fitness(modist: Modist, tmp_path: Path, recipe: Path, data: Path) -> None:
    line = ("search", "merge", recipe, "--out", "a")
    assert "no metric: give at least one" in modist.refused(*line)
    assert "says not on what" in modist.refused(*line, "--metric", "accuracy")
    assert "math" in modist.refused(*line, "--metric", f"accuracy:{QUESTIONS / 'math.yml'}")
    assert "there is no such file" in modist.refused(*line, "--metric", "likelihood:nothing.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    assert "no rows" in modist.refused(*line, "--metric", "likelihood:empty.jsonl")
    (tmp_path / "one.jsonl").write_text(ROWS[0] + "\n")
    assert "too few rows to make 2 parts of" in modist.refused(*line, "--metric", "likelihood:one.jsonl")
    same = modist.refused(*line, "--metric", f"likelihood:{data}", "--second", f"likelihood:{data}")
    assert "data.jsonl" in same
    assert not (tmp_path / "a").exists()


def test_recipes_and_folders_that_will_not_do(modist: Modist, tmp_path: Path, recipe: Path, data: Path) -> None:
    metric = ("--metric", f"likelihood:{data}")
    assert "there is no such recipe" in modist.refused("search", "merge", "nothing.yml", *metric)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    assert "was not made by modist search" in modist.refused("search", "merge", recipe, *metric, "--out", "full")
    status, _, err = modist("search", "merge", recipe, *metric, "--out", "a", "--budget", 1, "--no-parents", "--no-second")
    assert status == 0, err
    other = modist.refused("search", "merge", recipe, *metric, "--out", "a", "--seed", 5, "--no-second")
    assert "holds another search (seed was 0, is 5)" in other
    (tmp_path / "data.jsonl").write_text("\n".join(ROWS[:17]) + "\n")
    changed = modist.refused("search", "merge", recipe, *metric, "--out", "a", "--no-second")
    assert "first data was" in changed or "first data has changed" in changed


def test_words_for_people(modist: Modist, tmp_path: Path, recipe: Path, data: Path) -> None:
    words = ("search", "merge", recipe, "--metric", f"likelihood:{data}", "--budget", 3, "--finalists", 1, "--no-parents")
    status, out, err = modist(*words, "--device", "cpu", "--modules", "mlp")
    assert status == 0
    for said in (
        "the merge found",
        "the starting recipe",
        "the best at random",
        "second split",
        "weight of math, mlp:",
        "modist merge",
    ):
        assert said in out, said
    assert "of 5 candidates, searching: best" in err and "random search: best" in err
    assert (tmp_path / "ta.search" / "recipe.yml").exists()


def test_no_search_beside_a_start_that_is_never_beaten() -> None:
    """Said plainly where searching did not help."""
    from types import SimpleNamespace

    from modist.search.evolve import Outcome
    from modist.search.found import Found, Mark
    from modist.search.journal import Entry

    best = Entry("cma", 3, (0.5,), 0.6)
    marks = (
        Mark("the merge found", "best", 0.6, 0.5, 3),
        Mark("the starting recipe", "start", 0.55, 0.52, 0),
        Mark("one", "parent", 0.4, 0.4),
        Mark("two", "parent", 0.5, 0.5),
    )
    genome: Any = SimpleNamespace(genes=(SimpleNamespace(label="t"),))
    found = Found(genome, "accuracy", marks, Outcome("cma", (best,)), None, "")
    assert found.findings() == [
        "the merge found scores below the starting recipe on the second split: 0.5 against 0.52",
        "the merge found scores as the best parent, two, on the second split: 0.5 against 0.5",
        "it scored 0.6 on the split it was chosen on, 0.1 more than on the second: the second is what it is worth",
    ]
    alone = Found(genome, "accuracy", (Mark("the merge found", "best", 0.6, None, 3),), Outcome("cma", (best,)), None, "")
    assert alone.findings()[-1].startswith("it was chosen on the split it is scored on, which flatters it")


@pytest.mark.full
def test_on_ray(modist: Modist, recipe: Path, data: Path) -> None:
    pytest.importorskip("ray")
    words = ("search", "merge", recipe, "--metric", f"likelihood:{data}", "--budget", 6, "--device", "cpu", "--threads", 1)
    here = modist.json(*words, "--out", "here")
    there = modist.json(*words, "--out", "there", "--ray", "local", "--workers", 2)
    assert there["genes"] == here["genes"]
    assert there["best"]["first"] == pytest.approx(here["best"]["first"], abs=1e-6)


def test_a_failed_candidate_keeps_what_is_scored(modist: Modist, tmp_path: Path, recipe: Path, data: Path) -> None:
    calls = []

    def failing(self: Any, model: Any, tokenizer: Any) -> float:
        calls.append(1)
        if len(calls) > 4:
            raise ModistError("the machine is on fire")
        return -1.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Likelihood, "__call__", failing)
        words = ("search", "merge", recipe, "--metric", f"likelihood:{data}", "--out", "a", "--no-parents", "--device", "cpu")
        status, out, err = modist(*words)
    assert (status, out) == (1, "") and err.splitlines()[-1] == "modist: error: the machine is on fire"
    assert len((tmp_path / "a" / "search.jsonl").read_text().splitlines()) == 1 + 4
