"""What the YAML files here name: the harness loads this file by its path."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from modist.evaluation.answers.grade import Graders
from modist.evaluation.benchmarks import known
from modist.evaluation.prompt import DEFAULT

_Documents = Callable[..., dict[str, Any]]


def _documents(name: str) -> _Documents:
    def load(data: str | None = None, style: str = DEFAULT, **_: Any) -> dict[str, Any]:
        """The questions as the harness's documents.

        Args:
            data: the data folder; else $MODIST_DATA, else ~/.cache/modist/data.
            style: a prompt style; `chat` gives the user's message alone, for `--apply_chat_template`.
            **_: the harness hands over whatever else its metadata holds.
        """
        from datasets import Dataset  # type: ignore[import-untyped,import-not-found,unused-ignore]

        benchmark = known()[name]
        rows = []
        for item in benchmark.items(Path(data) if data else None):
            prompt = benchmark.prompt_for(item, style)
            # None of the seven has worked examples: a chat is one message.
            text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
            rows.append({"id": item.id, "prompt": text, "gold": item.gold, "kind": benchmark.kind})
        return {"test": Dataset.from_list(rows)}

    return load


svamp = _documents("svamp")
mawps = _documents("mawps")
carp_en = _documents("carp_en")
gaokao2023en = _documents("gaokao2023en")
olympiadbench = _documents("olympiadbench")
college_math = _documents("college_math")
amc23 = _documents("amc23")


def doc_to_text(doc: Mapping[str, Any]) -> str:
    return str(doc["prompt"])


def doc_to_target(doc: Mapping[str, Any]) -> str:
    return str(doc["gold"])


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Both grades of one answer, as `modist eval` gives them."""
    graded = _graders().grade([(doc["gold"], results[0], doc["kind"], (), None)])[0]
    return {"equal": float(graded.equal), "equal_compatible": float(graded.equal_compatible)}


@cache
def _graders() -> Graders:
    """One worker process for the whole run: an answer that hangs a grader must not hang the harness."""
    graders = Graders(workers=1).__enter__()
    atexit.register(graders.__exit__, None, None, None)
    return graders
