"""What can go wrong while mixing: one clear line, at once, and nothing hangs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from modist.errors import ModistError, UserError
from modist.mixture import Experts, load_experts
from modist.mixture.decode import Settings, generate, stream
from modist.mixture.gate import Gate
from modist.mixture.reader import ExpertError
from modist.recipe import load_recipe
from tests.mixture.fakes import cores_of, decode, fake_experts, start, table
from tests.mixture.tiny_experts import GRIMM, GSM8K
from tests.tiny_models import write_recipe

torch.set_num_threads(1)
MODES: list[dict[str, Any]] = [
    {},
    {"eager": True},
    {"temperature": 1.0},
    {"temperature": 1.0, "top_p": 0.9, "warp": "mixture"},
    {"gate": Gate("bayes", stride=2)},
]


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Experts:
    if not GRIMM.is_dir():
        pytest.skip("the shared models are not here")
    listed = [{"source_model": folder} for folder in (GSM8K, GRIMM)]
    path = write_recipe(tmp_path_factory.mktemp("stories") / "mix.yml", {"experts": listed, "weights": [0.6, 0.4]})
    return load_experts(load_recipe(path))


@pytest.mark.parametrize(
    "weights, word",
    [([0.5, 0.6], "sum to 1.1"), ([1.5, -0.5], "1.5"), ([float("nan"), 1.0], "nan"), ([0.2], "weights|experts")],
)
def test_weights_that_cannot_stand(tmp_path: Path, weights: list[float], word: str) -> None:
    path = write_recipe(
        tmp_path / "mix.yml", {"experts": [{"source_model": GRIMM}, {"source_model": GSM8K}], "weights": weights}
    )
    with pytest.raises(UserError, match=word):
        load_experts(load_recipe(path))


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_an_empty_prompt(stories: Experts, mode: dict[str, Any]) -> None:
    experts = fake_experts([0.5, 0.5], [9, 9])
    with pytest.raises(UserError, match="expert0: an empty prompt"):
        decode(experts, [table(1, 9), table(2, 9)], [[[1], []]] * 2, Settings(5, **mode))


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_a_prompt_longer_than_an_experts_context(stories: Experts, mode: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"stories260K-ft-gsm8k: the prompt has \d+ tokens, its context holds 512") as caught:
        generate(stories, ["Once upon a time there was a little girl. " * 100], Settings(5, **mode))
    assert "\n" not in str(caught.value)


class Broken:
    """A model whose forward fails after some passes."""

    def __init__(self, model: Any, error: BaseException, after: int) -> None:
        self._model, self._error, self._left = model, error, after
        self.config, self.device, self.dtype = model.config, model.device, model.dtype

    def get_output_embeddings(self) -> Any:
        return self._model.get_output_embeddings()

    def __call__(self, **arguments: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise self._error
        return self._model(**arguments)


def broken(stories: Experts, error: BaseException, after: int) -> Experts:
    return replace(stories, models=(stories.models[0], Broken(stories.models[1], error, after)), weights=(0.2, 0.8))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_an_expert_that_fails_while_it_runs(stories: Experts, mode: dict[str, Any], after: int) -> None:
    experts = broken(stories, RuntimeError("CUDA error: device-side assert\ntriggered, and\nmany more lines"), after)
    with pytest.raises(ExpertError) as caught:
        generate(experts, ["Once upon a time"], Settings(40, **mode))
    text = str(caught.value)
    assert text.startswith("stories260K-ft-grimm: failed while it read") and "device-side assert triggered" in text
    assert "\n" not in text and isinstance(caught.value.__cause__, RuntimeError) and caught.value.exit_status == 1
    with pytest.raises(ExpertError):
        list(stream(broken(stories, RuntimeError("no"), after), "Once upon a time", Settings(40, **mode)))


def test_a_failure_without_words_names_its_kind(stories: Experts) -> None:
    with pytest.raises(ExpertError, match="MemoryError"):
        generate(broken(stories, MemoryError(), 0), ["A"], Settings(3))


def test_an_expert_that_fails_only_in_the_closing_flush() -> None:
    run = start(fake_experts([1.0, 0.0], [9, 9]), [table(1, 9), table(2, 9)], [[[1]]] * 2, Settings(4))
    cores_of(run)[1].raises[0] = RuntimeError("gone")
    assert list(run.steps()) == [1, 2, 3, 4]
    with pytest.raises(ExpertError, match="expert1: failed while it read 3 tokens: gone"):
        run.results()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_an_interrupt_in_the_middle_gets_through(stories: Experts, mode: dict[str, Any], after: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        generate(broken(stories, KeyboardInterrupt(), after), ["Once upon a time"], Settings(200, **mode))
    (row,), _ = generate(stories, ["Once upon a time"], Settings(3, **mode))
    assert len(row.token_ids) == 3, "the experts themselves are as good as before"


@pytest.mark.timeout(60)
def test_a_signal_stops_a_long_run_at_once(stories: Experts) -> None:
    import signal
    import time

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    began = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            for seed in range(10_000):
                generate(stories, ["Once upon a time"], Settings(400, 1.0, seed=seed))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "bad, word",
    [
        ({"max_new_tokens": 0}, "max_new_tokens 0"),
        ({"temperature": 0.0}, "leave it out for greedy"),
        ({"temperature": -1.0}, "temperature -1"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p"),
        ({"temperature": 1.0, "top_p": 2.0}, "top_p"),
        ({"temperature": 1.0, "top_k": -3}, "top_k"),
        ({"temperature": 1.0, "min_p": 1.5}, "min_p"),
        ({"top_p": 0.9}, "need a temperature"),
        ({"top_k": 3}, "need a temperature"),
        ({"min_p": 0.1}, "need a temperature"),
        ({"warp": "both"}, "known are experts, mixture"),
        ({"law": "harmonic"}, "known are arithmetic, logits"),
        ({"law": "logits"}, "no lazy form"),
    ],
    ids=str,
)
def test_settings_that_cannot_stand(bad: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError, match=word) as caught:
        Settings(**bad)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", [{}, {"temperature": 1.0}, {"eager": True}], ids=str)
@pytest.mark.parametrize("bad", [[0.5, 0.6], [-0.5, 1.5], [float("nan"), 0.5], [1.0], [0.2, 0.3, 0.5]], ids=str)
def test_a_callable_gate_that_gives_no_weights(bad: list[float], mode: dict[str, Any]) -> None:
    gate = Gate("callable", function=lambda tokens: bad if len(tokens) == 2 else [0.5, 0.5])
    with pytest.raises(UserError, match="gate"):
        decode(fake_experts([0.5, 0.5], [9, 9]), [table(1, 9), table(2, 9)], [[1]], Settings(5, gate=gate, **mode))


def test_a_text_with_a_token_that_an_expert_cannot_read(stories: Experts) -> None:
    """Shown to it, the id would be another word, or beyond its table of embeddings."""
    ids = stories.tokenizer("king")["input_ids"]
    readable = stories.vocabulary.readable.clone()
    readable[1, ids[-1]] = False
    experts = replace(stories, vocabulary=replace(stories.vocabulary, readable=readable))
    with pytest.raises(UserError, match=rf"stories260K-ft-grimm: cannot read token {ids[-1]} \(.*\) of the prompt"):
        generate(experts, ["king"], Settings(2))


def test_experts_without_a_tokenizer(stories: Experts) -> None:
    with pytest.raises(UserError, match="no expert has a tokenizer"):
        generate(replace(stories, tokenizer=None), ["A"], Settings(2))


def test_every_error_is_of_the_family() -> None:
    assert issubclass(ExpertError, ModistError) and issubclass(UserError, ModistError)
