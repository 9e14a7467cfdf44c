"""`modist generate` on the repository's tiny experts."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.cli.mixtures import GENERAL, GRIMM, GSM8K, MATH, QUESTION, Modist, recipe


@pytest.fixture
def modist(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Modist:
    return Modist(monkeypatch, capsys)


def test_json_holds_everything(modist: Modist, tmp_path: Path) -> None:
    found = modist.json("generate", recipe(tmp_path), "--chat", QUESTION, "--seed", 3, "--temperature", 1)
    count = len(found["token_ids"])
    assert found["finish_reason"] in ("stop", "length") and count and isinstance(found["text"], str)
    assert len(found["logprobs"]) == len(found["responsibilities"]) == count
    assert all(value <= 1e-9 for value in found["logprobs"])
    assert all(math.isclose(sum(row), 1, abs_tol=1e-9) and len(row) == 2 for row in found["responsibilities"])
    assert set(found["passes"]) == {"general", "math"} and sum(found["passes"].values()) == count
    assert found["passes_per_token"] == 1 and found["certified_share"] == 1
    assert found["tokens_per_second"] > 0 and found["seed"] == 3 and found["saved_bytes"] == 0
    assert [(one["name"], one["weight"]) for one in found["experts"]] == [("general", 0.6), ("math", 0.4)]
    assert set(found["prompts"]) == {"general", "math"}
    assert all(seen.endswith("<|im_start|>assistant\n") and QUESTION in seen for seen in found["prompts"].values())


@pytest.mark.parametrize("weights", [(0.9, 0.1), (0.5, 0.5)])
def test_greedy_is_the_eager_text(modist: Modist, tmp_path: Path, weights: tuple[float, float]) -> None:
    words = ("generate", recipe(tmp_path, weights), "--chat", QUESTION, "--dtype", "float32")
    lazy, eager = modist.json(*words), modist.json(*words, "--eager")
    assert lazy["text"] == eager["text"] and lazy["token_ids"] == eager["token_ids"]
    assert sum(lazy["passes"].values()) < sum(eager["passes"].values()) == 2 * len(eager["token_ids"])
    assert lazy["logprobs"] == pytest.approx(eager["logprobs"], abs=1e-4)
    status, out, err = modist(*words)
    assert (status, out, err) == (0, lazy["text"] + "\n", "")


def test_a_seed_is_one_answer(modist: Modist, tmp_path: Path) -> None:
    words = ("generate", recipe(tmp_path), "--prompt", "Leo has", "--temperature", 1.2, "--top-k", 50, "--max-new-tokens", 24)
    one, again, other, eager = (modist.json(*words, *more) for more in ((), (), ("--seed", 1), ("--eager",)))
    assert one["token_ids"] == again["token_ids"] == eager["token_ids"] != other["token_ids"]


@pytest.mark.parametrize(
    "more",
    [
        ("--warp", "mixture", "--temperature", 0.8, "--top-p", 0.9),
        ("--warp", "mixture", "--temperature", 1, "--min-p", 0.1),
        ("--gate", "bayes", "--discount", 0.9, "--stride", 4, "--temperature", 1),
        ("--gate", "bayes", "--gate-prompt"),
    ],
    ids=lambda more: " ".join(map(str, more)),
)
def test_warps_and_gates_agree_with_eager(modist: Modist, tmp_path: Path, more: tuple[str, ...]) -> None:
    words = ("generate", recipe(tmp_path), "--chat", QUESTION, "--max-new-tokens", 16, "--dtype", "float64", *more)
    assert modist.json(*words)["token_ids"] == modist.json(*words, "--eager")["token_ids"]


def test_one_model_is_a_mixture_of_one(modist: Modist, tmp_path: Path) -> None:
    alone = modist.json("generate", MATH, "--chat", QUESTION)
    first = modist.json("generate", recipe(tmp_path, (0, 1)), "--chat", QUESTION)
    assert alone["text"] == first["text"] and "182" in alone["text"] and alone["finish_reason"] == "stop"
    assert alone["passes"] == {"math": len(alone["token_ids"])}
    assert all(row == [1.0] for row in alone["responsibilities"])


def test_stdin_and_dashes(modist: Modist, tmp_path: Path) -> None:
    words = ("generate", recipe(tmp_path), "--max-new-tokens", 8)
    given = modist.json(*words, "--prompt", "Leo has 9")
    for more in ((), ("--prompt", "-")):
        assert modist.json(*words, *more, stdin=b"Leo has 9\n")["token_ids"] == given["token_ids"]
    asked = modist.json(*words, "--chat", QUESTION)
    assert modist.json(*words, "--chat", "-", stdin=QUESTION.encode())["token_ids"] == asked["token_ids"]


def test_stop_texts(modist: Modist, tmp_path: Path) -> None:
    words = ("generate", MATH, "--chat", QUESTION)
    whole = modist.json(*words)["text"]
    cut = modist.json(*words, "--stop", "=", "--stop", "never seen")
    assert cut["text"] == whole[: whole.index("=")] and cut["finish_reason"] == "stop"
    assert modist(*words, "--stop", "=")[1] == cut["text"] + "\n"


def test_logits_needs_eager(modist: Modist, tmp_path: Path) -> None:
    words = ("generate", recipe(tmp_path), "--chat", QUESTION, "--law", "logits", "--max-new-tokens", 4)
    assert "eager" in modist.refused(*words)
    assert len(modist.json(*words, "--eager")["token_ids"]) == 4


def test_attribution_without_colours(modist: Modist, tmp_path: Path) -> None:
    words = ("generate", recipe(tmp_path), "--chat", QUESTION)
    text = modist.json(*words)["text"]
    status, out, _ = modist(*words, "--attribute")
    assert status == 0 and "\x1b" not in out
    answer, *legend = out.splitlines()
    for mark in ("A[", "B[", "~[", "]"):
        answer = answer.replace(mark, "")
    assert answer == text
    assert legend[0].startswith("A general, weight 0.6: ") and legend[1].startswith("B math, weight 0.4: ")
    assert legend[2].startswith("~ ")


def test_attribution_in_colours(modist: Modist, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    words = ("generate", recipe(tmp_path), "--chat", QUESTION, "--attribute")
    assert "\x1b[38;2;17;17;17;48;2;" in modist(*words)[1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "A[" in modist(*words)[1] or "B[" in modist(*words)[1]


def test_picture(modist: Modist, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    words = ("generate", recipe(tmp_path), "--chat", QUESTION, "--max-new-tokens", 4)
    assert modist(*words, "--picture", tmp_path / "a.png")[0] == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "suffix" in modist.refused(*words, "--picture", tmp_path / "a.txt")
    assert "no folder" in modist.refused(*words, "--picture", tmp_path / "none" / "a.png")


def test_ledger_goes_to_stderr(modist: Modist, tmp_path: Path) -> None:
    status, out, err = modist("generate", recipe(tmp_path), "--chat", QUESTION, "--ledger", "--temperature", 1)
    assert status == 0 and "passes" not in out
    for word in ("tokens ", "tokens/s", "passes     1.00 a token", "catch-up ", "certified ", "100.0%", "held once"):
        assert word in err


def test_dry_run_loads_nothing(modist: Modist, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modist.cli.experts.load", None)
    found = modist.json("generate", recipe(tmp_path), "--dry-run", "--max-new-tokens", 100)
    assert found["download_bytes"] == 0 and [one["name"] for one in found["experts"]] == ["general", "math"]
    # 5 layers of 2 heads of 32 numbers, keys and values, two bytes each
    assert [one["cache_bytes_per_token"] for one in found["experts"]] == [5 * 2 * 32 * 2 * 2] * 2
    assert found["cache_bytes_of_the_answer"] == 100 * 2 * 1280
    assert found["memory_bytes"] == found["weights_bytes"] + found["cache_bytes_of_the_answer"]
    assert modist.json("generate", MATH, "--dry-run", "--dtype", "float32")["weights_bytes"] == found["weights_bytes"]
    status, out, err = modist("generate", MATH, "--dry-run")
    assert (status, err) == (0, "") and "download  0 bytes" in out


def test_an_answer_cut_by_the_context(modist: Modist) -> None:
    words = ("generate", GENERAL, "--prompt", "nut " * 60, "--max-new-tokens", 400, "--temperature", 6)
    found = modist.json(*words)
    assert found["finish_reason"] == "length" and len(found["token_ids"]) < 256
    assert f"cut after {len(found['token_ids'])} tokens: an expert's context is full" in modist(*words)[2]


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ((0.5, 0.4), "sum to 0.9"),
        ((-0.5, 1.5), "-0.5"),
        ((".nan", 0.5), "nan"),
        ((1,), "1 weights for 2 experts"),
    ],
)
def test_weights_that_are_none(modist: Modist, tmp_path: Path, weights: tuple[float, ...], says: str) -> None:
    path = recipe(tmp_path, weights)
    shown = modist.refused("generate", path, "--prompt", "x")
    assert says in shown and f"{path}:4" in shown


def test_errors_are_one_line(modist: Modist, tmp_path: Path) -> None:
    good = recipe(tmp_path)
    assert "no folder" in modist.refused(
        "generate", recipe(tmp_path, models=(GENERAL, GENERAL.parent / "maths")), "--prompt", "x"
    )
    good = recipe(tmp_path)
    assert "neither" in modist.refused("generate", tmp_path / "none", "--prompt", "x")
    assert "no such recipe" in modist.refused("generate", tmp_path / "none.yml", "--prompt", "x")
    assert "bayes" in modist.refused("generate", good, "--prompt", "x", "--gate", "byes")
    assert "--gate bayes" in modist.refused("generate", good, "--prompt", "x", "--stride", 2)
    assert "warp" in modist.refused("generate", good, "--prompt", "x", "--temperature", 1, "--warp", "mixtures")
    assert "law" in modist.refused("generate", good, "--prompt", "x", "--law", "geometric")
    assert "temperature" in modist.refused("generate", good, "--prompt", "x", "--top-k", 5)
    assert "temperature" in modist.refused("generate", good, "--prompt", "x", "--temperature", 0)
    assert "temperature" in modist.refused("generate", good, "--prompt", "x", "--temperature", "nan")
    assert "top_p" in modist.refused("generate", good, "--prompt", "x", "--temperature", 1, "--top-p", 0)
    assert "max_new_tokens" in modist.refused("generate", good, "--prompt", "x", "--max-new-tokens", 0)
    assert "dtype" in modist.refused("generate", good, "--prompt", "x", "--dtype", "float23")
    assert "one of them" in modist.refused("generate", good, "--prompt", "x", "--chat", "y")
    assert "no prompt" in modist.refused("generate", good, terminal=True)
    assert "empty" in modist.refused("generate", good)
    assert "empty" in modist.refused("generate", good, "--prompt", "")
    assert "UTF-8" in modist.refused("generate", good, stdin=b"\xff")
    assert "half a character" in modist.refused("generate", good, "--prompt", "x\udcff")
    long = modist.refused("generate", good, "--prompt", "word " * 400)
    assert "context" in long and "256" in long


def test_a_merge_is_no_mixture(modist: Modist, tmp_path: Path) -> None:
    path = tmp_path / "m.yml"
    path.write_text(f"merge_method: linear\nmodels:\n  - model: {GENERAL}\n    parameters: {{weight: 1}}\n", encoding="utf-8")
    assert "'experts' and 'weights'" in modist.refused("generate", path, "--prompt", "x")


def test_a_damaged_expert_is_status_1(modist: Modist, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (broken / name).write_bytes((MATH / name).read_bytes())
    (broken / "model.safetensors").write_bytes((MATH / "model.safetensors").read_bytes()[:5000])
    status, out, err = modist("generate", recipe(tmp_path, models=(GENERAL, broken)), "--prompt", "x")
    assert (status, out) == (1, "") and err.count("\n") == 1 and "broken" in err


@pytest.mark.skipif(not GRIMM.exists(), reason="no fine-tunes here")
def test_two_fine_tunes(modist: Modist, tmp_path: Path) -> None:
    words = ("generate", recipe(tmp_path, (0.7, 0.3), (GRIMM, GSM8K)), "--prompt", "Once upon a time", "--max-new-tokens", 48)
    lazy, eager = modist.json(*words), modist.json(*words, "--eager")
    assert lazy["token_ids"] == eager["token_ids"] and lazy["passes_per_token"] < 2
    assert "chat template" in modist.refused("generate", GRIMM, "--chat", "Hello")
