"""`modist search mixture` on the demo's experts: its figures, the recipe it writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.mixtures import GENERAL, MATH, ROOT, Modist, recipe

QUESTIONS = ROOT / "examples" / "experts" / "questions"
ROWS = (QUESTIONS / "answers.dev.jsonl").read_text(encoding="utf-8").splitlines()[:24]
GENERAL_DEV, MATH_DEV = QUESTIONS / "general.dev.yml", QUESTIONS / "math.dev.yml"


@pytest.fixture
def modist(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Modist:
    return Modist(monkeypatch, capsys)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(ROWS) + "\n", encoding="utf-8")
    return path


def test_the_demo_is_solved_and_its_recipe_is_as_good_as_told(modist: Modist, tmp_path: Path, data: Path, cache: Path) -> None:
    made, out = recipe(tmp_path, (0.9, 0.1)), tmp_path / "solved.yml"
    words = ("search", "mixture", made, "--data", data, "--cache", cache, "--dtype", "float32", "--replicates", 200)
    found = modist.json(*words, "--out", out, "--picture", tmp_path / "p.png")
    assert found["experts"] == ["general", "math"]
    assert sum(found["weights"]) == pytest.approx(1)
    # Twice as many tokens are of sums, and each expert is sure of its own.
    assert 0.15 < found["weights"][0] < 0.5
    nats = found["nats_per_token"]
    assert nats["optimum"]["fit"] < nats["optimum"]["held_out"] < nats["recipe"]["fit"]
    assert found["gain"]["held_out"]["low"] > 0
    assert {domain["name"]: domain["rows"] for domain in found["domains"]} == {"general": 12, "math": 12}
    assert found["gate"]["weights"] == pytest.approx([0.5, 0.5], abs=0.05)
    assert found["gate"]["nats_per_token"]["held_out"] < nats["optimum"]["held_out"]
    assert (found["rows"], found["folds"], found["replicates"], found["unique"]) == (24, 5, 200, True)
    assert found["gap"] <= 1e-10
    assert found["chosen"]["by"] == "likelihood"
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    # What `modist score` says of the recipes is what is told here.
    for path, expected in ((made, nats["recipe"]["fit"]), (out, nats["optimum"]["fit"])):
        scored = modist.json("score", path, data, "--dtype", "float32")
        assert scored["tokens"] == found["tokens"]
        assert scored["nats_per_token"] == pytest.approx(expected, abs=1e-5)
        for expert, told in zip(scored["experts"], nats["experts"], strict=True):
            assert expert["nats_per_token"] == pytest.approx(told["fit"], abs=1e-5)
    # A second run runs no model, and the recipe it wrote may be written again.
    again = modist.json(*words, "--out", out)
    assert set(again["scored"].values()) == {0}
    assert again["weights"] == found["weights"]
    assert again["interval"] == found["interval"]
    # With the gate's weights, and the gate under which they hold.
    modist.json(*words, "--out", out, "--choose", "gate")
    assert "for --gate bayes --discount" in out.read_text(encoding="utf-8").splitlines()[0]
    gate = found["gate"]
    flags = ("--gate", "bayes", "--discount", gate["discount"], "--stride", gate["stride"])
    scored = modist.json("score", out, data, "--dtype", "float32", *flags)
    assert scored["nats_per_token"] == pytest.approx(gate["nats_per_token"]["fit"], abs=1e-5)


def test_the_report_for_people(modist: Modist, tmp_path: Path, data: Path, cache: Path) -> None:
    words = ("--data", data, "--cache", cache, "--dtype", "float32", "--replicates", 200, "--out", tmp_path / "o.yml")
    status, out, err = modist("search", "mixture", recipe(tmp_path, (0.9, 0.1)), *words)
    assert (status, err) == (0, "")
    for part in ("the recipe's weight", "95% interval", "held out", "general alone", "is math's", "gate bayes, discount"):
        assert part in out
    assert "mixing gains" in out
    assert "24 rows are few" in out
    assert out.endswith(f"the recipe is {tmp_path / 'o.yml'}\n")


def test_one_expert_twice_and_texts(modist: Modist, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "again").symlink_to(MATH)
    lines = [json.dumps({"text": f"Question: {json.loads(row)['messages'][0]['content']}"}) for row in ROWS[:6]]
    (tmp_path / "t.jsonl").write_text("\n".join(lines), encoding="utf-8")
    made = recipe(tmp_path, (0.6, 0.4), (MATH, tmp_path / "again"))
    found = modist.json("search", "mixture", made, "--data", tmp_path / "t.jsonl", "--cache", cache, "--no-gate")
    assert found["unique"] is False
    assert found["weights"] == pytest.approx([0.5, 0.5])
    assert found["gate"] is None
    assert found["domains"] == []
    assert any("say the same of every token" in line for line in found["findings"])
    assert any("mixing does not help" in line for line in found["findings"])


def test_data_that_has_test_questions_is_told(modist: Modist, tmp_path: Path, data: Path, cache: Path) -> None:
    test = json.loads((QUESTIONS / "math.jsonl").read_text(encoding="utf-8").splitlines()[0])
    chat = [{"role": "user", "content": test["question"]}, {"role": "assistant", "content": "\\boxed{182}"}]
    with data.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"messages": chat}) + "\n")
    words = ("--data", data, "--cache", cache, "--dtype", "float32", "--no-gate", "--replicates", 20)
    found = modist.json("search", "mixture", recipe(tmp_path), *words)
    (note,) = found["notes"]
    assert note.startswith(f"{data}:25 holds math-add-000 of the test set demo-math")


def test_accuracy_is_that_of_the_mixture_at_each_weight(modist: Modist, tmp_path: Path, data: Path, cache: Path) -> None:
    made = recipe(tmp_path, (0.55, 0.45))
    asked = ("--metric", "accuracy", "-b", GENERAL_DEV, "-b", MATH_DEV, "--limit", 3, "--grid", "0.5", "--replicates", 20)
    words = ("search", "mixture", made, "--data", data, "--cache", cache, "--dtype", "float32", *asked)
    found = modist.json(*words, "--choose", "accuracy", "--out", tmp_path / "o.yml", "--picture", tmp_path / "p.svg")
    points = found["sweep"]["points"]
    assert [tuple(point["labels"]) for point in points] == [
        ("math",),
        ("likelihood",),
        (),
        ("recipe",),
        ("general",),
        ("gate",),
    ]
    by = {tuple(point["labels"]): [one["right"] for one in point["benchmarks"]] for point in points}
    assert by["math",][0] == by["general",][1] == 0
    assert by["math",][1] >= 2
    assert by["general",][0] >= 2
    assert by["gate",] == [by["general",][0], by["math",][1]]
    assert f"weights: [{found['sweep']['best']['weights'][0]:g}," in (tmp_path / "o.yml").read_text(encoding="utf-8")
    assert found["chosen"]["weights"] == found["sweep"]["best"]["weights"]
    # As `modist eval` answers the recipe itself.
    run = modist.json("eval", made, "-b", GENERAL_DEV, "-b", MATH_DEV, "--limit", 3, "--out", tmp_path / "runs")
    assert run is not None
    from modist.evaluation.results import read_results

    (folder,) = [path.parent for path in (tmp_path / "runs").rglob("plan.json")]
    results = read_results(folder)
    assert by["recipe",] == [results.right(name) for name in results.benchmarks]


# Refused, in one line, before anything is loaded


def test_what_is_refused(modist: Modist, tmp_path: Path, data: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("loaded although the command cannot be")

    monkeypatch.setattr("modist.mixture.load_experts", never)
    made = recipe(tmp_path)
    (tmp_path / "merge.yml").write_text(f"merge_method: linear\nmodels:\n  - model: {GENERAL}\n  - model: {MATH}\n")
    (tmp_path / "wrong.yml").write_text(made.read_text(encoding="utf-8").replace("weights", "wieghts"), encoding="utf-8")
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "odd.jsonl").write_text('{"text": "a b"}\n{"txt": "c"}\n')
    (tmp_path / "mine.yml").write_text("mine: true\n")
    picture = tmp_path / "p.bmp"
    cases: list[tuple[tuple[Any, ...], str]] = [
        ((tmp_path / "none.yml", "--data", data), "there is no such recipe"),
        ((tmp_path / "merge.yml", "--data", data), "a mixture needs 'experts' and 'weights'"),
        ((tmp_path / "wrong.yml", "--data", data), "unknown key 'wieghts'; did you mean 'weights'?"),
        ((MATH, "--data", data), "one expert has no weights to search"),
        ((made, "--data", tmp_path / "none.jsonl"), "there is no such file"),
        ((made, "--data", tmp_path / "empty.jsonl"), "no tokens"),
        ((made, "--data", tmp_path / "odd.jsonl"), "odd.jsonl:2: a row is an object with either 'text' or 'messages'"),
        ((made, "--data", data, "--folds", 25), "--folds 25: the data has only 24 rows; give at most 24"),
        ((made, "--data", data, "--folds", 1), "--folds 1: must be at least 2"),
        ((made, "--data", data, "--replicates", 0), "--replicates 0"),
        ((made, "--data", data, "--out", made), "is the recipe itself, which is never overwritten"),
        ((made, "--data", data, "--out", made, "--force"), "is the recipe itself, which is never overwritten"),
        ((made, "--data", data, "--out", tmp_path / "mine.yml"), "--force replaces it"),
        ((made, "--data", data, "--picture", picture), "--picture"),
        ((made, "--data", data, "--metric", "acuracy"), "did you mean 'accuracy'?"),
        ((made, "--data", data, "--metric", "accuracy"), "needs at least one --benchmark"),
        ((made, "--data", data, "--metric", "accuracy", "-b", QUESTIONS / "math.yml"), "demo-math: is a test set"),
        ((made, "--data", data, "--metric", "accuracy", "-b", MATH_DEV, "--grid", "0,2"), "2 is no weight"),
        ((made, "--data", data, "-b", MATH_DEV), "--benchmark belongs to --metric accuracy"),
        ((made, "--data", data, "--grid", "0,1"), "--grid belongs to --metric accuracy"),
        ((made, "--data", data, "--choose", "gate"), "give --out too"),
        ((made, "--data", data, "--choose", "best", "--out", tmp_path / "o.yml"), "--choose 'best': known are"),
        ((made, "--data", data, "--choose", "gate", "--no-gate", "--out", tmp_path / "o.yml"), "leave out --no-gate"),
        ((made, "--data", data, "--choose", "accuracy", "--out", tmp_path / "o.yml"), "needs --metric accuracy"),
    ]
    before = sorted(tmp_path.rglob("*"))
    for words, says in cases:
        assert says in modist.refused("search", "mixture", *words, "--cache", cache), words
    assert sorted(tmp_path.rglob("*")) == before


def test_rows_that_cannot_be_scored_are_named(modist: Modist, tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "d.jsonl"
    silent = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]}
    file.write_text("\n".join([json.dumps({"text": "one two three"}), json.dumps(silent)]), encoding="utf-8")
    words = ("--data", file, "--cache", cache, "--folds", 2)
    assert f"{file}:2: nothing to score: the assistant's message is empty" in modist.refused(
        "search", "mixture", recipe(tmp_path), *words
    )
    file.write_text('{"text": "one two"}\n{"text": ""}\n', encoding="utf-8")
    assert f"{file}:2: nothing to score" in modist.refused("search", "mixture", recipe(tmp_path), *words)


def test_an_expert_that_cannot_read_the_data(modist: Modist, tmp_path: Path, data: Path, cache: Path) -> None:
    chars = ROOT / "examples" / "experts" / "math-chars"
    made = recipe(tmp_path, models=(MATH, chars))
    assert "math-chars" in modist.refused("search", "mixture", made, "--data", data, "--cache", cache)
