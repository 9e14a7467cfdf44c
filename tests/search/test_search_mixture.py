"""The search of a mixture's weights on likelihoods that are known, and the recipe it writes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modist.errors import RecipeError, UserError
from modist.mixture.gate import Gate
from modist.mixture.score import mixture_scores
from modist.recipe import parse_recipe
from modist.search.data import check_sayable, shared_with_tests
from modist.search.em import fit_weights
from modist.search.gate_fit import fit_gate
from modist.search.gate_gain import deal, thinned
from modist.search.likelihoods import Likelihoods, Passage, read_passages
from modist.search.mixture import MixtureSearch, check_counts, search_mixture, solve
from modist.search.mixture_drawing import check_drawing, draw

ROOT = Path(__file__).parents[2]
QUESTIONS = ROOT / "examples" / "experts" / "questions"


def likelihoods(
    rows: int = 120, experts: int = 2, length: int = 12, *, seed: int = 0, shares: tuple[float, ...] | None = None
) -> Likelihoods:
    """Rows that belong to one expert each: its owner finds their tokens likely, the others do not."""
    generator = np.random.default_rng(seed)
    owner = generator.choice(experts, rows, p=shares)
    lengths = generator.integers(length // 2, 2 * length, rows)
    tokens = np.repeat(owner, lengths)
    logs = -generator.gamma(2.0, 1.0, (len(tokens), experts))
    logs[np.arange(len(tokens)), tokens] *= 0.2
    names = tuple(f"e{number}" for number in range(experts))
    domains = tuple(f"of {names[one]}" for one in owner)
    return Likelihoods(names, logs.astype(np.float32), None, lengths, domains, (rows,) * experts)


def of(logs: np.ndarray, lengths: list[int] | None = None, masses: np.ndarray | None = None) -> Likelihoods:
    count, experts = logs.shape
    sizes = np.array(lengths or [1] * count)
    names = tuple(f"e{number}" for number in range(experts))
    return Likelihoods(names, logs.astype(np.float32), masses, sizes, (None,) * len(sizes), (0,) * experts)


@pytest.fixture(scope="module")
def found() -> MixtureSearch:
    return solve(likelihoods(shares=(0.3, 0.7)), (0.9, 0.1), replicates=200)


def nats(found: Likelihoods, weights: Any, gate: Gate | None = None) -> float:
    """As `modist score` has them, row by row."""
    total, begin = 0.0, 0
    for length in found.lengths:
        parts = torch.tensor(found.log_probs[begin : begin + length].T)
        total += float(mixture_scores(parts, list(weights), gate)[0].sum())
        begin += int(length)
    return -total / found.tokens


def test_the_figures_are_those_of_scoring(found: MixtureSearch) -> None:
    data, told = found.likelihoods, found.as_dict()
    optimum, recipe = told["nats_per_token"]["optimum"], told["nats_per_token"]["recipe"]
    assert optimum["fit"] == pytest.approx(nats(data, found.weights), abs=1e-9)
    assert recipe["fit"] == recipe["held_out"] == pytest.approx(nats(data, (0.9, 0.1)), abs=1e-9)
    for number, one in enumerate(told["nats_per_token"]["experts"]):
        assert one["fit"] == one["held_out"] == pytest.approx(nats(data, np.eye(2)[number]), abs=1e-6)
    # No other weights are better, and the ones found are not the recipe's.
    grid = [nats(data, (a, 1 - a)) for a in np.linspace(0, 1, 101)]
    assert optimum["fit"] <= min(grid) < recipe["fit"] < optimum["held_out"] + 1
    assert optimum["held_out"] > optimum["fit"]
    gain = told["gain"]
    assert gain["over"] == "e1"
    best = min(one["fit"] for one in told["nats_per_token"]["experts"])
    assert gain["fit"]["nats"] == pytest.approx(best - optimum["fit"], abs=1e-6)
    assert gain["held_out"]["nats"] == pytest.approx(best - optimum["held_out"], abs=1e-6)
    for one in gain["fit"], gain["held_out"]:
        assert one["low"] < one["nats"] < one["high"]
        assert (one["high"] - one["low"]) / 2 == pytest.approx(1.96 * found.held.gain[1], rel=0.2)
    for weight, (low, high) in zip(told["weights"], told["interval"], strict=True):
        assert low < weight < high
    assert (told["tokens"], told["rows"], told["unique"]) == (data.tokens, 120, True)
    assert told["gap"] <= 1e-10


def test_folds_are_held_out_from_weights_and_gate(found: MixtureSearch) -> None:
    data, gate = found.likelihoods, found.gate
    assert gate is not None
    fold, ends = deal(120, 5, 0), np.cumsum(data.lengths)
    total = 0.0
    for number in range(5):
        inside = np.repeat(fold != number, data.lengths)
        weights = fit_weights(data.log_probs[inside]).weights
        assert found.held.weights[number] == pytest.approx(weights, abs=1e-6)
        for row in np.flatnonzero(fold == number):
            part = data.log_probs[ends[row] - data.lengths[row] : ends[row]]
            total += float(np.log(np.exp(part.astype(float)) @ weights).sum())
    assert found.held.optimum == pytest.approx(-total / data.tokens, abs=1e-6)
    # A row is one expert's from its first token to its last: remembering pays, and weights are then shares of rows.
    chosen = Gate("bayes", gate.discount, gate.stride)
    assert gate.nats_per_token == pytest.approx(nats(data, gate.weights, chosen), abs=1e-6)
    assert gate.gain[0] == pytest.approx(found.held.optimum - gate.held_out, abs=1e-9)
    low, high = gate.interval
    assert 0 < low < gate.gain[0] < high
    rows = [sum(name == f"of e{number}" for name in data.domains) / 120 for number in range(2)]
    assert gate.weights == pytest.approx(rows, abs=0.05)


def test_the_gate_is_not_judged_on_rows_it_was_fitted_to() -> None:
    # Noise without any memory: on its own rows a gate seems to gain, on others it cannot.
    noise = np.random.default_rng(5).normal(-2, 1.5, (40, 2))
    result = solve(of(noise, [4] * 10), (0.5, 0.5), replicates=20)
    assert result.gate is not None
    assert result.gate.nats_per_token < result.gate.held_out
    assert any("would gain nothing" in line for line in result.findings())
    assert solve(of(noise, [4] * 10), (0.5, 0.5), replicates=20, gate=False).gate is None


def test_masked_ids_count() -> None:
    generator = np.random.default_rng(3)
    logs = -generator.gamma(2.0, 1.0, (200, 2))
    masses = np.log(generator.uniform(0.4, 1.0, logs.shape))
    result = solve(of(logs, [10] * 20, masses), (0.5, 0.5), replicates=50)
    p, m = np.exp(logs) @ result.weights, np.exp(masses) @ result.weights
    assert result.fit.nats_per_token == pytest.approx(-np.log(p / m).mean(), abs=1e-6)
    assert result.gate is not None
    assert math.isfinite(result.gate.held_out)


def test_the_held_out_gate_is_that_of_scoring_row_by_row() -> None:
    data = likelihoods(rows=30, seed=7)
    generator = np.random.default_rng(3)
    masses = np.log(generator.uniform(0.4, 1.0, data.log_probs.shape)).astype(np.float32)
    data = Likelihoods(data.names, data.log_probs, masses, data.lengths, data.domains, data.scored)
    result = solve(data, (0.5, 0.5), replicates=20, folds=3)
    assert result.gate is not None
    fold, ends = deal(30, 3, 0), np.cumsum(data.lengths)
    spans = [slice(end - length, end) for end, length in zip(ends, data.lengths, strict=True)]
    gains, total = np.zeros(30), 0.0
    for number in range(3):
        inside, weights = np.repeat(fold != number, data.lengths), result.held.weights[number]
        chosen = fit_gate(
            data.log_probs[inside],
            data.lengths[fold != number],
            weights,
            log_masses=masses[inside],
            refine=False,
            refit=True,
        )
        gate = Gate("bayes", chosen.discount, chosen.stride)
        for row in np.flatnonzero(fold == number):
            parts, left = torch.tensor(data.log_probs[spans[row]].T), torch.tensor(masses[spans[row]].T)
            gated = float(mixture_scores(parts, chosen.weights.tolist(), gate, masses=left)[0].sum())
            plain = float(mixture_scores(parts, weights.tolist(), masses=left)[0].sum())
            gains[row], total = gated - plain, total + gated
    assert result.gate.held_out == pytest.approx(-total / data.tokens, abs=1e-9)
    value, error = result.gate.gain
    assert value == pytest.approx(gains.sum() / data.tokens, abs=1e-9)
    # The ratio estimator's standard error, rows as its clusters.
    spread = gains - value * data.lengths
    assert error == pytest.approx(float(np.sqrt((spread**2).sum() * 30 / 29)) / data.tokens, rel=1e-9)


def test_a_folds_gate_is_fitted_to_no_more_rows_than_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = np.array([10, 20, 30, 40, 50, 60])
    chosen = np.array([True, False, True, True, True, True])
    assert thinned(chosen, lengths).tolist() == chosen.tolist()
    monkeypatch.setattr("modist.search.gate_gain._ENOUGH", 80)  # 190 tokens: every second row of those chosen
    assert thinned(chosen, lengths).tolist() == [True, False, False, True, False, True]
    data = likelihoods(rows=60, seed=4)
    monkeypatch.setattr("modist.search.gate_gain._ENOUGH", 300)
    few = solve(data, (0.5, 0.5), replicates=20)
    monkeypatch.setattr("modist.search.gate_gain._ENOUGH", 10**9)
    whole = solve(data, (0.5, 0.5), replicates=20)
    assert few.gate is not None
    assert whole.gate is not None
    assert few.gate.weights == pytest.approx(whole.gate.weights)
    assert few.gate.held_out == pytest.approx(whole.gate.held_out, rel=0.2)
    assert few.gate.held_out != whole.gate.held_out


def test_domains_are_told_where_rows_say_one(found: MixtureSearch) -> None:
    assert [domain.name for domain in found.domains] == list(dict.fromkeys(found.likelihoods.domains))
    for domain in found.as_dict()["domains"]:
        own = int(domain["name"][-1])
        assert domain["responsibilities"][own] > 0.5
        assert sum(domain["responsibilities"]) == pytest.approx(1)
    silent = of(found.likelihoods.log_probs, found.likelihoods.lengths.tolist())
    assert solve(silent, (1, 0), replicates=2, gate=False).domains == ()


def test_the_answer_is_plain_data_and_the_same_twice(found: MixtureSearch) -> None:
    again = solve(likelihoods(shares=(0.3, 0.7)), (0.9, 0.1), replicates=200)
    assert json.dumps(again.as_dict()) == json.dumps(found.as_dict())
    other = solve(likelihoods(shares=(0.3, 0.7)), (0.9, 0.1), replicates=200, seed=1)
    assert other.weights == pytest.approx(found.weights)
    assert other.as_dict()["interval"] != found.as_dict()["interval"]


# What is said of it


def said(found: MixtureSearch, part: str) -> str:
    (line,) = [line for line in found.findings() if part in line]
    return line


def test_a_gain_is_told_with_its_intervals(found: MixtureSearch) -> None:
    value, low, high = found.intervals.gain
    line = said(found, "mixing gains")
    assert f"mixing gains {value:.4f} nats a token over the best expert, e1 (95% interval {low:.4f} to {high:.4f}" in line
    assert f"held out {found.held_out_gain[0]:.4f}" in line
    assert f"lose {found.held.given - found.fit.nats_per_token:.4f} nats" in said(found, "the recipe's weights")  # type: ignore[operator]
    assert "--gate bayes --discount" in said(found, "a gate that follows")


def test_mixing_that_does_not_help_is_said_so() -> None:
    data = likelihoods(seed=1)
    worse = np.stack([data.log_probs[:, 0], data.log_probs[:, 0] - 1], 1)
    useless = solve(of(worse, data.lengths.tolist()), (0.5, 0.5), replicates=20, gate=False)
    assert useless.weights.tolist() == [1, 0]
    assert said(useless, "mixing") == "mixing does not help on this data: e0 alone is the best mixture"
    assert "adds nothing" in said(useless, "e1 has weight 0")
    # A gain that twelve rows of noise seem to show.
    noise = np.random.default_rng(1).normal(-2, 1.0, (12, 2))
    doubtful = solve(of(noise), (1, 0), replicates=200, gate=False)
    assert "mixing does not help on this data as far as 12 rows can tell" in said(doubtful, "mixing")
    assert "12 rows are few" in said(doubtful, "few")


def test_an_interval_that_reaches_the_edge_is_flagged() -> None:
    generator = np.random.default_rng(2)
    logs = generator.normal(-2, 0.4, (300, 2))
    logs[:, 1] -= 0.06
    touching = solve(of(logs, [10] * 30), (0.5, 0.5), gate=False)
    assert 0 < touching.weights[1] < 1
    assert touching.intervals.low[1] == 0
    assert "does not show that it is needed" in said(touching, "interval of e1 reaches 0")
    assert "does not show that another is needed" in said(touching, "interval of e0 reaches 1")


def test_identical_experts_are_flagged(found: MixtureSearch) -> None:
    logs = found.likelihoods.log_probs
    twins = solve(of(logs[:, [0, 0, 1]], found.likelihoods.lengths.tolist()), (1, 0, 0), replicates=20, gate=False)
    assert not twins.fit.unique
    assert twins.alike == ((0, 1),)
    assert "say the same of every token" in said(twins, "e0 and e1")
    # How copies share their weight is nothing the likelihood decides: the last digits are the arithmetic's.
    assert twins.weights[0] == pytest.approx(twins.weights[1], rel=1e-4)
    assert twins.weights[0] + twins.weights[1] == pytest.approx(found.weights[0], abs=1e-6)
    # A mixture of two others is no copy of either.
    both = np.logaddexp(logs[:, 0], logs[:, 1]) + math.log(0.5)
    third = solve(of(np.column_stack([logs, both]), found.likelihoods.lengths.tolist()), (1, 0, 0), replicates=20, gate=False)
    assert third.alike == ()


def test_an_expert_that_cannot_say_a_token_alone(found: MixtureSearch) -> None:
    data = likelihoods(rows=40)
    data.log_probs[3, 0] = data.log_probs[70, 1] = -np.inf
    only = solve(data, (1, 0), replicates=20)
    assert said(only, "no expert alone")
    assert "probability 0" in said(only, "the recipe's weights")
    assert np.isposinf(only.fit.experts).all()
    with pytest.raises(ValueError, match="Out of range"):
        json.dumps(only.as_dict(), allow_nan=False)
    data.log_probs[3, 1] = -np.inf
    passages = [Passage(f"d.jsonl:{row + 1}", "x") for row in range(40)]
    with pytest.raises(UserError, match=r"d.jsonl:1: no expert can say scored token 4 of this row"):
        check_sayable(data, passages)
    data.log_probs[3, 1], first = -1, int(data.lengths[0])
    data.log_probs[first] = -np.inf
    with pytest.raises(UserError, match=r"d.jsonl:2: no expert can say scored token 1 of this row"):
        check_sayable(data, passages)


# Numbers that cannot be


@pytest.mark.parametrize(
    ("rows", "folds", "replicates", "says"),
    [
        (4, 5, 10, "--folds 5: the data has only 4 rows; give at most 4"),
        (9, 1, 10, "--folds 1: must be at least 2"),
        (9, 3, 1, "--replicates 1: must be at least 2"),
        (1, 2, 10, "the data has 1 row; weights and their intervals need at least 2"),
        (0, 2, 10, "the data has 0 rows"),
    ],
)
def test_counts_that_cannot_be(rows: int, folds: int, replicates: int, says: str) -> None:
    with pytest.raises(UserError, match=says):
        check_counts(rows, folds, replicates)


def test_nothing_is_loaded_for_what_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("loaded although nothing can come of it")

    monkeypatch.setattr("modist.mixture.load_experts", never)
    rows = [Passage("d:1", "one two"), Passage("d:2", "three four")]
    general, math_ = ROOT / "examples" / "experts" / "general", ROOT / "examples" / "experts" / "math"
    one = parse_recipe(json.dumps({"experts": [{"source_model": str(general)}], "weights": [1]}))
    with pytest.raises(RecipeError, match="one expert has no weights to search"):
        search_mixture(one, rows)
    merge = {"merge_method": "linear", "models": [{"model": str(path)} for path in (general, math_)]}
    with pytest.raises(RecipeError, match="a mixture needs 'experts' and 'weights'"):
        search_mixture(parse_recipe(json.dumps(merge)), rows)
    two = {"experts": [{"source_model": str(path)} for path in (general, math_)], "weights": [0.5, 0.5]}
    with pytest.raises(UserError, match="--folds 3: the data has only 2 rows"):
        search_mixture(parse_recipe(json.dumps(two)), rows, folds=3, cache=tmp_path)
    with pytest.raises(UserError, match="there is no such file"):
        search_mixture(parse_recipe(json.dumps(two)), tmp_path / "none.jsonl")
    with pytest.raises(UserError, match="needs the recipe in a file"):
        search_mixture(parse_recipe(json.dumps(two)), rows, folds=2, benchmarks=[str(QUESTIONS / "math.dev.yml")])


# The demo's data, and the pictures


def test_the_demos_answers_share_no_question_with_its_tests() -> None:
    passages = read_passages(QUESTIONS / "answers.dev.jsonl")
    assert len(passages) == 400
    assert {passage.domain for passage in passages} == {"general", "math"}
    asked = [passage.content[0]["content"] for passage in passages]  # type: ignore[index]
    assert len(set(asked)) == 400
    for domain in ("general", "math"):
        lines = (QUESTIONS / f"{domain}.jsonl").read_text(encoding="utf-8").splitlines()
        assert not set(asked) & {json.loads(line)["question"] for line in lines}
    assert shared_with_tests(passages, QUESTIONS / "answers.dev.jsonl") is None
    test = json.loads((QUESTIONS / "math.jsonl").read_text(encoding="utf-8").splitlines()[0])
    leak = Passage("d.jsonl:401", [{"role": "user", "content": test["question"]}, {"role": "assistant", "content": "7"}])
    told = shared_with_tests([*passages, leak])
    assert told is not None
    assert told.startswith("d.jsonl:401 holds math-add-000 of the test set demo-math")


def test_pictures_of_two_and_three(tmp_path: Path, found: MixtureSearch) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib: pip install 'modist[plot]'")
    assert draw(found, tmp_path / "two.png").read_bytes().startswith(b"\x89PNG")
    three = solve(likelihoods(experts=3), (0.2, 0.3, 0.5), replicates=50, gate=False)
    assert draw(three, tmp_path / "three.svg").read_bytes().startswith(b"<?xml")
    # Nobody says everything: the corners are infinite, and the rest is drawn.
    data = likelihoods(rows=40, experts=3)
    data.log_probs[0, 0] = data.log_probs[1, 1] = -np.inf
    draw(solve(data, (0.2, 0.3, 0.5), replicates=50, gate=False), tmp_path / "holes.png")
    with pytest.raises(UserError, match="--picture draws the weights of two or three experts; these are 4"):
        check_drawing(tmp_path / "four.png", 4)
    assert len(list(tmp_path.iterdir())) == 3
