"""Prices, offline: what every study would download, write and generate."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from modist.evaluation.study import Options, load_study, price_study

EXAMPLES = Path(__file__).parents[3] / "examples"
QUESTIONS = 1319 + 5000 + 2818 + 1000 + 2215 + 2065 + 976 + 385 + 675 + 3018 + 30 + 40


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.parametrize(("size", "bytes_"), [("1.5B", 3_099_000_000), ("7B", 15_243_000_000)])
def test_the_paper_s_studies(size: str, bytes_: int) -> None:
    study = load_study(EXAMPLES / "paper" / f"{size}.yml")
    price = price_study(study)
    assert price.questions == QUESTIONS + 6511 + 164 + 427
    assert price.download == 2 * bytes_ and price.unknown == ()
    assert {model.source for model in price.models} == {"the study"}
    # Eight merges stay, and one candidate of the tuned row is there at a time.
    assert price.disk == (2 + 8 + 1) * bytes_
    # Two parents, eight merges, four mixtures of two, four samples of each parent, and the grid on the development data.
    answers = price.questions * (2 + 8 + 4 * 2 + 2 * 4) + 7 * 500
    assert price.tokens == answers * study.price.tokens_per_answer
    assert price.hours == pytest.approx(price.tokens / study.price.tokens_per_second / 3600)


def test_the_tiny_study() -> None:
    price = price_study(load_study(EXAMPLES / "tiny.yml"))
    assert price.questions == 600 and price.download == 0 and price.unknown == ()
    assert {model.source for model in price.models} == {"this disk"} and len(price.models) == 3
    weights = sum(file.stat().st_size for file in (EXAMPLES / "experts" / "general").glob("*.safetensors"))
    assert 9 * 0.9 * weights < price.disk < 13 * weights
    assert price.hours < 0.1 and price.workers == 2


def test_limits_and_rows(tmp_path: Path) -> None:
    study = load_study(EXAMPLES / "paper" / "1.5B.yml")
    price = price_study(study, Options(limit=20, only=("mod", "vote_math")))
    # Fifteen benchmarks of twenty questions: two parents, one merge, four samples of one parent.
    assert [line.answers for line in price.lines] == [300, 300, 1200, 300]
    assert price.tokens == 2100 * study.price.tokens_per_answer
    both = price_study(study, Options(only=("mod",), workers=4))
    assert both.hours == pytest.approx(both.tokens / study.price.tokens_per_second / 4 / 3600)


def test_a_model_nobody_knows_is_told(tmp_path: Path) -> None:
    data = {"title": "t", "parents": {"a": "some/model"}, "benchmarks": ["aime24"], "rows": []}
    (tmp_path / "study.yml").write_text(yaml.safe_dump(data))
    price = price_study(load_study(tmp_path / "study.yml"))
    assert price.unknown == ("some/model",) and price.download == 0 and price.models[0].source == "nobody"
