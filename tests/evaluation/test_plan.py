"""Plans: which questions, in which batches, and when two plans are one."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from modist.errors import UserError
from modist.evaluation.benchmark import Benchmark, EvaluationError, Item
from modist.evaluation.generators.generator import Sampling
from modist.evaluation.plan import Settings, check_run, differences, draw, make_plan, sample_seed
from tests.evaluation.fake_runs import FakeGenerator, sums


def drawn(limit: int | None, seed: int = 0, rows: int = 500) -> list[str]:
    return [item.id for item in draw(sums(rows).items(None), limit, seed)]


def test_draws_grow_and_are_the_same_for_everybody() -> None:
    small, large = drawn(50), drawn(120)
    assert len(small) == 50 == len(set(small)) and set(small) < set(large) and len(large) == 120
    # In the file's order, without a favour for its beginning.
    assert small == sorted(small) and large == sorted(large)
    first = sum(id < "sums-0250" for id in large)
    assert 40 < first < 80
    assert drawn(50) == small and drawn(50, seed=1) != small
    assert drawn(None) == drawn(500) == drawn(9999) == [f"sums-{n:04d}" for n in range(500)]
    # A file that grew moves no question: those drawn are replaced by new ones at most.
    assert set(drawn(50, rows=600)) - {f"sums-{n:04d}" for n in range(500, 600)} <= set(small)


def test_draws_of_two_benchmarks_are_their_own() -> None:
    one = [int(item.id[-4:]) for item in draw(sums(500).items(None), 50, 0)]
    other = [int(item.id[-4:]) for item in draw(sums(500, "more").items(None), 50, 0)]
    assert len(set(one) & set(other)) < 20


def test_batches_are_fixed_by_length() -> None:
    plan = make_plan(FakeGenerator(batch_size=4), [sums(10), sums(3, "few")], None, Settings())
    assert [batch["benchmark"] for batch in plan.data["batches"]] == ["sums"] * 3 + ["few"]
    assert [len(batch["asks"]) for batch in plan.data["batches"]] == [4, 4, 2, 3]
    lengths = [plan.lengths[item.benchmark, item.id] for batch in plan.batches[:3] for item, _ in batch]
    assert lengths == sorted(lengths, reverse=True) and len(set(lengths)) > 1
    asked = [(id, sample) for batch in plan.data["batches"][:3] for id, sample in batch["asks"]]
    assert sorted(asked) == [(f"sums-{n:04d}", 0) for n in range(10)]
    ask = plan.asks(3)[0]
    assert ask.key.startswith("few/few-") and ask.max_new_tokens == 32 and "<|im_end|>" in ask.stop
    assert plan.data["settings"]["batch_size"] == 4 and plan.answers == 13
    assert plan.data == json.loads(json.dumps(plan.data))


def test_samples_stay_together() -> None:
    plan = make_plan(FakeGenerator(batch_size=6), [sums(4)], None, Settings(samples=3, sampling=Sampling(0.7)))
    assert [[sample for _, sample in batch["asks"]] for batch in plan.data["batches"]] == [[0, 1, 2] * 2] * 2
    assert len({id for id, _ in plan.data["batches"][0]["asks"]}) == 2


def test_styles() -> None:
    def style(benchmark: Benchmark, given: str | None) -> str:
        return str(make_plan(FakeGenerator(), [benchmark], None, Settings(style=given)).data["benchmarks"][0]["style"])

    assert style(sums(), None) == "qwen25-math-cot" and style(sums(), "chat") == "chat"
    assert style(sums(prompt="plain"), None) == "plain" and style(sums(prompt="plain"), "chat") == "plain"


def test_seeds_of_samples() -> None:
    seeds = {sample_seed(seed, name, id, n) for seed in (0, 1) for name in "ab" for id in "cd" for n in range(50)}
    assert len(seeds) == 400 and all(0 <= seed < 1 << 31 for seed in seeds)
    assert sample_seed(0, "a", "b", 0) == sample_seed(0, "a", "b", 0)
    # Names cannot run into one another.
    assert sample_seed(0, "a", "b1", 2) != sample_seed(0, "a", "b", 12)


def test_differences_are_told_in_words() -> None:
    plan = make_plan(FakeGenerator(), [sums()], None, Settings()).data
    assert differences(plan, copy.deepcopy(plan)) == []
    other = copy.deepcopy(plan)
    other["batches"].reverse()
    assert differences(plan, other) == ["the batches, since prompts have other lengths"]
    other = copy.deepcopy(plan)
    other["benchmarks"][0]["prompts"] = "x"
    assert differences(plan, other) == ["sums: the prompts are not the same"]
    other["benchmarks"][0]["digest"] = "x"
    assert differences(plan, other) == ["sums: the data are not the same"]
    other = copy.deepcopy(plan)
    other["settings"]["limit"], other["model"]["dtype"] = 5, "float16"
    other["benchmarks"][0]["stop"] = []
    assert differences(plan, other) == [
        "model: dtype: null there, float16 here",
        "settings: limit: null there, 5 here",
        'sums: stop: ["</s>", "<|im_end|>", "<|endoftext|>"] there, [] here',
    ]
    other["settings"] |= dict.fromkeys(("a", "b", "c", "d"), 1)
    assert differences(plan, other)[-1] == "3 more" and len(differences(plan, other)) == 5


def test_data_is_checked() -> None:
    def read(path: Path, name: str) -> list[Item]:
        return [Item(name, "same", "q", "1"), Item(name, "same", "r", "2")]

    twice = Benchmark("twice", "Twice", 2, "nowhere", "math", files=(str(Path(__file__)),), read=read)
    for check in (lambda: check_run([twice], None, Settings()), lambda: make_plan(FakeGenerator(), [twice], None, Settings())):
        with pytest.raises(EvaluationError, match="twice: the id 'same' is there twice"):
            check()
    with pytest.raises(UserError, match="rows are not in"):
        check_run([Benchmark("absent", "A", 1, "nowhere", "math", files=("absent/test.jsonl",))], Path("/nowhere"), Settings())
