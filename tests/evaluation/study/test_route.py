"""Routes on hand-made scores, and a parent's reading of real prompts against a plain forward."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from modist.errors import ModistError
from modist.evaluation.study.rivals import routed
from modist.evaluation.study.route import likelier, question_span, read_scores, route, score_prompts
from tests.evaluation.study.records import record, run

EXPERT = Path(__file__).parents[3] / "examples" / "experts" / "general"


def test_each_question_goes_to_the_likelier_parent() -> None:
    draw = random.Random(3)
    ids = [f"q{number}" for number in range(60)]
    answers = {name: [record(id, output=f"{name} on {id}") for id in ids] for name in ("one", "two", "three")}
    scores = {name: {id: -draw.randrange(4) / 2 for id in ids} for name in answers}
    found, counts = route(answers, scores)
    names = list(answers)
    for id, answer in zip(ids, found, strict=True):
        best = names[0]
        for name in names[1:]:
            if scores[name][id] > scores[best][id]:
                best = name
        assert answer.output == f"{best} on {id}"
    assert sum(counts.values()) == 60 and counts == {n: sum(a.output.startswith(n) for a in found) for n in names}


def test_of_equals_the_first_and_nobody_s_nan() -> None:
    assert likelier({"one": -1.0, "two": -1.0}) == "one"
    assert likelier({"one": math.nan, "two": -9.0}) == "two"
    assert likelier({"one": -math.inf, "two": -9.0}) == "two"


def test_a_row_says_which_share_each_parent_got(tmp_path: Path) -> None:
    ids = [f"q{number}" for number in range(4)]
    parents = {name: run(name, [record(id, name, name == "two") for id in ids]) for name in ("one", "two")}
    for name, said in (("one", [-1, -1, -3, -1]), ("two", [-2, -2, -2, -2])):
        (tmp_path / name).mkdir()
        scores = dict(zip(ids, said, strict=True))
        (tmp_path / name / "sums.json").write_text(json.dumps({"key": {}, "scores": scores}))
    row = cast(Any, SimpleNamespace(name="route", label="Route", parents=("one", "two")))
    found, shares = routed(row, parents, tmp_path)
    assert [one.extracted for one in found.records] == ["one", "one", "two", "one"] and found.right("sums") == 1
    assert shares == {"one": 0.75, "two": 0.25}
    (tmp_path / "two" / "sums.json").unlink()
    with pytest.raises(ModistError, match="run the study again"):
        routed(row, parents, tmp_path)


def test_the_question_s_place_in_its_prompt() -> None:
    assert question_span("system words\nHow many?\nassistant", " How many? ") == (13, 22)
    # The last one: worked examples stand before it.
    assert question_span("1+1\n2\n1+1\n", "1+1") == (6, 9)
    assert question_span("something else", "How many?") == (0, 14)
    assert question_span("something else", "") == (0, 14)


def test_scores_are_a_plain_forward_s_on_the_question_alone(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(EXPERT)
    model = transformers.AutoModelForCausalLM.from_pretrained(EXPERT, dtype=torch.float32).eval()
    asked = {"q0": "How many letters are in honey?", "q1": "Spell the word zebra."}
    prompts = {
        id: tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False)
        for id, text in asked.items()
    }
    from dataclasses import replace

    answers = run("general", [replace(record(id), prompt=prompts[id]) for id in asked])
    score_prompts(str(EXPERT), answers, {"sums": asked}, tmp_path, "cpu", "float32")
    found = read_scores(tmp_path / "sums.json")
    assert found is not None
    for id, text in asked.items():
        ids = tokenizer(prompts[id], add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            log_probs = torch.log_softmax(model(ids).logits[0].double(), -1)
        # Which tokens are the question's, by decoding ever longer beginnings.
        begin = prompts[id].rfind(text)
        ends = [len(tokenizer.decode(ids[0, : count + 1])) for count in range(ids.shape[1])]
        inside = [at for at in range(1, ids.shape[1]) if ends[at] > begin and ends[at - 1] < begin + len(text)]
        expected = sum(float(log_probs[at - 1, ids[0, at]]) for at in inside) / len(inside)
        assert found[id] == pytest.approx(expected, abs=1e-5)


def test_scores_that_are_there_are_not_made_again_unless_the_prompts_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    counted: list[str] = []
    monkeypatch.setattr(
        "modist.evaluation.study.route._score", lambda experts, prompt, question: counted.append(question) or -1.0
    )
    answers = run("general", [record("q0"), record("q1")])
    asked = {"sums": {"q0": "zero", "q1": "one"}}
    for _ in range(2):
        score_prompts(str(EXPERT), answers, asked, tmp_path, "cpu", "float32")
    assert counted == ["zero", "one"]
    score_prompts(str(EXPERT), run("general", [record("q0")]), asked, tmp_path, "cpu", "float32")
    assert counted == ["zero", "one", "zero"]
    assert read_scores(tmp_path / "nothing.json") is None
    (tmp_path / "torn.json").write_text('{"key": {}, "scor')
    assert read_scores(tmp_path / "torn.json") is None
