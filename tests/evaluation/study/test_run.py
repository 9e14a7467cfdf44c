"""A whole study with a generator that needs no model: what is made, what is asked, and that a killed study goes on."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from modist.errors import ModistError, UserError
from modist.evaluation.answers.grade import Grade
from modist.evaluation.benchmark import EvaluationError
from modist.evaluation.generators.generator import Ask, Reply, Sampling
from modist.evaluation.study import Options, Outcome, load_study, run_study
from modist.evaluation.study.publish import publish

pytest.importorskip("torch")
EXAMPLES = Path(__file__).parents[3] / "examples"
EXPERTS = EXAMPLES / "experts"


class Killed(BaseException):
    """A kill in this process: nothing catches it."""


class World:
    """Every model of a test: what it answers, what was asked of it, and when it is killed."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.batches = 0
        self.kill_at: int | None = None
        self.opened: list[str] = []

    def open(self, kind: str, model: str, **options: Any) -> Any:
        self.opened.append(model)
        return Oracle(self, kind, model, options)


class Oracle:
    """Right or wrong by a hash of its model's bytes, the question and the sample's seed."""

    batch_size = 3
    notes: Sequence[str] = ()

    def __init__(self, world: World, kind: str, model: str, options: dict[str, Any]) -> None:
        self.world, self.kind, self.model, self.options = world, kind, model, options
        path = Path(model)
        weights = path / "model.safetensors" if path.is_dir() else path
        self.self = hashlib.sha256(weights.read_bytes()).hexdigest()
        self.name = path.name

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "fingerprint": self.self, **self.options}

    def length(self, prompt: Any) -> int:
        return len(str(prompt))

    def answer(self, asks: Sequence[Ask], sampling: Sampling) -> list[Reply]:
        self.world.batches += 1
        if self.world.kill_at == self.world.batches:
            raise Killed
        replies = []
        for ask in asks:
            question = ask.prompt if isinstance(ask.prompt, str) else ask.prompt[-1]["content"]
            self.world.asked.append((self.self, f"{question}{ask.seed if sampling.temperature else ''}"))
            drawn = f"{self.self}{question}{ask.seed if sampling.temperature else ''}"
            word = "right" if hashlib.sha256(drawn.encode()).digest()[0] < 140 else "wrong"
            replies.append(Reply(ask.key, word, f"<{question}>", 2, 3, "stop", 0.0))
        return replies

    def close(self) -> None:
        pass


class Graders:
    """In this process, at once."""

    def __init__(self, *given: object) -> None:
        pass

    def __enter__(self) -> Graders:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def grade(self, jobs: Sequence[Any]) -> list[Grade]:
        return [Grade(job[1] == "right", job[1] == "right", job[1], job[1]) for job in jobs]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr("modist.evaluation.generators.open_generator", world.open)
    monkeypatch.setattr("modist.evaluation.run.Graders", Graders)
    monkeypatch.setattr("modist.evaluation.study.route._score", lambda experts, prompt, question: -float(len(question)))
    return world


def study_data() -> dict[str, Any]:
    general, maths, base = (str(EXPERTS / name) for name in ("general", "math", "base"))
    experts = [{"source_model": general}, {"source_model": maths}]
    models = [{"model": one, "parameters": {"weight": 1}} for one in (general, maths)]
    return {
        "title": "A study of fakes",
        "parents": {"general": general, "math": maths},
        "benchmarks": [str(EXPERTS / "questions" / f"{name}.yml") for name in ("general", "math")],
        "development": [str(EXPERTS / "questions" / f"{name}.dev.yml") for name in ("general", "math")],
        "decode": {"style": "chat", "device": "cpu", "dtype": "float32", "batch_size": 3},
        "paper": {"source": "nobody", "columns": ["demo-general"], "rows": {"Half": [50]}},
        "rows": [
            {"name": "half", "label": "Half", "merge": {"merge_method": "linear", "models": models}, "paper": "Half"},
            {
                "name": "tuned",
                "merge": {"merge_method": "task_arithmetic", "base_model": base, "models": models},
                "tune": {"lambda": [0.3, 0.6, 0.9]},
            },
            {"name": "mixed", "mixture": {"experts": experts, "weights": [0.5, 0.5]}, "gate": "bayes"},
            {"name": "route", "route": ["general", "math"]},
            {"name": "vote", "vote": ["general", "math"], "samples": 4},
            {"name": "control", "vote": ["math"], "samples": 4},
        ],
    }


def write(folder: Path, data: Any) -> Path:
    path = folder / "study.yml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def run(path: Path, out: Path, **options: Any) -> Outcome:
    return run_study(load_study(path), out, Options(limit=options.pop("limit", 6), workers=0, **options))


def told(outcome: Outcome) -> list[Any]:
    """What a study found, without the seconds."""
    rows = [(entry.label, entry.role, entry.share, entry.notes, entry.tuned) for entry in outcome.entries]
    answers = [[(one.key, one.output, one.equal, one.tokens) for one in entry.results.records] for entry in outcome.entries]
    return [rows, answers]


def test_a_study_from_its_yaml_to_its_page(tmp_path: Path, world: World) -> None:
    outcome = run(write(tmp_path, study_data()), tmp_path / "out")
    assert [entry.role for entry in outcome.entries] == ["parent", "parent", "merge", "merge", "mixture", *["rival"] * 3]
    assert all(len(entry.results.records) == 12 for entry in outcome.entries)
    rows = {entry.name: entry for entry in outcome.entries}
    # The grid, on the development questions, best first of equals, and the merge is the one of that value.
    tuned = rows["tuned"].tuned
    assert tuned is not None and [one.value for one in tuned.candidates] == [0.3, 0.6, 0.9]
    assert all(one.total == (6, 6) for one in tuned.candidates)
    assert tuned.best.accuracy == max(one.accuracy for one in tuned.candidates)
    recipe = yaml.safe_load((tmp_path / "out" / "merged" / "tuned" / "modist_recipe.yml").read_text())
    assert recipe["parameters"]["lambda"] == tuned.best.value
    assert any(f"lambda = {tuned.best.value:g}" in note for note in rows["tuned"].notes)
    assert not list((tmp_path / "out" / "tuning").rglob("*.safetensors"))
    # The score above is the same for both parents: everything goes to the first.
    assert rows["route"].share == "100% to general, 0% to math"
    assert [one.output for one in rows["route"].results.records] == [one.output for one in rows["general"].results.records]
    assert {one.tokens for one in rows["vote"].results.records} == {8}
    assert rows["vote"].share == "4 answers a question, 2 of each parent" and rows["control"].share == "4 answers a question"
    published = publish(outcome)
    for name in ("index.html", "table.md", "table.tex", "table.csv", "table.txt", "results.json"):
        assert (tmp_path / "out" / name).stat().st_size > 500, name
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count("<img ") == 3 and "A study of fakes" in page and "lambda = " in page and "nobody" in page
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["label"] for row in results["rows"]] == [entry.label for entry in outcome.entries]
    cell = next(row for row in published.table.rows if row.name == "Half").cells[0]
    assert cell is not None and cell.paper == 0.5


def test_a_finished_study_asks_nothing_and_loads_no_model(tmp_path: Path, world: World) -> None:
    path = write(tmp_path, study_data())
    first = told(run(path, tmp_path / "out"))
    world.asked.clear(), world.opened.clear()
    stamps = {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "merged").rglob("*.safetensors")}
    assert told(run(path, tmp_path / "out")) == first
    assert world.asked == [] and world.opened == []
    assert {file: file.stat().st_mtime_ns for file in stamps} == stamps


def test_killed_at_random_moments_it_goes_on_to_the_same_end(tmp_path: Path, world: World) -> None:
    path = write(tmp_path, study_data())
    whole = told(run(path, tmp_path / "whole"))
    batches, asked = world.batches, sorted(world.asked)
    draw = random.Random(4)
    for number in range(4):
        out = tmp_path / f"out{number}"
        world.asked.clear()
        # Some are killed twice.
        for _ in range(1 + number % 2):
            world.batches, world.kill_at = 0, draw.randrange(1, batches // 2)
            with pytest.raises(Killed):
                run(path, out)
        world.batches, world.kill_at = 0, None
        assert told(run(path, out)) == whole
        # None lost, none asked twice: the batch in flight was not answered yet.
        assert sorted(world.asked) == asked


def test_a_row_more_asks_only_that_row(tmp_path: Path, world: World) -> None:
    data = study_data()
    last = data["rows"].pop(0)
    run(write(tmp_path, data), tmp_path / "out")
    world.opened.clear()
    data["rows"].insert(0, last)
    outcome = run(write(tmp_path, data), tmp_path / "out")
    assert [Path(model).name for model in world.opened] == ["half"] and outcome.entries[2].label == "Half"


def test_only_a_row_has_the_parents_beside_it(tmp_path: Path, world: World) -> None:
    outcome = run(write(tmp_path, study_data()), tmp_path / "out", only=("half",))
    assert [entry.name for entry in outcome.entries] == ["general", "math", "half"]
    assert not (tmp_path / "out" / "tuning").exists()


def test_answers_of_another_merge_are_not_taken_for_this_one_s(tmp_path: Path, world: World) -> None:
    data = study_data()
    path = write(tmp_path, data)
    run(path, tmp_path / "out", only=("half",))
    data["rows"][0]["merge"]["models"][0]["parameters"]["weight"] = 3
    write(tmp_path, data)
    with pytest.raises(UserError, match=r"runs/half: holds the answers of another merge .* remove it to ask again"):
        run(path, tmp_path / "out", only=("half",))


def test_another_grid_is_scored_anew_and_what_was_scored_is_kept(tmp_path: Path, world: World) -> None:
    data = study_data()
    path = write(tmp_path, data)
    run(path, tmp_path / "out", only=("tuned",))
    data["rows"][1]["tune"]["lambda"] = [0.3, 0.6, 0.8, 0.9]
    write(tmp_path, data)
    fresh = run(path, tmp_path / "fresh", only=("tuned",)).entries[-1].tuned
    world.opened.clear()
    assert fresh is not None
    if fresh.best.value == 0.8:
        with pytest.raises(UserError, match="another merge"):
            run(path, tmp_path / "out", only=("tuned",))
    else:
        assert run(path, tmp_path / "out", only=("tuned",)).entries[-1].tuned == fresh
    assert world.opened[0] == str(tmp_path / "out" / "tuning" / "tuned" / "0.8" / "model")
    assert not any("/0.3/" in model for model in world.opened)


def test_a_candidate_of_another_recipe_is_scored_anew(tmp_path: Path, world: World) -> None:
    data = study_data()
    path = write(tmp_path, data)
    run(path, tmp_path / "out", only=("tuned",))
    world.opened.clear()
    data["rows"][1]["merge"]["models"][0]["parameters"]["weight"] = 2
    write(tmp_path, data)
    with pytest.raises(UserError, match="another merge"):
        run(path, tmp_path / "out", only=("tuned",))
    tuning = tmp_path / "out" / "tuning" / "tuned"
    assert world.opened == [str(tuning / value / "model") for value in ("0.3", "0.6", "0.9")]
    fresh = run(path, tmp_path / "fresh", only=("tuned",)).entries[-1].tuned
    assert fresh is not None
    kept = [json.loads((tuning / f"{one.value:g}.json").read_text())["right"] for one in fresh.candidates]
    assert kept == [list(one.right) for one in fresh.candidates]


def test_what_can_be_known_before_is_said_before(tmp_path: Path, world: World) -> None:
    data = study_data()
    data["rows"][0]["merge"]["models"][0]["parameters"] = {"wieght": 1}
    with pytest.raises(UserError, match=r"study\.yml:\d+: .*wieght"):
        run(write(tmp_path, data), tmp_path / "out")
    data = study_data() | {"retention": ["humaneval"]}
    with pytest.raises(UserError, match="humaneval: grading runs code that a model wrote; allow that with --execute-code"):
        run(write(tmp_path, data), tmp_path / "out")
    data = study_data() | {"benchmarks": ["gsm8k"]}
    with pytest.raises(UserError, match="modist benchmarks download gsm8k"):
        run(write(tmp_path, data), tmp_path / "out", data=tmp_path / "nowhere")
    assert world.opened == [] and not (tmp_path / "out" / "runs").exists()


def test_parents_that_do_not_fit_are_refused_with_the_row(tmp_path: Path, world: World) -> None:
    for name in ("general", "math"):
        folder = tmp_path / name
        folder.mkdir()
        for file in (EXPERTS / name).iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "math" / "config.json").read_text())
    text = re.sub(r'("rope_theta": )[\d.]+', r"\g<1>77.0", json.dumps(config))
    assert text != json.dumps(config)
    (tmp_path / "math" / "config.json").write_text(text)
    data = study_data()
    data["parents"] = {name: f"./{name}" for name in ("general", "math")}
    models = [{"model": f"./{name}", "parameters": {"weight": 1}} for name in ("general", "math")]
    data["rows"] = [{"name": "half", "merge": {"merge_method": "linear", "models": models}}]
    with pytest.raises(UserError, match=r"rows\[0\]: half: .*rope.*`allow:` with rope"):
        run(write(tmp_path, data), tmp_path / "out")
    assert world.opened == []
    data["rows"][0]["allow"] = ["rope"]
    outcome = run(write(tmp_path, data), tmp_path / "out")
    assert any("allowed are differences in rope" in note for note in outcome.entries[2].notes)


def test_tuning_on_a_question_of_the_test_is_refused(tmp_path: Path, world: World) -> None:
    questions = (EXPERTS / "questions" / "general.jsonl").read_text().splitlines()
    row = json.loads(questions[4])
    (tmp_path / "dev.jsonl").write_text(json.dumps({"id": "x", "question": row["question"].upper(), "answer": "1"}) + "\n")
    own = {"name": "mine", "file": "dev.jsonl", "id": "id", "question": "question", "gold": "answer", "kind": "text"}
    (tmp_path / "dev.yml").write_text(yaml.safe_dump(own | {"split": "development"}))
    data = study_data() | {"development": ["dev.yml"]}
    with pytest.raises(UserError, match=f"mine: x asks what {row['id']} asks too"):
        run(write(tmp_path, data), tmp_path / "out")


def test_two_studies_do_not_share_a_folder(tmp_path: Path, world: World) -> None:
    from modist.evaluation.study.run import _locked

    path = write(tmp_path, study_data())
    with _locked(tmp_path / "out"), pytest.raises(UserError, match="another study is writing there"):
        run(path, tmp_path / "out")


def test_one_row_s_failure_leaves_the_others_done(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, study_data())
    opened = world.open

    def failing(kind: str, model: str, **options: Any) -> Any:
        if kind == "mixture":
            raise EvaluationError("no memory")
        return opened(kind, model, **options)

    monkeypatch.setattr("modist.evaluation.generators.open_generator", failing)
    with pytest.raises(ModistError, match=r"^mixed: no memory$"):
        run(path, tmp_path / "out")
    monkeypatch.setattr("modist.evaluation.generators.open_generator", opened)
    world.opened.clear()
    run(path, tmp_path / "out")
    assert [Path(model).name for model in world.opened] == ["mixed.yml"]
