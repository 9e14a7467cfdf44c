"""`modist score` against probabilities computed here in float64."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from modist.mixture.gate import Gate
from modist.mixture.score import mixture_scores
from tests.cli.mixtures import GENERAL, GRIMM, GSM8K, MATH, QUESTION, Modist, recipe

ANSWER = "97 + 85 = 182. The answer is 182."


@pytest.fixture
def modist(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Modist:
    return Modist(monkeypatch, capsys)


def log_probs(folder: Path, ids: Sequence[int], first: int) -> torch.Tensor:
    """log p of ids[first:] by transformers alone, weights and sums in float64."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    with torch.no_grad():
        logits = model(torch.tensor([list(ids)])).logits[0]
    return torch.log_softmax(logits, -1)[first - 1 : -1].gather(1, torch.tensor([list(ids[first:])]).T)[:, 0]


def tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def check(found: dict[str, Any], parts: torch.Tensor, weights: Sequence[float]) -> None:
    mixed = (parts.exp() * torch.tensor(weights, dtype=torch.float64)[:, None]).sum(0).log()
    assert found["tokens"] == len(mixed)
    assert found["nats_per_token"] == pytest.approx(-float(mixed.mean()), abs=1e-5)
    for expert, part in zip(found["experts"], parts, strict=True):
        assert expert["nats_per_token"] == pytest.approx(-float(part.mean()), abs=1e-5)


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_scores_are_those_of_float64(modist: Modist, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    file = write(tmp_path / "d.jsonl", {"text": f"{QUESTION} {ANSWER}", "id": 7}, {"messages": messages})
    found = modist.json("score", recipe(tmp_path), file, "--dtype", "float32")
    own = tokenizer(GENERAL)
    text = own(f"{QUESTION} {ANSWER}")["input_ids"]
    prompt = own.apply_chat_template(messages[:1], add_generation_prompt=True, return_dict=True)["input_ids"]
    answer = own(ANSWER)["input_ids"]
    rows = [
        torch.stack([log_probs(folder, text, 1) for folder in (GENERAL, MATH)]),
        torch.stack([log_probs(folder, [*prompt, *answer], len(prompt)) for folder in (GENERAL, MATH)]),
    ]
    for row, parts in zip(found["rows"], rows, strict=True):
        check(row, parts, (0.6, 0.4))
    check(found, torch.cat(rows, 1), (0.6, 0.4))
    assert [row["line"] for row in found["rows"]] == [1, 2]
    assert found["perplexity"] == pytest.approx(torch.tensor(found["nats_per_token"]).exp().item())
    assert [(one["name"], one["weight"]) for one in found["experts"]] == [("general", 0.6), ("math", 0.4)]
    assert sum(one["responsibility"] for one in found["experts"]) == pytest.approx(1)


@pytest.mark.skipif(not GRIMM.exists(), reason="no fine-tunes here")
def test_a_plain_text_of_two_fine_tunes(modist: Modist, tmp_path: Path) -> None:
    text = "Once upon a time there was a king.\nHe had three sons and 12 coins.\n"
    (tmp_path / "d.txt").write_text(text, encoding="utf-8")
    found = modist.json("score", recipe(tmp_path, (0.3, 0.7), (GRIMM, GSM8K)), tmp_path / "d.txt")
    ids = tokenizer(GRIMM)(text)["input_ids"]
    check(found, torch.stack([log_probs(folder, ids, 1) for folder in (GRIMM, GSM8K)]), (0.3, 0.7))
    assert len(found["rows"]) == 1


def test_bayes_without_discount_is_the_mixture_of_whole_texts(modist: Modist, tmp_path: Path) -> None:
    file = write(tmp_path / "d.jsonl", {"text": f"{QUESTION} {ANSWER}"})
    found = modist.json("score", recipe(tmp_path), file, "--gate", "bayes")
    nats = torch.tensor([one["nats_per_token"] for one in found["experts"]], dtype=torch.float64) * found["tokens"]
    whole = torch.logsumexp(torch.tensor([0.6, 0.4], dtype=torch.float64).log() - nats, 0)
    assert found["nats_per_token"] * found["tokens"] == pytest.approx(-float(whole), abs=1e-4)


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize(("discount", "stride"), [(1.0, 1), (0.7, 3), (0.0, 2)])
def test_the_running_sum_is_the_gates_law(discount: float, stride: int, prompt: bool) -> None:
    torch.manual_seed(0)
    parts, before = -4 * torch.rand(3, 20, dtype=torch.float64), -4 * torch.rand(3, 5, dtype=torch.float64)
    gate = Gate("bayes", discount, stride, prompt)
    weights = (0.2, 0.3, 0.5)
    base = torch.tensor(weights, dtype=torch.float64).log()
    past = torch.cat([before, parts], 1) if prompt else parts
    shift = before.shape[1] if prompt else 0
    log_a = torch.stack([gate.bayes(base, past[:, : shift + t - t % stride]) for t in range(20)], 1)
    log_p, shares = mixture_scores(parts, weights, gate, before=before)
    assert torch.allclose(log_p, torch.logsumexp(parts + log_a, 0), atol=1e-12)
    assert torch.allclose(shares.sum(0), torch.ones(20, dtype=torch.float64))


def test_counting_the_prompt_of_a_chat(modist: Modist, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    file = write(tmp_path / "d.jsonl", {"messages": messages})
    found = modist.json("score", recipe(tmp_path), file, "--gate", "bayes", "--gate-prompt", "--dtype", "float32")
    own = tokenizer(GENERAL)
    prompt = own.apply_chat_template(messages[:1], add_generation_prompt=True, return_dict=True)["input_ids"]
    ids = [*prompt, *own(ANSWER)["input_ids"]]
    every = torch.stack([log_probs(folder, ids, 1) for folder in (GENERAL, MATH)]).sum(1)
    asked = torch.stack([log_probs(folder, prompt, 1) for folder in (GENERAL, MATH)]).sum(1)
    base = torch.tensor([0.6, 0.4], dtype=torch.float64).log()
    expected = torch.logsumexp(base + every, 0) - torch.logsumexp(base + asked, 0)
    assert found["nats_per_token"] * found["tokens"] == pytest.approx(-float(expected), abs=1e-4)


def test_long_texts_in_windows_and_pieces(modist: Modist, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join([QUESTION, ANSWER] * 12)
    (tmp_path / "d.txt").write_text(text, encoding="utf-8")
    words = ("score", recipe(tmp_path), tmp_path / "d.txt", "--dtype", "float64")
    whole = modist.json(*words)
    ids = tokenizer(GENERAL)(text)["input_ids"]
    assert whole["tokens"] == len(ids) - 1 > 512
    monkeypatch.setattr("modist.mixture.score._LOGITS", 50 * 512)
    assert modist.json(*words)["nats_per_token"] == pytest.approx(whole["nats_per_token"], abs=1e-9)
    # The context is 256: tokens from there on are scored with at least half of it before them.
    parts = []
    for folder in (GENERAL, MATH):
        found, scored = [log_probs(folder, ids[:256], 1)], 256
        while scored < len(ids):
            window = ids[scored - 128 : scored + 128]
            found.append(log_probs(folder, window, 128))
            scored += len(window) - 128
        parts.append(torch.cat(found))
    check(whole, torch.stack(parts), (0.6, 0.4))


def test_one_model_and_a_table(modist: Modist, tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_text(ANSWER, encoding="utf-8")
    found = modist.json("score", MATH, tmp_path / "d.txt")
    assert found["nats_per_token"] == pytest.approx(found["experts"][0]["nats_per_token"])
    status, out, err = modist("score", recipe(tmp_path), tmp_path / "d.txt")
    assert (status, err) == (0, "")
    for word in ("general", "math", "mixture", "perplexity", "than its best expert, math"):
        assert word in out


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "not JSON"),
        ("[1]", "object"),
        ('"x"', "object"),
        ("{}", "neither"),
        ('{"text": "a", "messages": []}', "text and messages"),
        ('{"text": 3}', "string"),
        ('{"text": "\\ud800 a b"}', "half a character"),
        ('{"messages": "x"}', "list"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}', "at least two"),
        ('{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}', "assistant's"),
        ('{"messages": [{"role": "user"}, {"role": "assistant", "content": "b"}]}', "messages[0]"),
    ],
)
def test_malformed_lines(modist: Modist, tmp_path: Path, line: str, says: str) -> None:
    file = tmp_path / "d.jsonl"
    file.write_text('{"text": "one two"}\n\n' + line + "\n", encoding="utf-8")
    shown = modist.refused("score", MATH, file)
    assert f"{file}:3: " in shown and says in shown


def test_files_that_hold_nothing(modist: Modist, tmp_path: Path) -> None:
    assert "no such file" in modist.refused("score", MATH, tmp_path / "none.jsonl")
    assert "folder" in modist.refused("score", MATH, tmp_path)
    for name, content in (("a.jsonl", b"\n\n"), ("a.txt", b" \n")):
        (tmp_path / name).write_bytes(content)
        assert "holds no" in modist.refused("score", MATH, tmp_path / name)
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe")
    assert "UTF-8" in modist.refused("score", MATH, tmp_path / "b.txt")
    (tmp_path / "c.jsonl").write_text('{"text": "one two three"}\n{"text": ","}\n', encoding="utf-8")
    assert f"{tmp_path / 'c.jsonl'}:2: nothing to score" in modist.refused("score", MATH, tmp_path / "c.jsonl")
    assert "bayes" in modist.refused("score", MATH, tmp_path / "c.jsonl", "--gate", "x")
