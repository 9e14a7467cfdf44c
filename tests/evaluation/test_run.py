"""Runs: every answer once, graded, in the plan's batches, whatever comes between."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from modist.errors import ModistError, UserError
from modist.evaluation import run
from modist.evaluation.answers.grade import Grade
from modist.evaluation.benchmark import EvaluationError
from modist.evaluation.generators.generator import Ask, GenerationError, Reply, Sampling
from modist.evaluation.run import Settings, Watch, evaluate, read_results
from tests.evaluation.fake_runs import FakeGenerator, FakeGraders, rows, sums, told


@pytest.fixture(autouse=True)
def fake_graders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "Graders", FakeGraders)


def remarks() -> tuple[list[str], Watch]:
    found: list[str] = []
    return found, Watch(note=found.append)


def test_every_answer_once(tmp_path: Path) -> None:
    generator = FakeGenerator()
    results = evaluate(generator, [sums(20), sums(5, "few")], tmp_path / "a", None, Settings())
    assert [record.id for record in results.of("sums")] == [f"sums-{n:04d}" for n in range(20)]
    assert [record.id for record in results.of("few")] == [f"few-{n:04d}" for n in range(5)]
    assert [record.equal for record in results.of("sums")] == [n % 4 != 0 for n in range(20)]
    assert results.right("sums") == 15 and results.count("sums") == 20 and results.right("few") == 3
    assert results.name == "fake" and results.already == 0 and not results.errors
    record = results.of("sums")[7]
    assert (record.gold, record.extracted, record.tokens, record.prompt_tokens) == ("14", "14", 12, 9)
    assert (record.finish_reason, record.note, record.domain, record.seconds) == ("stop", "", "even", 0.01)
    assert record.output == "In a batch of 3: \\boxed{14}" and "What is 7 + 7?" in record.prompt
    # The file holds each once, batch by batch, and a batch holds one benchmark alone, the longest first.
    there = rows(tmp_path / "a")
    assert [row["batch"] for row in there] == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3 + [5] * 3 + [6] * 2 + [7] * 3 + [
        8
    ] * 2
    assert len(generator.asked) == 9 and [len(keys) for keys in generator.asked] == [3] * 6 + [2, 3, 2]
    lengths = [len(row["prompt"]) for row in there if row["benchmark"] == "sums"]
    assert lengths == sorted(lengths, reverse=True)
    again = read_results(tmp_path / "a")
    assert again.records == results.records and again.already == 25


def test_a_finished_run_is_only_read(tmp_path: Path) -> None:
    first = evaluate(FakeGenerator(), [sums()], tmp_path / "a", None, Settings())
    before = (tmp_path / "a" / "answers.jsonl").read_bytes()
    generator = FakeGenerator()
    second = evaluate(generator, [sums()], tmp_path / "a", None, Settings())
    assert not generator.asked and second.records == first.records and second.already == 20
    assert (tmp_path / "a" / "answers.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"settings": Settings(limit=7)}, "limit: null there, 7 here"),
        ({"settings": Settings(seed=1)}, "seed: 0 there, 1 here"),
        ({"settings": Settings(batch_size=4)}, "batch_size: 3 there, 4 here"),
        ({"settings": Settings(style="plain")}, "style: qwen25-math-cot there, plain here"),
        ({"settings": Settings(sampling=Sampling(0.5))}, "temperature: null there, 0.5 here"),
        ({"settings": Settings(max_new_tokens=9)}, "max_new_tokens: 32 there, 9 here"),
        ({"generator": FakeGenerator(dtype="bfloat16")}, "dtype: null there, bfloat16 here"),
        ({"generator": FakeGenerator("other")}, "name: fake there, other here"),
        ({"benchmarks": [sums(21)]}, "the data are not the same"),
        ({"benchmarks": [sums(), sums(5, "few")]}, "benchmarks: sums there, sums, few here"),
        ({"benchmarks": [sums(kind="text")]}, "kind: math there, text here"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_plan_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"generator": FakeGenerator(), "benchmarks": [sums()], "settings": Settings()}
    evaluate(folder=tmp_path / "a", data=None, **given)
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    with pytest.raises(UserError) as caught:
        evaluate(folder=tmp_path / "a", data=None, **{**given, **change})
    assert said in str(caught.value) and str(tmp_path / "a") in str(caught.value)
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before


def test_samples_have_seeds_of_their_own(tmp_path: Path) -> None:
    seen: dict[str, int] = {}
    generator = FakeGenerator()
    generator.fails = lambda ask: seen.update({ask.key: ask.seed}) or ""  # type: ignore[func-returns-value]
    settings = Settings(samples=4, sampling=Sampling(1.0), seed=5)
    results = evaluate(generator, [sums(6), sums(6, "more")], tmp_path / "a", None, settings)
    assert len(seen) == 48 == len(set(seen.values())) and all(0 <= one < 2**31 for one in seen.values())
    assert [record.sample for record in results.of("sums")] == [0, 1, 2, 3] * 6
    assert results.count("sums") == 6 and len(results.of("sums")) == 24 and results.samples == 4
    first = dict(seen)
    evaluate(generator, [sums(6)], tmp_path / "b", None, settings)
    assert all(seen[key] == first[key] for key in seen if key.startswith("sums/"))
    evaluate(generator, [sums(6)], tmp_path / "c", None, dataclasses.replace(settings, seed=6))
    assert not any(seen[key] == first[key] for key in seen if key.startswith("sums/"))
    with pytest.raises(UserError, match="--samples 4: greedy answers are all the same"):
        evaluate(FakeGenerator(), [sums()], tmp_path / "d", None, Settings(samples=4))


def test_errors_are_kept_told_and_asked_again(tmp_path: Path) -> None:
    generator = FakeGenerator()
    generator.fails = lambda ask: "HTTP 500" if ask.key in ("sums/sums-0003/0", "sums/sums-0011/0") else ""
    found, watch = remarks()
    results = evaluate(generator, [sums()], tmp_path / "a", None, Settings(), watch)
    assert [record.id for record in results.errors] == ["sums-0003", "sums-0011"]
    assert all(not one.equal and not one.equal_compatible and one.note == "HTTP 500" for one in results.errors)
    assert len(results.of("sums")) == 20 and results.right("sums") == 13
    assert any("2 of 20 answers failed and count as wrong" in line and "HTTP 500" in line for line in found)
    # The same command asks nothing; with --retry-errors whole batches are asked, since padding may change an answer.
    well = FakeGenerator()
    evaluate(well, [sums()], tmp_path / "a", None, Settings())
    assert not well.asked
    results = evaluate(well, [sums()], tmp_path / "a", None, Settings(retry_errors=True))
    assert not results.errors and results.right("sums") == 15
    asked = {key for keys in well.asked for key in keys}
    assert {"sums/sums-0003/0", "sums/sums-0011/0"} <= asked and {len(keys) for keys in well.asked} <= {3, 2}
    clean = evaluate(FakeGenerator(), [sums()], tmp_path / "b", None, Settings())
    assert results.records == clean.records and told(tmp_path / "a") == told(tmp_path / "b")


def test_an_endpoint_keeps_its_good_answers(tmp_path: Path) -> None:
    generator = FakeGenerator(kind="openai")
    generator.fails = lambda ask: "HTTP 500" if ask.key == "sums/sums-0003/0" else ""
    evaluate(generator, [sums()], tmp_path / "a", None, Settings())
    well = FakeGenerator(kind="openai")
    results = evaluate(well, [sums()], tmp_path / "a", None, Settings(retry_errors=True))
    assert well.asked == [["sums/sums-0003/0"]] and not results.errors and results.right("sums") == 15
    assert len(rows(tmp_path / "a")) == 20


def test_nobody_there(tmp_path: Path) -> None:
    """Failure after failure ends the run at once, and leaves nothing that a later run would take for answers."""
    generator = FakeGenerator(batch_size=4)
    generator.fails = lambda ask: "connection refused"
    with pytest.raises(EvaluationError, match=r"the last 12 questions got no answer \(connection refused\)"):
        evaluate(generator, [sums(100)], tmp_path / "a", None, Settings())
    assert len(generator.asked) == 3 and not rows(tmp_path / "a")
    results = evaluate(FakeGenerator(batch_size=4), [sums(100)], tmp_path / "a", None, Settings())
    assert not results.errors and len(results.records) == 100
    results = evaluate(generator, [sums(100)], tmp_path / "b", None, Settings(keep_going=True))
    assert len(results.errors) == 100 == len(rows(tmp_path / "b"))


def test_some_whole_batches_may_fail(tmp_path: Path) -> None:
    generator = FakeGenerator(batch_size=2)
    bad = {f"sums/sums-{n:04d}/0" for n in (17, 14, 11, 8, 5, 2)}
    generator.fails = lambda ask: "too long" if ask.key in bad else ""
    results = evaluate(generator, [sums(20)], tmp_path / "a", None, Settings())
    assert len(results.errors) == 6 and len(rows(tmp_path / "a")) == 20
    assert [row["batch"] for row in rows(tmp_path / "a")] == sorted(row["batch"] for row in rows(tmp_path / "a"))


def test_one_whole_batch_may_fail_however_large(tmp_path: Path) -> None:
    generator = FakeGenerator(batch_size=20)
    generator.fails = lambda ask: "hiccup" if len(generator.asked) == 1 else ""
    assert len(evaluate(generator, [sums(60)], tmp_path / "a", None, Settings()).errors) == 20


def test_lies_of_a_generator(tmp_path: Path) -> None:
    """Replies that are missing, doubled, strange or out of order."""

    class Liar(FakeGenerator):
        def answer(self, asks: Sequence[Ask], sampling: Sampling) -> list[Reply]:
            found = super().answer(asks, sampling)
            extra = Reply("nobody/asked/0", "9", "", 1, 1, "stop", 0.0)
            return [extra, *found[1:][::-1], dataclasses.replace(found[1], text="\\boxed{-1}")]

    results = evaluate(Liar(), [sums(12)], tmp_path / "a", None, Settings())
    assert len(results.records) == 12 and len(results.errors) == 4
    assert {record.note for record in results.errors} == {"the generator gave no reply"}
    assert all(record.extracted != "-1" for record in results.records)


def test_long_and_strange_answers(tmp_path: Path) -> None:
    class Long(FakeGenerator):
        def answer(self, asks: Sequence[Ask], sampling: Sampling) -> list[Reply]:
            said = ["x" * 100_000, "\ud800 \u2028 \x00 \\boxed{2}", "\\boxed{hang}"]
            return [Reply(ask.key, said[n % 3], "p", 1, 1, "length", 0.0) for n, ask in enumerate(asks)]

    found, watch = remarks()
    results = evaluate(Long(), [sums(3)], tmp_path / "a", None, Settings(), watch)
    assert sorted(len(record.output) for record in results.records) == [12, 15, 100_000]
    assert read_results(tmp_path / "a").records == results.records and len(rows(tmp_path / "a")) == 3
    assert any("grading 1 answer: time limit" in line for line in found)


def test_grading_overlaps_and_a_stop_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a batch is graded the next one is answered; Ctrl-C in the latter loses it alone."""
    grading, answering = threading.Event(), threading.Event()

    class Slow(FakeGraders):
        def grade(self, jobs: Any) -> list[Grade]:
            grading.set()
            assert answering.wait(10)
            return super().grade(jobs)

    class Stopped(FakeGenerator):
        def answer(self, asks: Sequence[Ask], sampling: Sampling) -> list[Reply]:
            if self.asked:
                assert grading.wait(10)
                answering.set()
            if len(self.asked) == 2:
                raise KeyboardInterrupt
            return super().answer(asks, sampling)

    monkeypatch.setattr(run, "Graders", Slow)
    with pytest.raises(KeyboardInterrupt):
        evaluate(Stopped(), [sums()], tmp_path / "a", None, Settings())
    assert [row["batch"] for row in rows(tmp_path / "a")] == [0, 0, 0, 1, 1, 1]
    with pytest.raises(UserError, match=r"not finished \(2 of 7 batches\)"):
        read_results(tmp_path / "a")
    assert len(read_results(tmp_path / "a", partial=True).records) == 6
    generator = FakeGenerator()
    resumed = evaluate(generator, [sums()], tmp_path / "a", None, Settings())
    assert len(generator.asked) == 5 and resumed.already == 6 and len(resumed.records) == 20


def test_generator_and_grader_that_break(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(FakeGenerator):
        def answer(self, asks: Sequence[Ask], sampling: Sampling) -> list[Reply]:
            if len(self.asked) == 2:
                raise GenerationError("out of memory")
            return super().answer(asks, sampling)

    with pytest.raises(GenerationError, match="out of memory"):
        evaluate(Broken(), [sums()], tmp_path / "a", None, Settings())
    assert len(rows(tmp_path / "a")) == 6

    class Tired(FakeGraders):
        def grade(self, jobs: Any) -> list[Grade]:
            raise ModistError("no grader starts")

    monkeypatch.setattr(run, "Graders", Tired)
    with pytest.raises(ModistError, match="no grader starts"):
        evaluate(FakeGenerator(), [sums()], tmp_path / "b", None, Settings())
    assert not rows(tmp_path / "b")


def test_code_runs_only_where_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modist.evaluation.answers import code

    ran: list[str] = []

    def run_code(item: Any, answer: str) -> Grade:
        ran.append(item.id)
        return Grade(True, True, answer, answer)

    monkeypatch.setattr(code, "run_code", run_code)
    with pytest.raises(UserError, match=r"^sums: .* --execute-code$"):
        evaluate(FakeGenerator(), [sums(4, kind="code")], tmp_path / "a", None, Settings())
    assert not (tmp_path / "a").exists() and not ran
    results = evaluate(FakeGenerator(), [sums(4, kind="code")], tmp_path / "a", None, Settings(execute_code=True, graders=2))
    assert sorted(ran) == [record.id for record in results.records] and results.right("sums") == 4


def test_bad_settings(tmp_path: Path) -> None:
    for settings, said in (
        (Settings(limit=0), "--limit 0"),
        (Settings(batch_size=0), "--batch-size 0"),
        (Settings(graders=0), "--graders 0"),
        (Settings(style="plane"), "did you mean 'plain'"),
        (Settings(seconds_per_grade=0), "time limit"),
    ):
        with pytest.raises(UserError, match=said):
            evaluate(FakeGenerator(), [sums()], tmp_path / "a", None, settings)
    for benchmarks, said in (([], "no benchmark"), ([sums(), sums()], "is there twice"), ([sums(0)], "has no questions")):
        with pytest.raises(ModistError, match=said):
            evaluate(FakeGenerator(), benchmarks, tmp_path / "a", None, Settings())
    assert not (tmp_path / "a").exists()


def test_damaged_results(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    evaluate(FakeGenerator(), [sums(6)], folder, None, Settings())
    path = folder / "answers.jsonl"
    good = path.read_bytes()
    lines = good.split(b"\n")

    def put(number: int, line: bytes) -> None:
        path.write_bytes(b"\n".join([*lines[: number - 1], line, *lines[number:]]))

    def changed(**values: Any) -> bytes:
        return json.dumps({**json.loads(lines[1]), **values}).encode()

    for line, said in (
        (b"{", ":2: not JSON"),
        (b"[]", ":2: an answer is an object"),
        (b"\xff\xfe", ":2: not JSON"),
        (changed(tokens="7"), ":2: 'tokens' is '7'"),
        (changed(equal=1), ":2: 'equal' is '1'"),
        (changed(tokens=True), ":2: 'tokens' is 'True'"),
        (changed(tokens=-1), ":2: a count in it is negative"),
        (changed(finish_reason="eos"), ":2: 'finish_reason' is 'eos'"),
        (changed(more=1), ":2: 'more' does not belong"),
        (changed(id="sums-9999"), ":2: 'sums-9999' of 'sums' is not what the plan has here"),
        (changed(batch=7), ":2: batch 0 ends before its last answer"),
    ):
        put(2, line)
        with pytest.raises(EvaluationError, match=r"answers\.jsonl:") as caught:
            read_results(folder)
        assert said in str(caught.value)
    # Torn at its end, or while answers that had failed were asked again.
    for data in (good[:-1], good[: len(good) // 2], good + lines[0][:9], good + lines[0] + b"\n"):
        path.write_bytes(data)
        with pytest.raises(UserError, match="not finished"):
            read_results(folder)
        assert len(read_results(folder, partial=True).records) in (0, 3, 6)
    for plan, said in ((b"{", "not JSON"), (b"{}", "not a plan"), (b'{"format": 1}', "'name' is missing")):
        (folder / "plan.json").write_bytes(plan)
        with pytest.raises(EvaluationError, match=said):
            read_results(folder)
    with pytest.raises(UserError, match="holds no run"):
        read_results(tmp_path)
