"""Decoding a mixture: prompts in, text out, with the ledger of what it cost and whose word each token is.

Three layers, each thin: `steps` yields tokens, `stream` yields settled pieces of one response, `generate` collects.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from modist.errors import UserError
from modist.mixture import eager as eager_steps
from modist.mixture import sampling
from modist.mixture.gate import Gate
from modist.mixture.greedy import SLACK, Greedy
from modist.mixture.load import Experts
from modist.mixture.reader import ModelCore, Reader
from modist.mixture.state import Law, State
from modist.mixture.warp import Warp

Message = dict[str, str]


@dataclass(frozen=True)
class Settings:
    """How to decode.

    Attributes:
        max_new_tokens: at most this many tokens a response.
        temperature: None for greedy decoding; else see `Warp`.
        top_k, top_p, min_p: see `Warp`; only with a temperature.
        warp: `experts` warps each expert and mixes, `mixture` mixes and warps.
        seed: of all draws.
        stop: texts that end a response; they are not part of it.
        gate: how weights follow the response.
        eager: run every expert at every token (the plain twin).
        scores: whether to tell logprobs and responsibilities; sampling with a static gate is a little cheaper without.
        law: `arithmetic`, p = sum a_i p_i, or `logits`, its normalised geometric counterpart, which only eager decoding has;
            it is the product that is warped, whatever `warp` says.
    """

    max_new_tokens: int = 256
    temperature: float | None = None
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    warp: str = "experts"
    seed: int = 0
    stop: tuple[str, ...] = ()
    gate: Gate = field(default_factory=Gate)
    eager: bool = False
    scores: bool = True
    law: str = "arithmetic"

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens {self.max_new_tokens}: must be at least 1")
        if self.warp not in ("experts", "mixture"):
            raise UserError(f"warp {self.warp!r}: known are experts, mixture")
        if self.law not in ("arithmetic", "logits"):
            raise UserError(f"law {self.law!r}: known are arithmetic, logits")
        if self.law == "logits" and not self.eager:
            raise UserError(
                "law 'logits' (a product of experts) has no lazy form: every expert is needed at every token; use eager"
            )
        if self.temperature is None and (self.top_k or self.top_p < 1 or self.min_p):
            raise UserError("top_k, top_p and min_p need a temperature; greedy decoding has no use for them")
        if any(not text for text in self.stop):
            raise UserError("an empty stop string would end every response at once")
        self.as_warp()

    @property
    def needs_scores(self) -> bool:
        """Whether decoding itself asks what every expert says of each token: the bayes gate and greedy checks do."""
        return self.scores or self.gate.kind == "bayes" or (self.temperature is None and not self.eager)

    def as_warp(self) -> Warp:
        return Warp(1.0 if self.temperature is None else self.temperature, self.top_k, self.top_p, self.min_p)


@dataclass(frozen=True)
class Ledger:
    """What a run cost.

    Attributes:
        tokens: chosen, over all rows.
        steps: positions decoded.
        passes: forwards by expert, the closing flush not counted.
        chunks: how many response tokens each of those read, by expert.
        certified_share: fraction of the tokens decided without asking every expert.
        seconds: of decoding.
    """

    tokens: int
    steps: int
    passes: dict[str, int]
    chunks: dict[str, tuple[int, ...]]
    certified_share: float
    seconds: float

    @property
    def passes_per_step(self) -> float:
        return sum(self.passes.values()) / max(1, self.steps)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / max(self.seconds, 1e-9)


@dataclass(frozen=True)
class Generation:
    """One response.

    Attributes:
        text: without stop strings and special tokens.
        token_ids: the new ids, with the stop id that ended it, if one did.
        finish_reason: `stop` or `length`.
        logprobs: log p(x_t) under the unwarped law; none where `Settings.scores` is off.
        responsibilities: a_i p_i(x) / sum_j a_j p_j(x): for each token one number an expert; they sum to 1; or none, likewise.
        prompts: what each expert read before it.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    logprobs: tuple[float, ...]
    responsibilities: tuple[tuple[float, ...], ...]
    prompts: tuple[str, ...]


def encode_prompts(experts: Experts, prompts: Sequence[str | Sequence[Message]]) -> list[list[list[int]]]:
    """Token ids of each prompt for each expert, [experts][rows][tokens].

    A text is encoded once, by the tokenizer the mixture carries; a chat goes through each expert's own template.

    Raises:
        UserError: an expert has no tokenizer, no template for a chat, or not all the ids of a text.
    """
    if experts.tokenizer is None:
        raise UserError("no expert has a tokenizer, so there is nothing to read a prompt with")
    encoded = []
    for expert, (name, own) in enumerate(zip(experts.names, experts.tokenizers, strict=True)):
        rows = []
        for prompt in prompts:
            if isinstance(prompt, str):
                ids = list(experts.tokenizer(prompt)["input_ids"])
                reads = experts.vocabulary.readable[expert]
                odd = [number for number in ids if number >= len(reads) or not bool(reads[number])]
                if odd:
                    text = experts.tokenizer.convert_ids_to_tokens(odd[0])
                    raise UserError(f"{name}: cannot read token {odd[0]} ({text!r}) of the prompt")
                rows.append(ids)
            else:
                tokenizer = own if own is not None and own.chat_template else experts.tokenizer
                if not tokenizer.chat_template:
                    raise UserError(f"{name}: has no chat template; give a plain prompt")
                found = tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, return_dict=True)
                rows.append(list(found["input_ids"]))
        encoded.append(rows)
    return encoded


class Run:
    """One batch being decoded: the state, the settings, and what stops it."""

    def __init__(
        self,
        experts: Experts,
        prompts: Sequence[Sequence[Sequence[int]]],
        settings: Settings,
        cores: Sequence[Any] | None = None,
    ) -> None:
        """`prompts` as `encode_prompts` gives them; `cores` stand in for the experts' models (tests do so)."""
        vocabulary = experts.vocabulary
        stops = frozenset(stop for stop in experts.stop_ids if stop < vocabulary.size)
        shared = torch.nonzero(vocabulary.shared)
        law = Law(
            weights=experts.weights,
            size=vocabulary.size,
            gate=settings.gate,
            blocked=None if vocabulary.whole else vocabulary.masked(stops),
            readable=None if vocabulary.whole else vocabulary.readable,
            stops=stops,
            filler=int(shared[0]),
            geometric=settings.law == "logits",
        )
        cores = cores or [ModelCore(model, law.filler) for model in experts.models]
        readers = [
            Reader(
                core,
                name,
                rows,
                scoring=settings.needs_scores,
                score_prompt=settings.gate.prompt,
                readable=None if law.readable is None else law.readable[expert],
                blocked=law.blocked,
            )
            for expert, (core, name, rows) in enumerate(zip(cores, experts.names, prompts, strict=True))
        ]
        self.experts, self.settings = experts, settings
        self.state = State(law, readers, len(prompts[0]))
        self.seconds = 0.0
        self.ended_by_text: dict[int, int] = {}
        # A stop string ends in the newest token; every token but a special one has a byte of it or more.
        self._window = 2 * max((len(stop.encode()) for stop in settings.stop), default=0) + 32
        self.prompt_texts: list[tuple[str, ...]] = [()] * len(prompts[0])
        rooms = [[core.context - len(row) for row in rows] for core, rows in zip(cores, prompts, strict=True) if core.context]
        # A row's own, so that its response does not depend on its neighbours.
        self.limits = [min(settings.max_new_tokens, *room) for room in zip(*rooms, strict=True)]
        self.limits = self.limits or [settings.max_new_tokens] * len(prompts[0])

    def steps(self) -> Iterator[int]:
        """Decode; yields how many positions are settled, whenever that grows."""
        began = time.perf_counter()
        state, settings = self.state, self.settings
        if settings.temperature is None and not settings.eager:
            if state.rows > 1:
                raise UserError("lazy greedy decoding takes one response at a time; `generate` decodes a batch row by row")
            for count, _ in enumerate(Greedy(state, self._slack()).run(self.limits[0]), start=1):
                self._look_for_stops(count)
                self.seconds = time.perf_counter() - began
                yield count
                if 0 in self.ended_by_text:
                    state.forget(count)  # what was decoded beyond the stop string
                    return
            return
        warp = settings.as_warp()
        while not all(state.ended):
            if settings.temperature is None:
                tokens, sure = eager_steps.step_greedy(state)
            elif state.law.geometric:
                tokens, sure = eager_steps.step_product(state, warp, settings.seed)
            else:
                module: Any = eager_steps if settings.eager else sampling
                step = module.step_experts if settings.warp == "experts" else module.step_mixture
                tokens, sure = step(state, warp, settings.seed)
            state.append(tokens, sure)
            self._look_for_stops(state.length)
            for row, limit in enumerate(self.limits):
                state.ended[row] |= state.length >= limit
            self.seconds = time.perf_counter() - began
            yield state.length

    def _slack(self) -> float:
        models = self.experts.models
        return max((SLACK.get(getattr(model, "dtype", torch.float32), 1e-5) for model in models), default=SLACK[torch.float64])

    def _look_for_stops(self, count: int) -> None:
        if not self.settings.stop:
            return
        for row in range(self.state.rows):
            if row in self.ended_by_text or (self.state.ended[row] and self.state.rows > 1):
                continue
            if self._has_stop(row, count, self._window) and self._has_stop(row, count, count):
                self.ended_by_text[row] = min(count, len(self.state.chosen[row]))
                self.state.ended[row] = True

    def _has_stop(self, row: int, count: int, window: int) -> bool:
        """Whether a stop string stands in a row's last `window` of the first `count` tokens."""
        ids = self.state.chosen[row][:count][-window:]
        text = str(self.experts.tokenizer.decode(ids, skip_special_tokens=True)) if self.experts.tokenizer else ""
        return any(stop in text for stop in self.settings.stop)

    def text_of(self, row: int, count: int | None = None) -> str:
        """A row's text so far, special tokens left out, stop strings not yet cut."""
        ids = self.state.chosen[row][:count]
        return str(self.experts.tokenizer.decode(ids, skip_special_tokens=True)) if self.experts.tokenizer else ""

    def ledger(self) -> Ledger:
        """What it cost so far; ask before `results`, whose flush is not counted."""
        state = self.state
        sure = [flag for row in state.sure for flag in row]
        names = self.experts.names
        return Ledger(
            tokens=len(sure),
            steps=state.length,
            passes={name: reader.passes for name, reader in zip(names, state.readers, strict=True)},
            chunks={name: tuple(reader.chunks) for name, reader in zip(names, state.readers, strict=True)},
            certified_share=sum(sure) / max(1, len(sure)),
            seconds=self.seconds,
        )

    def results(self) -> list[Generation]:
        """The responses, after one flush in which every expert reads what it still lags."""
        state = self.state
        longest = max(len(row) for row in state.chosen)
        for reader in state.readers if self.settings.scores else ():
            if len(reader.scores) < longest:
                reader.follow(state.tokens[:, : longest - 1], state.choices[:, : longest - 1])
                reader.note(state.choices[:, longest - 1])
        return [self._result(row) for row in range(state.rows)]

    def _result(self, row: int) -> Generation:
        state = self.state
        count = self.ended_by_text.get(row, len(state.chosen[row]))
        ids = state.chosen[row][:count]
        text = self.text_of(row, count)
        cuts = [text.index(stop) for stop in self.settings.stop if stop in text]
        stopped = bool(cuts) or bool(ids and ids[-1] in state.law.stops)
        log_p, shares = self._scores(row, count) if self.settings.scores else (torch.zeros(0), torch.zeros(0))
        return Generation(
            text=text[: min(cuts)] if cuts else text,
            token_ids=tuple(ids),
            finish_reason="stop" if stopped else "length",
            logprobs=tuple(log_p.tolist()),
            responsibilities=tuple(tuple(row_) for row_ in shares.tolist()),
            prompts=self.prompt_texts[row],
        )

    def _scores(self, row: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """log p of a row's tokens [count], and every expert's responsibility for them [count, experts]."""
        state = self.state
        joint = torch.stack(
            [
                torch.stack([reader.scores[position][row] for reader in state.readers]) + state.log_a[position][row]
                for position in range(count)
            ]
        )
        total = torch.logsumexp(joint, 1)
        shares = torch.exp(joint - total[:, None])
        if state.log_p:
            log_p = torch.tensor([state.log_p[position][row] for position in range(count)], dtype=torch.float64)
        elif state.law.blocked is not None:
            log_p = total - torch.stack([self._allowed(row, position) for position in range(count)])
        else:
            log_p = total
        return log_p, shares

    def _allowed(self, row: int, position: int) -> torch.Tensor:
        """log of the mixture's mass on the ids that may be chosen."""
        masses = torch.stack([reader.masses[position][row] for reader in self.state.readers])
        return torch.logsumexp(masses + self.state.log_a[position][row], 0)


def start(experts: Experts, prompts: Sequence[str | Sequence[Message]], settings: Settings) -> Run:
    """A batch ready to decode."""
    encoded = encode_prompts(experts, prompts)
    run = Run(experts, encoded, settings)
    run.prompt_texts = [tuple(str(experts.tokenizer.decode(rows[index])) for rows in encoded) for index in range(len(prompts))]
    return run


def stream(experts: Experts, prompt: str | Sequence[Message], settings: Settings) -> Iterator[str | tuple[Generation, Ledger]]:
    """The pieces of one response as they are settled; the whole of it and its ledger come last."""
    run = start(experts, [prompt], settings)
    shown = ""
    longest = max((len(stop) for stop in settings.stop), default=1) - 1
    for count in run.steps():
        text = run.text_of(0, count)
        cuts = [text.index(stop) for stop in settings.stop if stop in text]
        # What may yet become a stop string, or the rest of a character, is held back.
        safe = text[: min(cuts)] if cuts else text[: len(text) - longest] if longest else text
        safe = safe.rstrip("\N{REPLACEMENT CHARACTER}")
        if safe.startswith(shown) and len(safe) > len(shown):
            yield safe[len(shown) :]
            shown = safe
    ledger = run.ledger()
    result = run.results()[0]
    if result.text.startswith(shown) and len(result.text) > len(shown):
        yield result.text[len(shown) :]
    yield result, ledger


def generate(
    experts: Experts, prompts: Sequence[str | Sequence[Message]], settings: Settings
) -> tuple[list[Generation], Ledger]:
    """Decode a batch.

    Args:
        experts: from `load_experts`.
        prompts: texts, or chats (lists of messages).
        settings: how.

    Returns:
        One response a prompt, and what all of them cost together.  Lazy greedy decoding takes the rows one after the other.

    Raises:
        UserError: a prompt that is empty or longer than an expert's context, settings that contradict each other.
        ExpertError: an expert failed while it ran.
    """
    if not prompts:
        return [], Ledger(0, 0, {}, {}, 0.0, 0.0)
    if settings.temperature is None and not settings.eager and len(prompts) > 1:
        return _one_by_one(experts, prompts, settings)
    run = start(experts, prompts, settings)
    for _ in run.steps():
        pass
    ledger = run.ledger()
    return run.results(), ledger


def _one_by_one(
    experts: Experts, prompts: Sequence[str | Sequence[Message]], settings: Settings
) -> tuple[list[Generation], Ledger]:
    found = [generate(experts, [prompt], settings) for prompt in prompts]
    ledgers = [ledger for _, ledger in found]
    tokens = sum(ledger.tokens for ledger in ledgers)
    total = Ledger(
        tokens=tokens,
        steps=sum(ledger.steps for ledger in ledgers),
        passes={name: sum(ledger.passes[name] for ledger in ledgers) for name in experts.names},
        chunks={name: tuple(c for ledger in ledgers for c in ledger.chunks[name]) for name in experts.names},
        certified_share=math.fsum(ledger.certified_share * ledger.tokens for ledger in ledgers) / max(1, tokens),
        seconds=sum(ledger.seconds for ledger in ledgers),
    )
    return [row for rows, _ in found for row in rows], total
