"""`modist eval` on the repository's tiny experts, on endpoints played here, and on what a user gets wrong."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from modist.recipe import load_recipe
from tests.cli.mixtures import GENERAL, MATH, ROOT, Modist, recipe
from tests.evaluation.fake_runs import rows, told
from tests.evaluation.generators.endpoint import Answered, Asked, Endpoint, good

QUESTIONS = ROOT / "examples" / "experts" / "questions"
BOTH = ("-b", QUESTIONS / "general.yml", "-b", QUESTIONS / "math.yml")
FEW = (*BOTH, "--limit", 6, "--dtype", "float32")


@pytest.fixture
def modist(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Modist:
    return Modist(monkeypatch, capsys)


def own(folder: Path, count: int = 12, **more: Any) -> Path:
    """A user's benchmark of sums."""
    lines = [json.dumps({"question": f"What is {n} + {n}?", "answer": str(2 * n)}) for n in range(count)]
    (folder / "sums.jsonl").write_text("\n".join(lines) + "\n")
    head = {"name": "sums", "file": "sums.jsonl", "question": "question", "gold": "answer", "kind": "math", "prompt": "chat"}
    path = folder / "sums.yml"
    path.write_text(json.dumps({**head, **more}))
    return path


def doubled(asked: Asked) -> Answered:
    number = int(asked.question.split("What is ")[1].split(" ")[0])
    return good(asked, f"\\boxed{{{2 * number}}}")


def test_experts_and_their_mixture(modist: Modist, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    words = ("eval", recipe(tmp_path, (0.5, 0.5), name="half.yml"), GENERAL, MATH, *FEW, "--out", out)
    found = modist.json(*words)
    # Parents first, though nobody named them: the mixture's recipe does.
    assert [row["name"] for row in found["table"]["rows"]] == ["general", "math", "half"]
    roles = {one["name"]: one["role"] for one in found["models"]}
    assert roles == {"half": "mixture", "general": "parent", "math": "parent"}
    cells = {row["name"]: row["cells"] for row in found["table"]["rows"]}
    assert cells["general"]["demo-general"]["accuracy"] >= 5 / 6 and cells["math"]["demo-math"]["accuracy"] >= 5 / 6
    assert cells["math"]["demo-general"]["accuracy"] <= 1 / 6 and cells["half"]["demo-math"]["n"] == 6
    for one in found["models"]:
        assert one["answers"] == 12 == len(rows(out / one["name"])) and one["errors"] == [] and one["already"] == 0
        assert [part["questions"] for part in one["benchmarks"]] == [6, 6]
    # The same questions for every model.
    asked = [{(row["benchmark"], row["id"]) for row in rows(out / name)} for name in ("general", "math", "half")]
    assert asked[0] == asked[1] == asked[2] and len(asked[0]) == 12
    assert {path.name for path in out.iterdir()} >= {
        "table.md",
        "table.tex",
        "table.csv",
        "index.html",
        "general",
        "math",
        "half",
    }
    page = (out / "index.html").read_text()
    assert "Sums in words" in page and "<script>" in page and "modist eval" in page

    # Again: nothing is asked, and the same is told; from the folder alone too, where all remain what they were.
    before = told(out / "math")
    status, text, err = modist("eval", MATH, *FEW, "--out", out)
    assert status == 0 and "Words and letters" in text and "index.html" in text and "general" not in text
    assert "math: all 12 answers were there already" in err and told(out / "math") == before
    again = modist.json("eval", "--results", out)
    assert again["table"] == found["table"] and {one["name"]: one["role"] for one in again["models"]} == roles
    other = modist.json("eval", "--results", out, "--parents", "math")
    assert other["table"]["rows"][0]["name"] == "math"
    assert "did you mean 'math'" in modist.refused("eval", "--results", out, "--parents", "mth")

    # Another question set in the same folder is refused, and says where the two differ.
    line = modist.refused("eval", GENERAL, *BOTH, "--limit", 7, "--dtype", "float32", "--out", out).splitlines()[-1]
    assert "holds another run (settings: limit: 6 there, 7 here)" in line


def test_runs_that_are_not_finished(modist: Modist, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    with Endpoint(doubled) as endpoint:
        for name in ("one", "other"):
            modist.json("eval", endpoint.url, "--model-name", name, "-b", own(tmp_path), "--out", out)
    path = out / "other" / "answers.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    status, text, err = modist("eval", "--results", out)
    assert status == 0 and "one" in text and "other" not in text and "other: this run is not finished (0 of 1 batches)" in err
    shutil.rmtree(out / "one")
    assert "this run is not finished" in modist.refused("eval", "--results", out)


def test_dry_runs(modist: Modist, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    words = ("eval", recipe(tmp_path, name="half.yml"), MATH, *FEW, "--out", out, "--dry-run")
    status, text, err = modist(*words)
    assert status == 0 and not out.exists()
    assert "demo-math: 6 of 300 questions, ±" in text and "math: 12 answers; " in text and "tokens of prompts" in text
    assert "hours are not known" in text and "general, which is not among the models" in err
    found = modist.json("eval", MATH, *FEW, "--samples", 2, "--temperature", 0.8, "--out", out, "--dry-run", "--probe")[
        "models"
    ]
    assert found[0]["answers"] == 24 and found[0]["pace"]["answers"] == 24 and found[0]["seconds"] > 0
    assert found[0]["most_tokens"] == 24 * 64 and found[0]["prompt_length"] > 24 * 5 and not out.exists()


def test_a_finished_model_tells_its_pace(modist: Modist, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    with Endpoint(doubled) as endpoint:
        words = ("eval", endpoint.url, "--model-name", "a/doubler", "-b", own(tmp_path), "--out", out)
        status, _, err = modist(*words)
        assert status == 0 and "12 answers; 1 batches of 32" in err and "characters of prompts" in err
        assert (out / "a-doubler" / "plan.json").is_file()
        assert modist.json(*words, "--dry-run")["models"][0]["pace"]["answers"] == 12


def test_an_endpoint_that_fails_now_and_then(modist: Modist, tmp_path: Path) -> None:
    sick = True

    def respond(asked: Asked) -> Answered:
        return Answered(400, {"error": {"message": "no"}}) if sick and "What is 7 " in asked.question else doubled(asked)

    with Endpoint(respond) as endpoint:
        words = ("eval", endpoint.url, "--model-name", "doubler", "-b", own(tmp_path), "--out", tmp_path / "runs")
        found = modist.json(*words)
        (error,) = found["models"][0]["errors"]
        assert error["id"] == "sums-0007" and "no" in error["why"]
        assert found["models"][0]["benchmarks"][0]["right"] == 11 and found["models"][0]["benchmarks"][0]["errors"] == 1
        sick, asked = False, len(endpoint.asked)
        status, _, err = modist(*words)
        assert status == 0 and "1 of 12 answers failed and count as wrong" in err and len(endpoint.asked) == asked
        found = modist.json(*words, "--retry-errors")
        assert found["models"][0]["errors"] == [] and found["models"][0]["benchmarks"][0]["right"] == 12
        assert len(endpoint.asked) == asked + 1


def test_an_endpoint_that_hangs(modist: Modist, tmp_path: Path) -> None:
    """The run ends, says so, and goes on once somebody is there."""
    deaf = True

    def respond(asked: Asked) -> Answered:
        return Answered(hang=True) if deaf else doubled(asked)

    with Endpoint(respond) as endpoint:
        words = ("eval", endpoint.url, "--model-name", "doubler", "-b", own(tmp_path), "--out", tmp_path / "runs")
        status, out, err = modist(*words, "--timeout", 0.4)
        assert status == 1 and out == "" and "does not answer" in err.splitlines()[-1] and "Traceback" not in err
        deaf = False
        found = modist.json(*words)
        assert found["models"][0]["benchmarks"][0]["right"] == 12


def test_an_answer_without_end_and_one_that_hangs_its_grader(modist: Modist, tmp_path: Path) -> None:
    said = {3: "x" * 100_000, 4: "\\boxed{" + "{" * 50_000, 5: "\\boxed{9^{9^{9^{9}}}}", 6: "\\boxed{" + "\\sqrt{" * 3000 + "}"}

    def respond(asked: Asked) -> Answered:
        number = int(asked.question.split("What is ")[1].split(" ")[0])
        return good(asked, said[number]) if number in said else doubled(asked)

    with Endpoint(respond) as endpoint:
        words = ("eval", endpoint.url, "--model-name", "doubler", "-b", own(tmp_path), "--out", tmp_path / "runs")
        found = modist.json(*words, "--grade-seconds", 0.5)
    assert found["models"][0]["benchmarks"][0]["right"] == 8
    there = {row["id"]: row for row in rows(tmp_path / "runs" / "doubler")}
    assert len(there["sums-0003"]["output"]) == 100_000 and not there["sums-0005"]["equal"] and there["sums-0005"]["note"]
    status, _, err = modist("eval", "--results", tmp_path / "runs")
    assert status == 0 and err == ""


def test_what_is_refused(modist: Modist, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bench = own(tmp_path)
    merge = tmp_path / "merge.yml"
    merge.write_text(f"merge_method: linear\nmodels:\n  - model: {GENERAL}\n    parameters: {{weight: 1}}\ndtype: float32\n")
    for words, said in (
        ((), "no MODEL"),
        ((MATH,), "no benchmark"),
        ((MATH, "-b", "gsm9k"), "did you mean 'gsm8k'"),
        ((MATH, "-b", bench, "-b", bench), "--benchmark sums: is there twice"),
        ((MATH, MATH, "-b", bench), "is there twice"),
        (("./nowhere", "-b", bench), "./nowhere: there is neither such a recipe nor such a folder"),
        (("nowhere.yml", "-b", bench), "nowhere.yml"),
        ((merge, "-b", bench), "is the recipe of a merge; merge it first"),
        ((MATH, "-b", bench, "--generator", "transformer"), "did you mean 'transformers'"),
        ((MATH, "-b", bench, "--style", "chatt"), "did you mean 'chat'"),
        ((MATH, "-b", bench, "--samples", 3), "give --temperature too"),
        ((MATH, "-b", bench, "--top-p", 0.5), "need a temperature"),
        ((MATH, "-b", bench, "--parents", "mat"), "did you mean 'math'"),
        ((MATH, "-b", bench, "--gate", "bayes"), "--gate: no model here takes it"),
        ((MATH, "-b", bench, "--concurrency", 3), "--concurrency: no model here takes it"),
        (("http://localhost:1/v1", "-b", bench), "say with --model-name"),
        (("http://localhost:1/v1", "-b", bench, "--generator", "vllm"), "an address is for --generator openai"),
        ((MATH, "-b", "humaneval", "--data", tmp_path), "--execute-code"),
        ((MATH, "-b", "gsm8k", "--data", tmp_path), "modist benchmarks download gsm8k"),
        (("--results", tmp_path, MATH), "leave the models out"),
        (("--results", tmp_path), "holds no runs"),
        (("--results", tmp_path / "nowhere"), "there is no such folder"),
    ):
        assert said in modist.refused("eval", *words), words
    assert not (tmp_path / "runs").exists()


def test_names(tmp_path: Path) -> None:
    from modist.evaluation.model import read_model, with_own_names

    for place in ("a", "b"):
        shutil.copytree(MATH, tmp_path / place / "math")
    models = [read_model(str(tmp_path / place / "math")) for place in ("a", "b")]
    models += [read_model("some/thing@main"), read_model("http://x/v1", None, "../up/..")]
    assert [model.name for model in with_own_names(models)] == ["a-math", "b-math", "some-thing", "up"]
    same = [read_model("http://x/v1", None, "one"), read_model("http://y/v1", None, "one")]
    assert len({model.name for model in with_own_names(same)}) == 2


def test_a_merge_knows_its_parents(modist: Modist, tmp_path: Path) -> None:
    from modist.evaluation.model import parents_of, read_model, with_own_names
    from modist.merge import merge

    text = (
        f"merge_method: linear\nmodels:\n  - model: {GENERAL}\n    parameters: {{weight: 0.5}}\n"
        f"  - model: {MATH}\n    parameters: {{weight: 0.5}}\ndtype: float32\n"
    )
    (tmp_path / "soup.yml").write_text(text)
    merge(load_recipe(tmp_path / "soup.yml"), tmp_path / "soup")
    models = with_own_names(
        [read_model(str(tmp_path / "soup")), *(read_model(os.path.relpath(one)) for one in (GENERAL, MATH))]
    )
    assert [model.role for model in models] == ["merge", "other", "other"] and "weight 0.5" in models[0].share
    assert parents_of(models, []) == ["general", "math"] and parents_of(models, ["math"]) == ["math"]
    assert parents_of(models, [str(os.path.relpath(GENERAL))]) == ["general"]


def test_tasks_for_the_harness(modist: Modist) -> None:
    status, out, _ = modist("eval", "--lm-eval-tasks")
    assert status == 0 and (Path(out.strip()) / "modist_svamp.yaml").is_file()


def test_nothing_heavy_at_import() -> None:
    code = "import modist.cli.eval, sys; print([m for m in ('torch', 'transformers', 'numpy', 'openai') if m in sys.modules])"
    import subprocess

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
