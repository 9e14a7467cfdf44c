"""What a run will take, told before it is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from modist.evaluation import run
from modist.evaluation.generators.generator import Sampling
from modist.evaluation.plan import Settings, make_plan
from modist.evaluation.price import Pace, Price, count, duration, earlier_pace, price, probe
from modist.evaluation.run import Watch, evaluate
from tests.evaluation.fake_runs import FakeGenerator, FakeGraders, sums


def priced(settings: Settings, pace: Pace | None = None, generator: FakeGenerator | None = None) -> Price:
    plan = make_plan(generator or FakeGenerator(), [sums(400), sums(50, "few")], None, settings)
    return price(plan, settings, range(len(plan.batches)), pace)


def test_counts() -> None:
    found = priced(Settings())
    assert (found.answers, found.left, found.batches, found.batch_size, found.graders) == (450, 450, 151, 3, 1)
    assert found.most_tokens == 450 * 32 and found.unit == "tokens" and found.seconds is None
    whole = make_plan(FakeGenerator(), [sums(400), sums(50, "few")], None, Settings())
    assert found.prompt_length == sum(whole.lengths.values())
    drawn = priced(Settings(samples=3, sampling=Sampling(1.0), limit=20))
    assert (drawn.answers, drawn.most_tokens) == (120, 120 * 32)
    assert [part.questions for part in drawn.parts] == [20, 20] and [part.rows for part in drawn.parts] == [400, 50]
    assert priced(Settings(), generator=FakeGenerator(kind="openai")).unit == "characters"


def test_fewer_questions_show_less() -> None:
    large, small = priced(Settings()).parts[0], priced(Settings(limit=50)).parts[0]
    # Wilson's interval of 200 in 400, and of 25 in 50, by hand.
    assert large.interval == pytest.approx(0.04877, abs=1e-4) and small.interval == pytest.approx(0.13355, abs=1e-4)
    # Two samples of 400 against one another: (1.96 + 0.84) sqrt(2 / 4 / 400), a little less for p away from one half.
    assert large.shows == pytest.approx(0.0985, abs=0.002) and small.shows == pytest.approx(0.265, abs=0.02)


def test_words() -> None:
    found = priced(Settings(limit=50, graders=2), Pace(10, 300, 20.0))
    lines = [*found.questions(), *found.work()]
    assert lines[0].startswith("sums: 50 of 400 questions, ±13.4 points at most, can show differences of 2")
    assert lines[1].startswith("few: 50 questions") and "style qwen25-math-cot" in lines[1]
    assert "100 answers; 34 batches of 3" in lines[2] and "at most 3,200 tokens of answers; 2 graders" in lines[2]
    assert lines[3] == "about 3 min at 15 tokens/s"
    assert [duration(seconds) for seconds in (0.4, 89, 90, 5399, 5400, 86400)] == [
        "0 s",
        "89 s",
        "2 min",
        "90 min",
        "1.5 h",
        "24.0 h",
    ]
    assert count(1, "grader") == "1 grader" and count(1200, "answer") == "1,200 answers"


def test_pace() -> None:
    pace = Pace().plus(4, 100, 2.0).plus(4, 60, 2.0)
    assert pace.tokens_per_second == 40 and pace.seconds_for(16) == 8
    assert Pace().seconds_for(3) is None and Pace().tokens_per_second == 0


def test_probe_and_earlier_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "Graders", FakeGraders)
    generator = FakeGenerator()
    plan = make_plan(generator, [sums(20), sums(5, "few")], None, Settings())
    pace = probe(generator, plan, Settings())
    assert pace.answers == 5 and pace.tokens > 0 and [len(keys) for keys in generator.asked] == [3, 2]
    assert earlier_pace(tmp_path / "a") is None
    told: list[Price] = []
    paces: list[Pace] = []
    done: list[tuple[int, int]] = []
    watch = Watch(priced=told.append, measured=paces.append, advance=lambda *at: done.append(at))
    evaluate(generator, [sums(20), sums(5, "few")], tmp_path / "a", None, Settings(), watch)
    assert [one.left for one in told] == [25] and paces[-1].answers == 25
    assert done == [(0, 25), *((n, 25) for n in (3, 6, 9, 12, 15, 18, 20, 23, 25))]
    earlier = earlier_pace(tmp_path / "a")
    assert earlier is not None and earlier.answers == 25 and earlier.seconds == pytest.approx(0.25)
