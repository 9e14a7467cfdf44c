"""Experts with fixed logits: what a model would say is a function of the tokens it has read, and nothing else.

`FakeCore` stands for a model behind a cache (`modist.mixture.reader.Core`).  Its logits after some tokens come from a generator
keyed by the expert's seed and the last few of them, so that two cores of one seed always agree, however the tokens
were cut into chunks.  `fake_experts` stands for `Experts` where only what `Run` looks at is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from modist.mixture.decode import Generation, Ledger, Run, Settings
from modist.vocabulary import CommonVocabulary

# All the tokens an expert has read, the prompt's first -> logits [outputs].
Logits = Callable[[Sequence[int]], np.ndarray]


def table(seed: int, outputs: int, *, memory: int = 2, spread: float = 2.0, shared: int | None = None) -> Logits:
    """Random logits keyed by the last `memory` tokens.

    Args:
        spread: their standard deviation in nats: 0.5 is flat (nothing is ever certified), 20 is sharp (almost all is).
        shared: a seed whose logits are added, so that several experts agree in the main.
    """
    known: dict[tuple[int, ...], np.ndarray] = {}

    def logits(tokens: Sequence[int]) -> np.ndarray:
        key = tuple(tokens[-memory:])
        if key not in known:
            found = np.random.default_rng([seed, *key]).normal(size=outputs) * spread
            if shared is not None:
                common = np.random.default_rng([shared, *key]).normal(size=max(outputs, 64))[:outputs]
                found = found * 0.3 + common * spread
            known[key] = found
        return known[key]

    return logits


def tied(seed: int, outputs: int, *, memory: int = 2, levels: int = 3) -> Logits:
    """Logits out of a few whole numbers: many ids are exactly as likely as others."""

    def logits(tokens: Sequence[int]) -> np.ndarray:
        return np.random.default_rng([seed, *tokens[-memory:]]).integers(0, levels, size=outputs).astype(np.float64)

    return logits


def holed(seed: int, outputs: int, *, memory: int = 2, holes: float = 0.4) -> Logits:
    """Logits of which a part is -inf, another part for each context; id 0 never is."""
    inner = table(seed, outputs, memory=memory)

    def logits(tokens: Sequence[int]) -> np.ndarray:
        empty = np.random.default_rng([seed, 77, *tokens[-memory:]]).random(outputs) < holes
        empty[0] = False
        return np.where(empty, -np.inf, inner(tokens))

    return logits


def fixed(probabilities: Sequence[float]) -> Logits:
    """The same distribution whatever was read."""
    with np.errstate(divide="ignore"):
        found = np.log(np.asarray(probabilities, dtype=np.float64))
    return lambda tokens: found


def pointing(target: Callable[[Sequence[int]], int], outputs: int, probability: float = 0.999) -> Logits:
    """Nearly all mass on the id that `target` names after the tokens read, the rest spread evenly."""

    def logits(tokens: Sequence[int]) -> np.ndarray:
        found = np.full(outputs, np.log((1 - probability) / (outputs - 1)))
        found[target(tokens)] = np.log(probability)
        return found

    return logits


class FakeCore:
    """Fixed logits behind the protocol of a cached model, and a log of what was asked of it."""

    def __init__(
        self,
        logits: Logits,
        outputs: int,
        *,
        context: int | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        # The number of a pass (the first is 0) -> what it raises.
        self.raises: dict[int, BaseException] = {}
        self.outputs, self.context = outputs, context
        self.rows: list[list[int]] = []
        self.reads: list[int] = []
        self.rollbacks: list[int] = []
        self._logits, self._dtype = logits, dtype

    def start(self, prompts: Sequence[Sequence[int]]) -> None:
        self.rows = [list(row) for row in prompts]
        self._unread = max(map(len, prompts))

    def read(self, tokens: torch.Tensor, keep: int) -> torch.Tensor:
        error = self.raises.get(len(self.reads))
        if error is not None:
            raise error
        self.reads.append(tokens.shape[1])
        width = tokens.shape[1] + self._unread
        assert 0 < keep <= width, f"{keep} positions asked for, {width} tokens read"
        assert tokens.numel() == 0 or int(tokens.max()) < self.outputs, "an id this expert does not have"
        self._unread = 0
        every = np.zeros((len(self.rows), keep, self.outputs))
        for row, new in zip(self.rows, tokens.tolist(), strict=True):
            row.extend(new)
        for index, row in enumerate(self.rows):
            for back in range(keep):
                if len(row) - back > 0:  # else padding
                    every[index, keep - 1 - back] = self._logits(row[: len(row) - back])
        return torch.from_numpy(every).to(self._dtype)

    def rollback(self, count: int) -> None:
        assert count > 0
        self.rollbacks.append(count)
        for row in self.rows:
            assert len(row) > count
            del row[-count:]


@dataclass(frozen=True)
class FakeExperts:
    """What `Run` and `results` look at; see `modist.mixture.load.Experts`."""

    weights: tuple[float, ...]
    names: tuple[str, ...]
    vocabulary: CommonVocabulary
    stop_ids: frozenset[int]
    tokenizer: Any = None
    tokenizers: tuple[Any, ...] = ()
    models: tuple[Any, ...] = ()


def fake_experts(
    weights: Sequence[float],
    outputs: Sequence[int],
    *,
    stops: Collection[int] = (),
    foreign: Sequence[Collection[int]] = (),
    ends: Sequence[Collection[int]] = (),
    tokenizer: Any = None,
) -> FakeExperts:
    """A stand-in for `Experts`.

    Args:
        outputs: ids of each.
        stops: ids that end a response.
        foreign: for each expert the ids that mean something else to it than to the mixture.
        ends: the ids with which each one ends an answer, whatever it calls them.
    """
    count, size = len(outputs), max(outputs)
    readable = torch.zeros(count, size, dtype=torch.bool)
    for index, rows in enumerate(outputs):
        readable[index, :rows] = True
        readable[index, list(foreign[index]) if foreign else []] = False
    shared = readable.all(0)
    for index, own in enumerate(ends):
        readable[index, [number for number in own if number < outputs[index]]] = True
    names = tuple(f"expert{index}" for index in range(count))
    vocabulary = CommonVocabulary(names, size, tuple(outputs), readable, shared, (True,) * count)
    return FakeExperts(tuple(weights), names, vocabulary, frozenset(stops), tokenizer, (tokenizer,) * count)


def decode(
    experts: FakeExperts,
    logits: Sequence[Logits],
    prompts: Sequence[Sequence[Any]],
    settings: Settings,
    **core: Any,
) -> tuple[list[Generation], Ledger, list[Run]]:
    """Decode token ids with fakes; lazy greedy row by row, as `generate` does.

    Args:
        prompts: [rows][tokens], the same for every expert, or [experts][rows][tokens].
        core: more for `FakeCore`.

    Returns:
        The responses, the ledger of the last run, and the runs.
    """
    by_expert = prompts if isinstance(prompts[0][0], list) else [prompts] * len(logits)
    lone = settings.temperature is None and not settings.eager
    rows = range(len(by_expert[0]))
    batches = [[[own[row]] for own in by_expert] for row in rows] if lone else [by_expert]
    found: list[Generation] = []
    runs = []
    for batch in batches:
        run = start(experts, logits, batch, settings, **core)
        for _ in run.steps():
            pass
        ledger = run.ledger()
        found += run.results()
        runs.append(run)
    return found, ledger, runs


def start(
    experts: FakeExperts, logits: Sequence[Logits], prompts: Sequence[Sequence[Any]], settings: Settings, **core: Any
) -> Run:
    """A run over new fake cores; `prompts` [experts][rows][tokens]."""
    cores = [FakeCore(given, size, **core) for given, size in zip(logits, experts.vocabulary.outputs, strict=True)]
    stand_in: Any = experts
    return Run(stand_in, prompts, settings, cores)


def cores_of(run: Run) -> list[FakeCore]:
    """The fakes inside a run."""
    found: list[Any] = [reader.core for reader in run.state.readers]
    return found


def surprise(counts: np.ndarray, law: np.ndarray) -> float:
    """Pearson's statistic of counts against a law, as standard deviations of a normal (Wilson and Hilferty's cube root)."""
    kept = law > 0
    assert counts[~kept].sum() == 0, "an impossible id was drawn"
    expected = law[kept] / law.sum() * counts.sum()
    freedom = len(expected) - 1
    if not freedom:
        return 0.0
    statistic = float(((counts[kept] - expected) ** 2 / expected).sum())
    return ((statistic / freedom) ** (1 / 3) - 1 + 2 / (9 * freedom)) / (2 / (9 * freedom)) ** 0.5
