"""Lazy and eager decoding share one random stream: the same tokens, scores and weights, whatever is asked for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modist.mixture import Experts, load_experts
from modist.mixture.decode import Settings, encode_prompts, generate
from modist.mixture.gate import Gate
from modist.mixture.reader import ModelCore
from modist.recipe import load_recipe
from tests.mixture.fakes import FakeExperts, Logits, decode, fake_experts, holed, table, tied
from tests.mixture.tiny_experts import GRIMM, GSM8K
from tests.tiny_models import write_recipe

torch.set_num_threads(1)
TINY = Path(__file__).parents[2] / "examples" / "experts"
PAIRS = {"stories": (GSM8K, GRIMM), "tiny": (TINY / "general", TINY / "math")}


@dataclass(frozen=True)
class Case:
    """What is decoded twice."""

    experts: FakeExperts
    logits: list[Logits]
    prompts: list[list[list[int]]]
    settings: Settings
    context: int | None
    features: frozenset[str]


def some_weights(draw: np.random.Generator, count: int) -> tuple[list[float], str]:
    kind = str(draw.choice(["random", "equal", "heavy", "zero", "one"]))
    if kind == "one":
        return [float(index == count - 1) for index in range(count)], kind
    weights = draw.dirichlet(np.ones(count)) if kind != "equal" else np.full(count, 1 / count)
    if kind == "heavy":
        weights = 0.1 * weights
        weights[draw.integers(count)] += 0.9
    if kind == "zero":
        weights[draw.integers(count)] = 0
        weights = weights / weights.sum()
    return [float(weight) for weight in weights], f"weights {kind}"


def some_gate(draw: np.random.Generator, count: int) -> Gate:
    kind = str(draw.choice(["static", "static", "bayes", "bayes", "callable"]))
    if kind == "static":
        return Gate()
    if kind == "bayes":
        stride, discount = int(draw.choice([1, 1, 2, 3, 5])), float(draw.choice([0.0, 0.5, 0.9, 1.0]))
        return Gate("bayes", discount=discount, stride=stride, prompt=bool(draw.integers(2)))
    key = int(draw.integers(1000))

    def weights(tokens: Any) -> list[float]:
        return [float(weight) for weight in np.random.default_rng([key, *tokens[-2:]]).dirichlet(np.full(count, 0.4))]

    return Gate("callable", function=weights)


def some_settings(draw: np.random.Generator, seed: int, gate: Gate) -> tuple[Settings, set[str]]:
    limit = int(draw.integers(1, 14))
    if draw.random() < 0.3:
        return Settings(max_new_tokens=limit, seed=seed, gate=gate), {"greedy"}
    temperature = float(draw.choice([0.4, 0.8, 1.0, 1.0, 1.7]))
    top_k, top_p = int(draw.choice([0, 0, 1, 3, 7, 200])), float(draw.choice([1.0, 1.0, 0.95, 0.6, 0.2]))
    min_p, warp = float(draw.choice([0.0, 0.0, 0.05, 0.4, 1.0])), str(draw.choice(["experts", "mixture"]))
    cuts = f"T {(temperature > 1) - (temperature < 1)} k {top_k > 0} p {top_p < 1} m {min_p > 0}"
    settings = Settings(limit, temperature, top_k, top_p, min_p, warp, seed, gate=gate)
    return settings, {"sampling", f"{warp} {cuts}"}


def case(seed: int) -> Case:
    """A case, by its number alone."""
    draw = np.random.default_rng([404, seed])
    count = int(draw.integers(2, 5))
    weights, kind = some_weights(draw, count)
    gate = some_gate(draw, count)
    settings, features = some_settings(draw, seed, gate)

    size, vocabulary = int(draw.integers(5, 20)), str(draw.choice(["equal", "equal", "padded", "extended"]))
    outputs, foreign, ends = [size] * count, [], []
    if vocabulary != "equal":
        outputs = [size + int(draw.integers(0, 4)) for _ in range(count)]
    if vocabulary == "extended":  # ids that mean something else to an expert, and ends that only some have
        foreign = [{int(draw.integers(4, length + 1))} - {length} for length in outputs]
        common = int(draw.integers(4, size + 1))
        ends = [{number for number in (common, int(draw.integers(1, length))) if number < length} for length in outputs]
    stops = {number for own in ends for number in own} | {int(number) for number in draw.integers(1, size, draw.integers(3))}

    flavour = str(draw.choice(["tables", "agreeing", "flat", "sharp", "identical", "ties", "holes"]))
    made: dict[str, Any] = {
        "tables": lambda index, length: table(seed + 1000 * index, length),
        "agreeing": lambda index, length: table(seed + 1000 * index, length, shared=seed),
        "flat": lambda index, length: table(seed + 1000 * index, length, spread=0.3),
        "sharp": lambda index, length: table(seed, length, spread=25),
        "identical": lambda index, length: table(seed, length, memory=1),
        "ties": lambda index, length: tied(seed + index, length),
        "holes": lambda index, length: holed(seed + index, length),
    }
    logits = [made[flavour](index, length) for index, length in enumerate(outputs)]

    rows, own_prompts = int(draw.integers(1, 5)), bool(draw.integers(2))
    lengths = [int(length) for length in draw.integers(1, 6, rows)]
    one = [[int(number) for number in draw.integers(0, min(size, 4), length)] for length in lengths]
    prompts = [[list(row) for row in one] for _ in range(count)]
    if own_prompts:  # templates of their own: other lengths, other ids
        prompts = [[[int(draw.integers(4)) for _ in range(draw.integers(1, 6))] for _ in range(rows)] for _ in range(count)]
    context = 9 if draw.random() < 0.15 else None
    features |= {kind, flavour, gate.kind, f"{count} experts", f"{rows} rows", vocabulary, f"context {context}"}
    features |= (
        {f"stride {gate.stride}", f"discount {gate.discount}", f"prompt {gate.prompt}"} if gate.kind == "bayes" else set()
    )
    features |= {"own prompts"} if own_prompts else set()
    return Case(
        fake_experts(weights, outputs, stops=stops, foreign=foreign, ends=ends),
        logits,
        prompts,
        settings,
        context,
        frozenset(features),
    )


def couple(number: int, tally: Counter[str]) -> None:
    """Decode one case both ways and hold the two against each other."""
    given = case(number)
    lazy, ledger, runs = decode(given.experts, given.logits, given.prompts, given.settings, context=given.context)
    settings = replace(given.settings, eager=True)
    eager, _, (twin,) = decode(given.experts, given.logits, given.prompts, settings, context=given.context)
    about = f"case {number}: {sorted(given.features)} {given.settings}"
    for row, (one, two) in enumerate(zip(lazy, eager, strict=True)):
        assert one.token_ids == two.token_ids, about
        assert one.finish_reason == two.finish_reason, about
        assert len(one.logprobs) == len(one.responsibilities) == len(one.token_ids), about
        np.testing.assert_allclose(one.logprobs, two.logprobs, atol=1e-9, err_msg=about)
        np.testing.assert_allclose(one.responsibilities, two.responsibilities, atol=1e-9, err_msg=about)
        np.testing.assert_allclose(np.sum(one.responsibilities, 1), 1, atol=1e-9, err_msg=about)
        assert max(one.logprobs) <= 1e-12, about
        run, place = (runs[row], 0) if len(runs) > 1 else (runs[0], row)
        for position in range(len(one.token_ids)):
            left, right = run.state.log_a[position][place].exp(), twin.state.log_a[position][row].exp()
            torch.testing.assert_close(left, right, atol=1e-9, rtol=0, msg=about)
            assert abs(float(left.sum()) - 1) < 1e-9, about
        tally["stopped"] += one.finish_reason == "stop"
        tally["steps"] += len(one.token_ids)
    tally["cheaper"] += ledger.passes_per_step < len(given.logits)
    tally["certified"] += ledger.certified_share > 0
    tally["rolled back"] += any(reader.core.rollbacks for run in runs for reader in run.state.readers)  # type: ignore[attr-defined]
    tally.update(given.features)


def couple_all(numbers: range) -> Counter[str]:
    tally: Counter[str] = Counter()
    for number in numbers:
        couple(number, tally)
    return tally


def test_lazy_equals_eager_in_random_cases() -> None:
    tally = couple_all(range(240))
    for feature in (
        "2 experts",
        "3 experts",
        "4 experts",
        "1 rows",
        "4 rows",
        "greedy",
        "sampling",
        "static",
        "bayes",
        "callable",
    ):
        assert tally[feature] >= 20, feature
    for feature in ("equal", "padded", "extended", "ties", "holes", "sharp", "flat", "weights zero", "one", "own prompts"):
        assert tally[feature] >= 10, feature
    assert tally["stopped"] > 50 and tally["cheaper"] > 100 and tally["certified"] > 100 and tally["rolled back"] > 10
    assert sum(tally[f"stride {stride}"] > 3 for stride in (1, 2, 3, 5)) == 4


@pytest.mark.full
@pytest.mark.parametrize("part", range(8))
def test_lazy_equals_eager_in_2000_random_cases(part: int) -> None:
    tally = couple_all(range(1000 + 250 * part, 1250 + 250 * part))
    assert tally["stopped"] > 50 and tally["cheaper"] > 100


def test_every_combination_of_settings_is_among_the_2000() -> None:
    seen = {feature for number in range(1000, 3000) for feature in case(number).features}
    combinations = {feature for feature in seen if feature.startswith(("experts T", "mixture T"))}
    assert len(combinations) == 2 * 3 * 2 * 2 * 2


# ---------------------------------------------------------------------------------------------- real models

MODES: dict[str, dict[str, Any]] = {
    "sampling": {"temperature": 1.0},
    "warped experts": {"temperature": 0.8, "top_k": 20, "top_p": 0.9},
    "top-p": {"temperature": 1.0, "top_p": 0.95, "warp": "mixture"},
    "cold": {"temperature": 0.7, "top_k": 30, "min_p": 0.02, "warp": "mixture"},
    "hot": {"temperature": 1.3, "top_k": 30, "warp": "mixture"},
    "greedy": {},
    "greedy bayes": {"gate": Gate("bayes", stride=4, discount=0.9)},
    "sampling bayes": {"temperature": 1.0, "gate": Gate("bayes", stride=3, prompt=True)},
}
PROMPTS = ["Once upon a time", "Natalia sold clips to", "A"]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(pair, weights, dtype) -> experts, each pair loaded once for each dtype."""
    kept: dict[tuple[str, str], Experts] = {}
    home = tmp_path_factory.mktemp("pairs")

    def load(pair: str, weights: tuple[float, float], dtype: str) -> Experts:
        if not PAIRS[pair][0].is_dir():
            pytest.skip("the shared models are not here")
        if (pair, dtype) not in kept:
            listed = [{"source_model": folder} for folder in PAIRS[pair]]
            path = write_recipe(home / f"{pair}.yml", {"experts": listed, "weights": [0.5, 0.5]})
            kept[pair, dtype] = load_experts(load_recipe(path), dtype=dtype)
        return replace(kept[pair, dtype], weights=weights)

    return load


def both(experts: Experts, mode: str, count: int, prompts: list[str]) -> Any:
    settings = Settings(max_new_tokens=count, seed=5, **MODES[mode])
    lazy, ledger = generate(experts, prompts, settings)
    eager, _ = generate(experts, prompts, replace(settings, eager=True))
    return lazy, eager, ledger


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pair", PAIRS)
def test_real_pairs_in_float64(loaded: Any, pair: str, mode: str) -> None:
    lazy, eager, _ = both(loaded(pair, (0.7, 0.3), "float64"), mode, 16, PROMPTS)
    for one, two in zip(lazy, eager, strict=True):
        assert one.token_ids == two.token_ids and one.text == two.text
        np.testing.assert_allclose(one.logprobs, two.logprobs, atol=1e-9)
        np.testing.assert_allclose(one.responsibilities, two.responsibilities, atol=1e-9)


@pytest.mark.full
@pytest.mark.parametrize("weights", [(0.9, 0.1), (0.5, 0.5)])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pair", PAIRS)
def test_real_pairs_in_float64_at_length(loaded: Any, pair: str, mode: str, weights: tuple[float, float]) -> None:
    lazy, eager, ledger = both(loaded(pair, weights, "float64"), mode, 100, [*PROMPTS, "The king said to his daughter that"])
    assert [row.token_ids for row in lazy] == [row.token_ids for row in eager]
    assert ledger.passes_per_step <= 2


def margin(experts: Experts, prompt: str, tokens: tuple[int, ...], position: int, settings: Settings) -> float:
    """How far, in nats, the eager twin's choice at a position was from another, by a fresh float64 reading.

    Sampling adds the same exponentials to both sides, so a difference needs log-probabilities that differ by the gap of the
    race; greedy compares the mixture's own.
    """
    from modist.mixture import race as races
    from modist.mixture.state import Law

    prompts = encode_prompts(experts, [prompt])
    law = Law(experts.weights, experts.vocabulary.size)
    parts = []
    for expert, model in enumerate(experts.models):
        core = ModelCore(model)
        core.start(prompts[expert])
        parts.append(torch.log_softmax(core.read(torch.tensor([tokens[:position]]), 1)[0, -1].double(), -1))
    log_a = torch.tensor(experts.weights, dtype=torch.float64).log()
    if settings.temperature is None:
        scores = law.mix(parts, log_a)
    else:
        expert = races.race(log_a, settings.seed, "expert", position)
        scores = parts[expert] - races.exponentials(len(parts[expert]), settings.seed, 0, position, 0).log()
    top = scores.topk(2).values
    return float(top[0] - top[1])


@pytest.mark.parametrize("mode", ["sampling", "greedy"])
@pytest.mark.parametrize("pair", PAIRS)
def test_real_pairs_in_float32_differ_only_in_close_races(loaded: Any, pair: str, mode: str) -> None:
    experts = loaded(pair, (0.6, 0.4), "float32")
    for prompt in PROMPTS[:2]:
        (one,), (two,), _ = both(experts, mode, 40, [prompt])
        for position, (left, right) in enumerate(zip(one.token_ids, two.token_ids, strict=False)):
            if left != right:
                settings = Settings(seed=5, **MODES[mode])
                assert margin(experts, prompt, two.token_ids, position, settings) <= 1e-4
                break
        else:
            assert one.token_ids == two.token_ids
