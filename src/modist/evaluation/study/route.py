"""Routing: each question to the parent that finds it likelier, and that parent's answer as it stands.

The likelihood is of the question's own tokens, given what stands before them in the parent's reading of the prompt (its chat
template, a system line, worked examples), per token: what the templates themselves cost would lean every choice to one side.
A user needs no benchmark label for it, only both parents and one reading of the prompt by each.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modist.errors import UserError

if TYPE_CHECKING:
    from modist.evaluation.record import Record
    from modist.evaluation.run import Results
    from modist.mixture import Experts

FORMAT = 1


def likelier(scores: Mapping[str, float]) -> str:
    """The parent with the highest mean log-likelihood per token; of equals the first, and nobody's NaN wins."""
    return max(scores, key=lambda name: -math.inf if math.isnan(scores[name]) else scores[name])


def route(
    answers: Mapping[str, Sequence[Record]], scores: Mapping[str, Mapping[str, float]]
) -> tuple[list[Record], dict[str, int]]:
    """One benchmark's answers, each the chosen parent's.

    Args:
        answers: by parent, in the order in which ties are decided; one record a question, the same questions for each.
        scores: by parent and question id, mean log-likelihood per token.

    Returns:
        The records, in the first parent's order; how many questions each parent got.
    """
    by_id = {name: {record.id: record for record in records} for name, records in answers.items()}
    found = []
    counts = dict.fromkeys(answers, 0)
    for record in next(iter(answers.values())):
        chosen = likelier({name: scores[name][record.id] for name in answers})
        counts[chosen] += 1
        found.append(by_id[chosen][record.id])
    return found, counts


def score_prompts(
    model: str, run: Results, questions: Mapping[str, Mapping[str, str]], folder: Path, device: str | None, dtype: str | None
) -> None:
    """Score the prompts of a parent's run under that parent and keep the scores, one file a benchmark; what is there stays.

    Args:
        model: the parent's folder or hub id.
        run: its greedy answers; their prompts are what it saw.
        questions: by benchmark and id, the question alone.
        folder: for the scores.

    Raises:
        UserError: the model has no tokenizer that says which characters a token stands for.
    """
    experts: Experts | None = None
    for benchmark in run.benchmarks:
        records = run.of(benchmark)
        file, key = folder / f"{benchmark}.json", _key(model, dtype, records)
        if read_scores(file, key) is not None:
            continue
        if experts is None:
            from modist.mixture import load_experts
            from modist.recipe import parse_recipe

            alone = json.dumps({"experts": [{"source_model": model}], "weights": [1.0]})
            experts = load_experts(parse_recipe(alone, model), device=device, dtype=dtype, say=lambda line: None)
        found = {record.id: _score(experts, record.prompt, questions[benchmark][record.id]) for record in records}
        folder.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps({"key": key, "scores": found}), encoding="utf-8")
        os.replace(partial, file)


def scored(model: str, run: Results, folder: Path, dtype: str | None) -> bool:
    """Whether every prompt of a run has its score."""
    return all(
        read_scores(folder / f"{benchmark}.json", _key(model, dtype, run.of(benchmark))) is not None
        for benchmark in run.benchmarks
    )


def _key(model: str, dtype: str | None, records: Sequence[Record]) -> dict[str, Any]:
    """What the scores depend on."""
    prompts = hashlib.sha256()
    for record in records:
        prompts.update(json.dumps([record.id, record.prompt]).encode())
    return {"format": FORMAT, "model": model, "dtype": dtype, "prompts": prompts.hexdigest()}


def read_scores(file: Path, key: Mapping[str, Any] | None = None) -> dict[str, float] | None:
    """The scores by question id, or None where there are none, or they are of something else."""
    try:
        found = json.loads(file.read_bytes())
        if key is not None and found["key"] != key:
            return None
        return {str(name): float(value) for name, value in found["scores"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def question_span(text: str, question: str) -> tuple[int, int]:
    """Where the question stands in the prompt, in characters; the whole prompt where a template rewrote it."""
    question = question.strip()
    start = text.rfind(question) if question else -1
    return (start, start + len(question)) if start >= 0 else (0, len(text))


def _score(experts: Experts, prompt: str, question: str) -> float:
    """Mean log-likelihood per token of a question, where it stands in its prompt, under the one expert given."""
    from modist.mixture.score import expert_scores

    tokenizer = experts.tokenizer
    if tokenizer is None or not tokenizer.is_fast:
        raise UserError(f"{experts.names[0]}: routing needs a tokenizer.json, which says where in the text each token stands")
    begin, end = question_span(prompt, question)
    # A prompt that a template made has its special tokens in its text already.
    special = not (tokenizer.bos_token and prompt.startswith(tokenizer.bos_token))
    encoded = tokenizer(prompt, add_special_tokens=special, return_offsets_mapping=True)
    inside = [place for place, (left, right) in enumerate(encoded["offset_mapping"]) if left < end and right > begin]
    if not inside or inside[-1] < 1:
        return 0.0
    scores, _ = expert_scores(experts, 0, list(encoded["input_ids"][: inside[-1] + 1]), max(1, inside[0]))
    return float(scores.mean())
