"""A recommendation made of the tiny experts: what it measures, says and writes."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modist.errors import UserError
from modist.merge import merge as merge_models
from modist.merge.plan import check_recipe
from modist.recipe import load_recipe, parse_recipe
from modist.search.advice import MERGE, MIX, REPORT, check_out, commands, write
from modist.search.evidence import Measure
from modist.search.gate_gain import gate_gain
from modist.search.likelihoods import read_passages, score_passages
from modist.search.recommend import MIXTURE, Recommendation, asked_before, recommend, weigh
from modist.search.shortlist import shortlist
from modist.search.sweep import read_development
from modist.search.trial import Trial, by_row, try_merges

ROOT = Path(__file__).parents[2]
EXPERTS = ROOT / "examples" / "experts"
GENERAL, MATH, BASE = (str(EXPERTS / name) for name in ("general", "math", "base"))
CHATS = EXPERTS / "questions" / "answers.dev.jsonl"

torch.set_num_threads(1)


# ---------------------------------------------------------------- trials


def chats(folder: Path, count: int = 24) -> Path:
    """The first of the development chats, both domains in turn."""
    file = folder / "chats.jsonl"
    file.write_text("".join(line + "\n" for line in CHATS.read_text(encoding="utf-8").splitlines()[:count]), encoding="utf-8")
    return file


def trial_of(folder: Path, file: Path) -> Trial:
    return Trial(read_passages(file), (), None, None, folder / "cache", folder)


def test_a_merge_in_memory_is_the_one_on_disk(tmp_path: Path) -> None:
    from modist.mixture import load_experts

    trial = trial_of(tmp_path, chats(tmp_path, 4))
    lengths = trial.experts([GENERAL, MATH]).likelihoods.lengths
    one = shortlist([GENERAL, MATH], MATH, BASE)[2]
    (found,), right = trial.merge(one, lengths)
    assert (one.name, right) == ("task_arithmetic", ())
    merge_models(one.recipe(), tmp_path / "merged", threads=1)
    recipe = parse_recipe(json.dumps({"experts": [{"source_model": str(tmp_path / "merged")}], "weights": [1.0]}))
    alone = score_passages(load_experts(recipe, dtype="float32"), trial.passages, tmp_path / "other")
    assert by_row(alone.log_probs[:, 0].astype(np.float64), lengths) == pytest.approx(found, abs=1e-4)
    # Where a model cannot be merged alive it is written first.
    again = score_passages(trial._written(one.recipe(), "again"), trial.passages, tmp_path / "third")
    assert by_row(again.log_probs[:, 0].astype(np.float64), lengths) == pytest.approx(found, abs=1e-4)


def test_a_merge_that_cannot_be_made_leaves_the_others(tmp_path: Path) -> None:
    file = chats(tmp_path, 4)
    trial = trial_of(tmp_path, file)
    lengths = trial.experts([GENERAL, MATH]).likelihoods.lengths
    linear, *_, ties = shortlist([GENERAL, MATH], MATH, str(tmp_path / "gone"))
    found, right, refused = try_merges(trial, [linear, ties], lengths)
    assert list(found) == ["linear"] and right == {"linear": ()}
    assert "gone" in refused["ties"]


# ---------------------------------------------------------------- the whole


@pytest.fixture(scope="module")
def advised(tmp_path_factory: pytest.TempPathFactory) -> Recommendation:
    folder = tmp_path_factory.mktemp("recommend")
    return recommend([GENERAL, MATH], chats(folder), cache=folder / "cache")


def test_the_tiny_experts_are_to_be_mixed(advised: Recommendation) -> None:
    assert advised.verdict.kind == "mix" and advised.gated
    assert advised.likelihood.scores[MIXTURE] > advised.likelihood.scores["linear"] > advised.likelihood.scores["math"]
    assert [one.name for one in advised.merges] == ["linear", "slerp", "task_arithmetic", "ties"] and not advised.refused
    assert sum(advised.weights) == pytest.approx(1)
    # Under the gate a text is one expert's, and half of the texts are of either.
    assert advised.weights == pytest.approx([0.5, 0.5], abs=0.02)
    assert advised.solved.weights[1] > 0.55


def test_what_was_fitted_is_scored_where_it_was_not(advised: Recommendation) -> None:
    held = advised.solved.held
    value, _ = held.gain
    # Without the gate the same folds give simplex.held_out's own figure, with it gate_gain's.
    gained, over = advised.gate_gain.value, advised.likelihood.mixture.value
    assert over - gained == pytest.approx(value, abs=1e-9)
    gate = gate_gain(advised.solved.likelihoods, advised.solved.weights, held.weights)
    assert advised.likelihood.scores[MIXTURE] == pytest.approx(-gate.held_out, abs=1e-9)
    assert advised.gate.weights == pytest.approx(gate.weights)


def test_the_report_is_short_and_says_it_all(advised: Recommendation) -> None:
    lines = advised.lines()
    place = lines.index("next:")
    assert place <= 12 and lines[0].startswith("mix: general 0.5")
    said = "\n".join(lines[:place])
    for word in ("because", "kinship", "base is the ancestor", "one vocabulary", "by EM", "slerp", "task_arithmetic", "cost"):
        assert word in said, word
    assert "24 rows, held out; few rows" in said
    assert "--benchmark DEV.yml" in said
    assert max(map(len, lines[:place])) < 200
    json.dumps(advised.as_dict())


def parsed(line: str) -> dict[str, Any]:
    """The options of a `modist ...` command, as the command itself reads them."""
    import typer

    from modist.cli import chat, generate, merge, search_merge, search_mixture

    found = {
        "chat": chat.chat_command,
        "generate": generate.generate_command,
        "merge": merge.merge_command,
        "search mixture": search_mixture.search_mixture_command,
        "search merge": search_merge.search_merge_command,
    }
    program, *words = shlex.split(line)
    assert program == "modist"
    count = 2 if words[0] == "search" else 1
    app = typer.Typer()
    app.command()(found[" ".join(words[:count])])
    return dict(typer.main.get_command(app).make_context("modist", words[count:]).params)


def test_the_next_commands_can_be_typed(advised: Recommendation) -> None:
    assert [parsed(line)["stride"] for line in commands(advised) if line.startswith("modist chat")] == [1]
    assert all(parsed(line) for line in commands(advised, Path("a folder")))
    echo, chat, search = (shlex.split(line) for line in commands(advised))
    assert (echo[0], echo[2:]) == ("echo", [">", MIX])
    recipe = parse_recipe(echo[1])
    assert [str(source.model) for source in recipe.slices[0].sources] == [GENERAL, MATH]
    assert chat == ["modist", "chat", MIX, "--gate", "bayes", "--discount", "1", "--stride", "1"]
    assert search[:4] == ["modist", "search", "mixture", MIX]
    from modist.cli import experts as options

    options.make_gate("bayes", float(chat[6]), int(chat[8]), False)


def test_who_has_no_weight_is_no_part_of_the_mixture(advised: Recommendation) -> None:
    found = replace(advised, gate=replace(advised.gate, weights=np.array([0.0, 1.0])))
    assert found.lines()[0].startswith("mix: math 1 --gate")
    recipe = parse_recipe(shlex.split(commands(found)[0])[1])
    assert [str(source.model) for source in recipe.slices[0].sources] == [MATH]
    assert any("keeps 1 model" in line for line in found.lines())


def test_without_chat_templates_one_goes_on_with_a_text(advised: Recommendation) -> None:
    inspection = advised.kin.inspection
    bare = replace(inspection, models=tuple(replace(facts, template=None) for facts in inspection.models))
    found = replace(advised, kin=replace(advised.kin, inspection=bare))
    assert commands(found)[1] == f"modist generate {MIX} --prompt - --gate bayes --discount 1 --stride 1"


def test_the_files_are_the_recommendation(advised: Recommendation, tmp_path: Path) -> None:
    out = tmp_path / "found"
    write(advised, out, advised.as_dict(out))
    assert sorted(path.name for path in out.iterdir()) == sorted([MIX, MERGE, REPORT])
    recipe = load_recipe(out / MIX)
    assert [source.parameters["weight"].at("", 0) for source in recipe.slices[0].sources] == list(advised.weights)
    check_recipe(load_recipe(out / MERGE))
    assert json.loads((out / REPORT).read_text())["verdict"] == "mix"
    assert commands(advised, out)[0].startswith(f"modist chat {out / MIX}")
    write(advised, out, advised.as_dict(out))  # ours may be written again
    (out / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match=r"'mine.txt', which modist recommend did not write"):
        check_out(out)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / MIX).write_text("experts: []\n")
    with pytest.raises(UserError, match="did not write"):
        write(advised, foreign, {})
    assert (foreign / MIX).read_text() == "experts: []\n"
    with pytest.raises(UserError, match="is a file"):
        check_out(out / "mine.txt")


def test_what_it_says_of_a_merge_and_of_one_alone(advised: Recommendation) -> None:
    def with_verdict(kind: str) -> Recommendation:
        verdict = replace(advised.likelihood.verdict, kind=kind)  # type: ignore[arg-type]
        return replace(advised, likelihood=replace(advised.likelihood, verdict=verdict))

    so = with_verdict("merge")
    assert so.lines()[0] == f"merge so: {so.merge.title}"  # type: ignore[union-attr]
    echo, first, second = commands(so)
    check_recipe(parse_recipe(shlex.split(echo)[1]))
    assert first == f"modist merge {MERGE} merged"
    assert parsed(second)["metric"] == [f"likelihood:{advised.data}"]
    asked = commands(replace(so, accuracy=so.likelihood, benchmarks=("a.yml", "b c.yml")))
    assert parsed(asked[2])["metric"] == ["accuracy:a.yml", "accuracy:b c.yml"]
    mixed = commands(replace(advised, accuracy=advised.likelihood, benchmarks=("a.yml",)))
    assert parsed(mixed[2])["benchmark"] == ["a.yml"] and parsed(mixed[2])["metric"] == "accuracy"
    alone = with_verdict("alone")
    assert alone.lines()[0] == "use math alone"
    assert commands(alone) == [f"modist chat {MATH}"]


def test_answers_decide_over_likelihood(advised: Recommendation) -> None:
    good, bad = np.arange(50) < 40, np.arange(50) < 10
    answers = weigh(
        Measure.of_questions([50]),
        {"general": (bad * 1.0,), "math": (bad * 1.0,)},
        (bad * 1.0,),
        {one.name: ((good if one.name == "ties" else bad) * 1.0,) for one in advised.merges},
    )
    found = replace(advised, accuracy=answers, questions=50)
    assert found.verdict.kind == "merge" and found.merge is not None and found.merge.name == "ties"
    lines = found.lines()
    assert lines[0] == f"merge so: {found.merge.title}"
    assert "by right answers the merge is better than general" in lines[1]
    assert lines[1].endswith("by likelihood it would be the mixture")
    (place,) = [place for place, line in enumerate(lines) if line.startswith("  answers ")]
    assert "general 20.0%" in lines[place] and "ties 80.0%" in lines[place] and "of 50 questions" in lines[place]
    # Worse by so much, and by how much at least and at most.
    assert "60.0 points worse than the merge (38.5 to 81.5)" in lines[place + 1]
    assert lines.index("next:") <= 12
    assert found.as_dict()["accuracy"]["scores"]["ties"] == 0.8


def test_questions_that_are_in_the_data_are_said(tmp_path: Path) -> None:
    passages = read_passages(chats(tmp_path, 10))
    asked = read_development([str(EXPERTS / "questions" / "math.dev.yml")])
    said = asked_before(passages, asked, None)
    assert said is not None and said.startswith("5 of the 10 rows hold questions of the benchmarks")
    others = [
        replace(passage, content=[{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}])
        for passage in passages
    ]
    assert asked_before(others, asked, None) is None and asked_before(passages, [], None) is None


def test_data_of_one_domain_needs_one_expert(tmp_path: Path) -> None:
    file = tmp_path / "math.jsonl"
    lines = [line for line in CHATS.read_text(encoding="utf-8").splitlines() if '"domain": "math"' in line][:16]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = recommend([GENERAL, MATH], file, cache=tmp_path / "cache")
    assert (found.verdict.kind, found.deciding.best) == ("alone", "math")
    assert found.lines()[0] == "use math alone"


def test_data_that_cannot_be_used(tmp_path: Path) -> None:
    one, empty = chats(tmp_path, 1), tmp_path / "empty.jsonl"
    with pytest.raises(UserError, match="has one row"):
        recommend([GENERAL, MATH], one, cache=tmp_path / "cache")
    empty.write_text("")
    with pytest.raises(UserError, match="holds no rows"):
        recommend([GENERAL, MATH], empty, cache=tmp_path / "cache")
    with pytest.raises(UserError, match="no such file"):
        recommend([GENERAL, MATH], tmp_path / "gone.jsonl")
    with pytest.raises(UserError, match="is a test set"):
        recommend([GENERAL, MATH], chats(tmp_path, 4), benchmarks=[str(EXPERTS / "questions" / "math.yml")])


@pytest.mark.full
def test_answers_decide_where_they_are_asked(tmp_path: Path) -> None:
    asked = [str(EXPERTS / "questions" / f"{domain}.dev.yml") for domain in ("general", "math")]
    found = recommend([GENERAL, MATH], CHATS, benchmarks=asked, limit=60, cache=tmp_path / "cache")
    assert found.accuracy is not None and found.questions == 120
    assert found.verdict.kind == "mix" and found.deciding is found.accuracy
    scores = found.accuracy.scores
    assert scores[MIXTURE] > 0.9 and 0.4 < scores["general"] < 0.55 and 0.4 < scores["math"] < 0.55
    assert any(line.startswith("  answers ") for line in found.lines())
