"""Test sets are no fitness: what a search scores its candidates on must share no question with any test set.

A search that has seen a test set's questions reports a number that means nothing.  They are refused twice: by name (`gsm8k`,
`mmlu_stem`, `arc_challenge`), and by content, since a question may hide in a file of any name.  Questions are compared by a
hash of their words, so that case, spacing, punctuation and LaTeX's dollars and braces make no difference; numbers and signs of
arithmetic do.  A row overlaps where

- the whole of it, one of its messages, or a line of three words or more has the words of a test question;
- anywhere in it stand all words of a test question of eight words or more.

Test sets are those modist knows, as far as their rows are on this machine; the demo's; every user's own benchmark in the
folder of the fitness data that is not declared a development split; and whatever else the caller names.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from modist.errors import UserError

if TYPE_CHECKING:
    from modist.evaluation.benchmark import Benchmark
    from modist.search.likelihoods import Passage

# Words of a question that count as it wherever they stand, and of one that must have a line of its own.
_ANYWHERE, _LINE = 8, 3
_WORD = re.compile(r"[^\W_]+|[-+*/^%=<>~±×÷≤≥≠]")
_DASHES = dict.fromkeys(map(ord, "‐‑‒–—−"), "-")
# Where one thing ends and another begins in a text: lines, a chat's special tokens, who speaks.
_BREAK = re.compile(
    r"<\|[^|<>]*\|>|\n|\b(?:question|problem|instruction|user|human|assistant|answer|solution|response|q|a)\s*:", re.IGNORECASE
)
# What the readers of benchmarks add to a question.
_ADDED = ("\nAnswer Choices:", "\nOptions:", "\nIt must pass these tests:")

# Names as lm-evaluation-harness has them, beside modist's own; each stands for its variants too (`mmlu_stem`, `gsm8k_cot`).
# fmt: off
_ELSEWHERE = frozenset((
    "agieval", "aime", "aime24", "aime25", "alpaca_eval", "amc", "anli", "arc", "arc_challenge", "arc_easy", "arena_hard",
    "asdiv", "bbh", "belebele", "big_bench_hard", "bigbench", "blimp", "bold", "boolq", "cb", "ceval", "cmmlu",
    "cnn_dailymail", "commonsense_qa", "commonsenseqa", "copa", "coqa", "crows_pairs", "drop", "eq_bench", "eqbench",
    "glue", "gpqa", "gsm8k", "gsm_plus", "headqa", "hellaswag", "hendrycks_math", "hendrycks_test", "human_eval",
    "humaneval", "ifeval", "kmmlu", "lambada", "leaderboard", "livecodebench", "logiqa", "longbench", "math_500",
    "math500", "math_hard", "mathqa", "mbpp", "mc_taco", "mgsm", "minerva_math", "mmlu", "mmlu_pro", "mt_bench",
    "multirc", "musr", "nq_open", "olympiad_bench", "openbookqa", "paws_x", "piqa", "prost", "pubmedqa", "qa4mre",
    "qasper", "race", "record", "ruler", "sciq", "scrolls", "simpleqa", "siqa", "social_iqa", "squad", "squadv2",
    "storycloze", "super_glue", "swag", "tinybenchmarks", "toxigen", "triviaqa", "truthfulqa", "wic", "wikitext",
    "winogrande", "wmdp", "wsc", "xcopa", "xnli", "xstorycloze", "xwinograd",
))
# fmt: on
# Names that are words: a file may be called so and hold something else.
_WORDS = frozenset({"arc", "bold", "cb", "drop", "glue", "leaderboard", "math", "prost", "race", "record", "ruler", "swag"})
_DEVELOPMENT = frozenset({"train", "training", "dev", "development", "val", "valid", "validation", "fit"})


@dataclass(frozen=True)
class Sample:
    """One row that is scored on, or must not be.

    Attributes:
        place: `file:line`, or a question's id: for messages.
        question: what tells it from other rows.
        texts: all that is written in it, the question included.
    """

    place: str
    question: str
    texts: tuple[str, ...]


class HeldOut:
    """Questions that fitness data must not have.

    Attributes:
        names: of the sets in it; one that was added twice is there twice.
        absent: test sets modist knows by name and whose rows are not on this machine, so that nothing can be compared.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.absent: list[str] = []
        # Digest of a question's words -> which it is; first words of a long one -> how many words those have that begin so.
        self._whole: dict[bytes, str] = {}
        self._long: dict[str, set[int]] = {}

    def __len__(self) -> int:
        return len(self._whole)

    def add(self, name: str, samples: Iterable[Sample], what: str = "the test set") -> None:
        """Hold a set's questions out.

        Args:
            name: for messages, as `what` is.
        """
        self.names.append(name)
        for sample in samples:
            for number, text in enumerate(_variants(sample.question)):
                found = words(text)
                # A question without its choices may be one that anybody asks ("Which of these is true?").
                if not found or (number and len(found) < _ANYWHERE):
                    continue
                self._whole.setdefault(_digest(found), f"{sample.place} of {what} {name}")
                if len(found) >= _ANYWHERE:
                    self._long.setdefault(" ".join(found[:_ANYWHERE]), set()).add(len(found))

    def find(self, sample: Sample) -> str | None:
        """Which held-out question a row has in it (`gsm8k-0007 of the test set gsm8k`), or None."""
        if found := self._whole.get(_digest(words(sample.question))):
            return found
        for text in sample.texts:
            whole = words(text)
            if found := self._whole.get(_digest(whole)) or self._inside(whole):
                return found
            for line in _BREAK.split(text):
                said = words(line)
                if len(said) >= _LINE and (found := self._whole.get(_digest(said))):
                    return found
        return None

    def _inside(self, said: Sequence[str]) -> str | None:
        for start in range(len(said) - _ANYWHERE + 1):
            for count in self._long.get(" ".join(said[start : start + _ANYWHERE]), ()):
                if found := self._whole.get(_digest(said[start : start + count])):
                    return found
        return None

    def refuse(self, samples: Iterable[Sample]) -> None:
        """Let nothing through that is held out.

        Raises:
            UserError: a row has a held-out question in it: where it stands, which it is, and how many more there are.
        """
        found = [(sample.place, there) for sample in samples if (there := self.find(sample))]
        if not found:
            return
        place, there = found[0]
        more = f" ({len(found) - 1:,} more rows are of such sets)" if len(found) > 1 else ""
        raise UserError(f"{place}: holds {there}; what a search is scored on must share no question with it{more}")


def held_out(data: Path | None, files: Sequence[Path] = (), tests: Sequence[str] = ()) -> HeldOut:
    """Every test set that can be found on this machine.

    Args:
        data: the folder of the benchmarks' rows; None for the usual one.
        files: the fitness data; benchmarks declared beside them are looked at.
        tests: more test sets, by name or YAML file.

    Raises:
        UserError: one of `tests` cannot be read.
    """
    from modist.evaluation.benchmarks import find, known

    found = HeldOut()
    for benchmark in known().values():
        if benchmark.split != "test":
            continue
        try:
            found.add(benchmark.name, benchmark_samples(benchmark, data))
        except UserError:
            found.absent.append(benchmark.name)
    folders = dict.fromkeys([*(file.resolve().parent for file in files), _demo()])
    beside = [benchmark for folder in folders for benchmark in _declared(folder) if benchmark.split == "test"]
    for benchmark in (*beside, *map(find, tests)):
        found.add(benchmark.name, benchmark_samples(benchmark, data))
    return found


def separate(fit: Iterable[Sample], second: Iterable[Sample], name: str) -> None:
    """See that the data of a search and the data its outcome is reported on share no question.

    Args:
        name: of the second, for messages.

    Raises:
        UserError: they share one; where it stands in the first.
    """
    apart = HeldOut()
    apart.add(name, second, "the second split")
    apart.refuse(fit)


def refuse_name(name: str) -> None:
    """Let no benchmark through that is a test set by its name.

    Raises:
        UserError: it is one.
    """
    from modist.evaluation.benchmarks import known

    there = known().get(name)
    plain = _plain(name)
    if there is not None:
        refused = there.split == "test"
    else:
        variant = any(plain == stem or plain.startswith(f"{stem}_") for stem in _test_names())
        refused = variant and not _DEVELOPMENT & set(plain.split("_"))
    if refused:
        raise UserError(
            f"{name}: is a test set, and a search that is scored on one has no result left to report; "
            "take a development split, such as gsm8k-train or a benchmark of your own with 'split: development'"
        )


def refuse_file(file: Path) -> None:
    """Let no file through that has a test set's name: `gsm8k.jsonl`, `mmlu_test.jsonl`, `math/test.jsonl`.

    Raises:
        UserError: it has.
    """
    names = _test_names()
    stem, folder = _plain(file.stem), _plain(file.resolve().parent.name)
    alone = stem.removesuffix("_test")
    if (alone in names and (alone not in _WORDS or stem != alone)) or (stem == "test" and folder in names):
        raise UserError(
            f"{file}: has the name of a test set, and a search that is scored on one has no result left to report; "
            "take training or development data"
        )


def benchmark_samples(benchmark: Benchmark, data: Path | None) -> list[Sample]:
    """A benchmark's questions, in order; raises as `Benchmark.items`."""
    return [Sample(item.id, item.question, (item.question,)) for item in benchmark.items(data)]


def passage_sample(passage: Passage) -> Sample:
    """A row of a likelihood file: of a chat everything before the answer, but for the system's words, is its question."""
    if isinstance(passage.content, str):
        return Sample(passage.place, passage.content, (passage.content,))
    asked = [message["content"] for message in passage.content[:-1] if message["role"] != "system"]
    said = tuple(message["content"] for message in passage.content)
    return Sample(passage.place, "\n".join(asked) or said[-1], said)


def words(text: str) -> list[str]:
    """What is compared of a text: its words, numbers and signs of arithmetic, case folded."""
    return _WORD.findall(unicodedata.normalize("NFKC", text.translate(_DASHES)).casefold())


def _variants(question: str) -> Iterator[str]:
    yield question
    for added in _ADDED:
        if added in question:
            yield question.partition(added)[0]


def _digest(found: Sequence[str]) -> bytes:
    return hashlib.blake2b(" ".join(found).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _test_names() -> frozenset[str]:
    from modist.evaluation.benchmarks import known

    return _ELSEWHERE | {_plain(one.name) for one in known().values() if one.split == "test"}


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _demo() -> Path:
    """Where the demo's questions are in a checkout."""
    return Path(__file__).resolve().parents[3] / "examples" / "experts" / "questions"


def _declared(folder: Path) -> list[Benchmark]:
    """The benchmarks that YAML files of a folder declare; other YAML is passed over."""
    from modist.evaluation.benchmarks.own import read_own

    found = []
    for path in sorted(folder.glob("*.y*ml")):
        try:
            found.append(read_own(path))
        except UserError:
            continue
    return found
