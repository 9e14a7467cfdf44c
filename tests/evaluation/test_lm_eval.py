"""lm-evaluation-harness on a mixture, by its three routes, against scores computed here in float64."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (extra lm-eval)")

from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from modist.errors import UserError
from modist.evaluation.lm_eval import MixtureLM
from modist.mixture import MixtureForCausalLM
from tests.mixture.tiny_experts import greedy_by_hand, mixed64, saved, tiny
from tests.tiny_models import write_recipe

WEIGHTS = [0.6, 0.4]
QUESTIONS = [
    ("word5 word9 word20", "word7"),
    ("word1 word2 word3 word4 word5 word6", "word30 word31"),
    ("word8", "word9 word3"),
]
TASKS = {
    "mix_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": 0,
        "metric_list": [{"metric": "acc"}],
    },
    "mix_rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}} {{answer}}",
        "metric_list": [{"metric": "byte_perplexity"}],
    },
    "mix_until": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["word999"], "max_gen_toks": 6, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
}


@pytest.fixture(scope="module")
def pair() -> list[Any]:
    return [tiny(1, "llama"), tiny(2, "qwen2-tied")]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, pair: list[Any]) -> Path:
    home = tmp_path_factory.mktemp("experts")
    folders = [saved(home / name, model) for name, model in zip(("one", "two"), pair, strict=True)]
    experts = [{"source_model": folder} for folder in folders]
    return write_recipe(home / "mix.yml", {"experts": experts, "weights": WEIGHTS})


@pytest.fixture(scope="module")
def route(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, HFLM]:
    """The mixture as lm_eval sees it, by each route."""
    home = tmp_path_factory.mktemp("saved")
    mixture = MixtureForCausalLM.from_recipe(recipe)
    mixture.save_pretrained(home / "recipe")
    mixture.save_pretrained(home / "whole", materialise=True)
    tokenizer = str(home / "recipe")
    return {
        "own": MixtureLM(recipe=str(recipe), device="cpu", batch_size=2),
        "object": HFLM(pretrained=mixture, tokenizer=tokenizer, batch_size=2),
        "recipe folder": HFLM(pretrained=str(home / "recipe"), trust_remote_code=True, device="cpu", batch_size=2),
        "whole folder": HFLM(pretrained=str(home / "whole"), trust_remote_code=True, device="cpu", batch_size=2),
    }


ROUTES = ["own", "object", "recipe folder", "whole folder"]


def instances(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=each, idx=index) for index, each in enumerate(arguments)]


@pytest.mark.parametrize("name", ROUTES)
def test_loglikelihoods_are_the_mixtures(route: dict[str, HFLM], pair: list[Any], name: str) -> None:
    model = route[name]
    asked = [(question, " " + answer) for question, answer in QUESTIONS]
    found = model.loglikelihood(instances("loglikelihood", asked), disable_tqdm=True)
    for (score, greedy), (question, answer) in zip(found, asked, strict=True):
        context, target = model.tok_encode(question), model.tok_encode(answer)
        law = mixed64(pair, WEIGHTS, torch.tensor([context + target]))[0, len(context) - 1 : -1]
        expected = law.gather(1, torch.tensor(target)[:, None])
        assert abs(score - float(expected.sum())) < 1e-5 * len(target)
        assert greedy == (law.argmax(-1).tolist() == target)


@pytest.mark.parametrize("name", ROUTES)
def test_rolling_loglikelihoods_are_the_mixtures(route: dict[str, HFLM], pair: list[Any], name: str) -> None:
    model = route[name]
    text = " ".join(f"word{number % 150}" for number in range(7, 7 + 50))
    (found,) = model.loglikelihood_rolling(instances("loglikelihood_rolling", [(text,)]), disable_tqdm=True)
    ids = [model.prefix_token_id, *model.tok_encode(text)]
    expected = mixed64(pair, WEIGHTS, torch.tensor([ids]))[0, :-1].gather(1, torch.tensor(ids[1:])[:, None]).sum()
    assert abs(float(found) - float(expected)) < 1e-5 * len(ids)


@pytest.mark.parametrize("name", ROUTES)
def test_generation_is_the_mixtures(route: dict[str, HFLM], pair: list[Any], name: str) -> None:
    model = route[name]
    settings = {"until": ["word999"], "max_gen_toks": 6, "do_sample": False}
    found = model.generate_until(instances("generate_until", [(q, dict(settings)) for q, _ in QUESTIONS]), disable_tqdm=True)
    for text, (question, _) in zip(found, QUESTIONS, strict=True):
        new = greedy_by_hand(pair, WEIGHTS, model.tok_encode(question), 6, {2})
        assert text.split() == model.tokenizer.decode(new, skip_special_tokens=True).split()


def task_folder(home: Path) -> Path:
    home.mkdir()
    rows = [{"question": q, "answer": a, "choices": [a, "word100", "word101 word102"]} for q, a in QUESTIONS]
    (home / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, task in TASKS.items():
        # JSON is YAML.
        common = {"task": name, "dataset_path": "json", "test_split": "train", "num_fewshot": 0}
        data = {"dataset_kwargs": {"data_files": str(home / "rows.jsonl")}}
        (home / f"{name}.yaml").write_text(json.dumps({**common, **data, **task}))
    return home


def test_tasks_run_alike_by_every_route(route: dict[str, HFLM], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    tasks = TaskManager(include_path=str(task_folder(tmp_path / "tasks")), include_defaults=False)
    tables = []
    for model in (route["own"], route["whole folder"]):
        found = simple_evaluate(model=model, tasks=list(TASKS), task_manager=tasks, bootstrap_iters=0)
        tables.append({name: found["results"][name] for name in TASKS})
    assert tables[0] == tables[1]
    assert tables[0]["mix_rolling"]["byte_perplexity,none"] > 1
    assert 0 <= tables[0]["mix_choice"]["acc,none"] <= 1


def command(recipe: Path, home: Path) -> list[str]:
    line = ["run", "--model", "mixture", "--model_args", f"recipe={recipe}", "--device", "cpu", "--tasks", "mix_choice"]
    return [*line, "--include_path", str(task_folder(home / "tasks")), "--output_path", str(home / "out")]


def test_the_harness_knows_the_model_type(recipe: Path, tmp_path: Path) -> None:
    """The command's two steps without its start, which takes half a minute: look the type up, make it from text."""
    from lm_eval.api.registry import get_model

    model = get_model("mixture").create_from_arg_string(f"recipe={recipe},law=logits", {"batch_size": 4, "device": "cpu"})
    assert isinstance(model.model, MixtureForCausalLM) and model.model.config.law == "logits" and model.batch_size == 4


@pytest.mark.full
def test_the_documented_command(recipe: Path, tmp_path: Path) -> None:
    env = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "modist.evaluation.lm_eval", *command(recipe, tmp_path)],
        env=env,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "mix_choice" in done.stdout and list((tmp_path / "out").rglob("results*.json"))


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(UserError, match="recipe=FILE or as pretrained=FOLDER"):
        MixtureLM()
