"""The tasks for lm-evaluation-harness: they load in it, ask what we ask, and score as we score."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from modist.evaluation.answers.grade import grade
from modist.evaluation.benchmarks import find, known
from modist.evaluation.lm_eval_tasks import LACKING, folder
from modist.evaluation.prompt import stop_strings

lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (extra lm-eval)")

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the benchmarks' rows are not beside the repository (../shared/data)")


def load(names: list[str], **metadata: str) -> dict[str, Any]:
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder()), include_defaults=False, metadata={"data": str(DATA), **metadata})
    found = manager.load(names)["tasks"]
    return dict(found)


def test_there_is_a_task_for_each_it_lacks() -> None:
    from lm_eval.tasks import TaskManager

    own = TaskManager(include_path=str(folder()), include_defaults=False)
    assert set(own.all_subtasks) == {f"modist_{name}" for name in LACKING}
    assert set(LACKING) < set(known())
    assert "modist" in own.all_tags


@needs_data
def test_prompts_and_settings_are_ours() -> None:
    for name, task in load(["modist"]).items():
        benchmark = find(name.removeprefix("modist_"))
        items = benchmark.items(DATA)
        docs = list(task.test_docs())
        assert len(docs) == len(items) == benchmark.expected
        for place in (0, 1, len(docs) // 2, len(docs) - 1):
            asked = task.fewshot_context(docs[place], num_fewshot=0)
            assert asked == benchmark.prompt_for(items[place], "qwen25-math-cot")
            assert task.doc_to_target(docs[place]) == items[place].gold
        assert task.config.generation_kwargs["until"] == list(stop_strings("qwen25-math-cot"))
        assert task.config.generation_kwargs["max_gen_toks"] == benchmark.max_new_tokens
        assert task.config.generation_kwargs["do_sample"] is False
        assert benchmark.shots == 0


@needs_data
def test_the_models_own_template() -> None:
    (task,) = load(["modist_amc23"], style="chat").values()
    benchmark = find("amc23")
    (message,) = benchmark.prompt_for(benchmark.items(DATA)[3], "chat")
    chat = task.fewshot_context(
        list(task.test_docs())[3], num_fewshot=0, apply_chat_template=True, chat_template=lambda turns, **_: json.dumps(turns)
    )
    assert json.loads(chat) == [message]


@needs_data
def test_scores_are_those_of_our_graders() -> None:
    (task,) = load(["modist_amc23"]).values()
    doc = next(iter(task.test_docs()))
    assert doc["gold"] == "27"
    seen = set()
    for answer in (r"So it is $\boxed{27}$.", r"\boxed{28}", r"\boxed{27.0}", r"\boxed{2700}", "no idea", ""):
        ours = grade(doc["gold"], answer)
        found = task.process_results(doc, [answer])
        assert found == {"equal": float(ours.equal), "equal_compatible": float(ours.equal_compatible)}
        seen.add((ours.equal, ours.equal_compatible))
    assert {(True, True), (False, False), (False, True)} <= seen


@needs_data
def test_the_harness_runs_them() -> None:
    """A model that always gives the first question's answer, through the harness's own loop."""
    from lm_eval import simple_evaluate
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager

    class Parrot(LM):
        def generate_until(self, requests: Any, **_: Any) -> list[str]:
            self.seen = requests
            return [r"\boxed{27}"] * len(requests)

        def loglikelihood(self, requests: Any) -> Any:
            raise NotImplementedError

        loglikelihood_rolling = loglikelihood

    parrot = Parrot()
    manager = TaskManager(include_path=str(folder()), include_defaults=False, metadata={"data": str(DATA)})
    found = simple_evaluate(model=parrot, tasks=["modist_amc23"], task_manager=manager, limit=4, bootstrap_iters=0)
    result = found["results"]["modist_amc23"]
    golds = [item.gold for item in find("amc23").items(DATA)[:4]]
    assert golds.count("27") == 1
    assert (result["equal,none"], result["equal_compatible,none"]) == (0.25, 0.25)
    assert parrot.seen[0].args[1]["max_gen_toks"] == 2048


def test_yaml_files_are_small_and_read_without_the_harness() -> None:
    names = sorted(path.stem for path in folder().glob("*.yaml"))
    assert names == sorted(f"modist_{name}" for name in LACKING)

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))  # type: ignore[arg-type]
    spec = importlib.util.spec_from_file_location("task", folder() / "task.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in names:
        text = (folder() / f"{name}.yaml").read_text(encoding="utf-8")
        read = yaml.load(text, Loader)
        assert read == {
            "include": "_modist_task_yaml",
            "task": name,
            "custom_dataset": f"task.{name.removeprefix('modist_')}",
        }
        assert callable(getattr(module, name.removeprefix("modist_")))
    base = yaml.load((folder() / "_modist_task_yaml").read_text(encoding="utf-8"), Loader)
    assert [metric["metric"] for metric in base["metric_list"]] == ["equal", "equal_compatible"]


@pytest.mark.full
@needs_data
@pytest.mark.parametrize(("name", "style", "count"), [("mawps", "qwen25-math-cot", 108), ("svamp", "chat", 14)])
def test_on_a_demo_expert_it_scores_as_our_own_run_does(name: str, style: str, count: int) -> None:
    """The harness's own Hugging Face model against our generator and grader, answer by answer."""
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from modist.evaluation.generators.generator import Ask, Sampling
    from modist.evaluation.generators.open import open_generator

    torch.set_num_threads(1)
    expert, tokens = ROOT / "examples" / "experts" / "math", 48
    metadata = {"data": str(DATA), "style": style}
    manager = TaskManager(include_path=str(folder()), include_defaults=False, metadata=metadata)
    found = simple_evaluate(
        model=HFLM(pretrained=str(expert), device="cpu", dtype="float32", batch_size=16),
        tasks=[f"modist_{name}"],
        task_manager=manager,
        limit=count,
        bootstrap_iters=0,
        log_samples=True,
        apply_chat_template=style == "chat",
        gen_kwargs=f"max_gen_toks={tokens}",
    )
    theirs = sorted(found["samples"][f"modist_{name}"], key=lambda sample: sample["doc_id"])
    benchmark = find(name)
    items = benchmark.items(DATA)[:count]
    generator = open_generator("transformers", str(expert), device="cpu", dtype="float32")
    asks = [Ask(item.id, benchmark.prompt_for(item, style), tokens, stop_strings(style, benchmark)) for item in items]
    replies = generator.answer(asks, Sampling())
    generator.close()
    grades = [grade(item.gold, reply.text, benchmark.kind) for item, reply in zip(items, replies, strict=True)]
    assert [sample["doc"]["id"] for sample in theirs] == [item.id for item in items]
    assert [sample["resps"][0][0].strip() for sample in theirs] == [reply.text.strip() for reply in replies]
    assert [bool(sample["equal"]) for sample in theirs] == [one.equal for one in grades]
    assert [bool(sample["equal_compatible"]) for sample in theirs] == [one.equal_compatible for one in grades]
    # It was never trained on these; an agreement of zeros alone would say little.
    assert 0 < sum(one.equal for one in grades) < count
