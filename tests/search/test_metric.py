"""Metrics: likelihood is `modist score`'s number, accuracy is `modist eval`'s, sums are what is written, and nothing is NaN."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from modist.errors import ModistError, UserError
from modist.evaluation.benchmarks import find
from modist.evaluation.generators.transformers import TransformersGenerator
from modist.evaluation.run import Settings, evaluate
from modist.mixture.load import assemble, load_model, load_tokenizer
from modist.mixture.score import score, together
from modist.search import likelihood_metric
from modist.search.accuracy_metric import Accuracy
from modist.search.likelihood_metric import Likelihood
from modist.search.metric import Sum, finite, parse, read_metrics
from modist.search.part import Part
from tests.mixture.tiny_experts import saved, tiny

torch.set_num_threads(1)
EXPERTS = Path(__file__).parents[2] / "examples" / "experts"
QUESTIONS = EXPERTS / "questions"
TEMPLATE = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"


@pytest.fixture(scope="module")
def living(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A random model whose words are word3 ... word159, and its tokenizer."""
    folder = saved(tmp_path_factory.mktemp("expert") / "tiny", tiny(1))
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = TEMPLATE
    return load_model("tiny", folder, dtype="float32"), tokenizer


@pytest.fixture(scope="module")
def general() -> tuple[Any, Any]:
    return load_model("general", EXPERTS / "general", dtype="float32"), load_tokenizer(EXPERTS / "general")


def words(*numbers: int) -> str:
    return " ".join(f"word{number}" for number in numbers)


def chat(*said: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(said)]


def jsonl(path: Path, *contents: object) -> Path:
    rows = [{"text" if isinstance(content, str) else "messages": content} for content in contents]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


CONTENTS: list[Any] = [
    words(10, 11, 12),
    words(*range(20, 60)),
    chat(words(13, 14), words(15, 16, 17)),
    chat(words(70), words(71), words(72, 73), words(74)),
    words(90, 91),
    *(words(*range(start, start + 9)) for start in range(100, 130)),
]


def by_score(living: tuple[Any, Any], contents: list[Any]) -> float:
    """The mean log-likelihood, row by row, from `modist score`'s function."""
    experts = assemble([living[0]], [1.0], tokenizers=[living[1]])
    return -together([score(experts, content) for content in contents]).nats_per_token


@pytest.mark.parametrize("contents", [CONTENTS, CONTENTS[:1], CONTENTS[2:4]], ids=["all", "one text", "chats"])
@pytest.mark.parametrize("size", [None, 1, 50])
def test_likelihood_is_what_modist_score_says(
    contents: list[Any], size: int | None, living: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if size is not None:
        monkeypatch.setitem(likelihood_metric._BATCH, "cpu", size)
    metric = Likelihood(jsonl(tmp_path / "fit.jsonl", *contents))
    assert metric(*living) == pytest.approx(by_score(living, contents), abs=1e-6)
    assert metric(*living) == metric(*living) < 0


def test_likelihood_in_float64(tmp_path: Path, living: tuple[Any, Any]) -> None:
    """Against the definition, written out."""
    model, tokenizer = living
    double = tiny(1, dtype=torch.float64)
    double.load_state_dict({name: tensor.double() for name, tensor in model.state_dict().items()})
    found, count = 0.0, 0
    for content in CONTENTS:
        if isinstance(content, str):
            ids, first = tokenizer(content)["input_ids"], 1
        else:
            text = tokenizer.apply_chat_template(content[:-1], add_generation_prompt=True, tokenize=False)
            prompt, answer = tokenizer(text)["input_ids"], tokenizer(content[-1]["content"])["input_ids"]
            ids, first = prompt + answer, len(prompt)
        with torch.no_grad():
            log_p = torch.log_softmax(double(torch.tensor([ids])).logits[0], -1)
        found += sum(float(log_p[place - 1, ids[place]]) for place in range(first, len(ids)))
        count += len(ids) - first
    metric = Likelihood(jsonl(tmp_path / "fit.jsonl", *CONTENTS))
    assert metric(double, tokenizer) == pytest.approx(found / count, abs=1e-12)
    assert metric(model, tokenizer) == pytest.approx(found / count, abs=1e-5)


def test_likelihood_of_few_logits_at_a_time(living: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metric = Likelihood(jsonl(tmp_path / "fit.jsonl", *CONTENTS))
    whole = metric(*living)
    for logits in (1, 160 * 40, 160 * 200):
        monkeypatch.setattr(likelihood_metric, "_LOGITS", logits)
        assert metric(*living) == pytest.approx(whole, abs=1e-6)


def test_batches_beside_each_other_give_the_same_bits(
    general: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likelihood_metric, "_BATCH", {"cpu": 64})
    texts = [f"How many letters are in {'honey' * number}?" for number in range(1, 14)]
    metric = Likelihood(jsonl(tmp_path / "d.jsonl", *texts))
    alone = metric(*general)
    given: list[int] = []
    real = likelihood_metric._sums
    monkeypatch.setattr(likelihood_metric, "_sums", lambda *a: (given.append(torch.get_num_threads()), real(*a))[1])
    try:
        for threads in (2, 3):
            torch.set_num_threads(threads)
            assert metric(*general) == alone
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(1)
    assert len(given) > 6 and set(given) == {1}


def test_likelihood_beyond_the_context(living: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = [words(*range(10, 60)), words(*range(60, 77)), chat(words(*range(20, 45)), words(*range(50, 60))), words(3, 4)]
    monkeypatch.setattr(living[0].config, "max_position_embeddings", 16)
    metric = Likelihood(jsonl(tmp_path / "fit.jsonl", *contents))
    assert metric(*living) == pytest.approx(by_score(living, contents), abs=1e-6)
    assert max(len(window.ids) for window in metric._windows(*living)) == 16


def test_order_of_rows_does_not_matter_to_batches(living: tuple[Any, Any], tmp_path: Path) -> None:
    one, two = jsonl(tmp_path / "one.jsonl", *CONTENTS), jsonl(tmp_path / "two.jsonl", *CONTENTS[::-1])
    assert Likelihood(one)(*living) == pytest.approx(Likelihood(two)(*living), abs=1e-6)


def test_data_that_cannot_be_scored(living: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = living
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(UserError, match=r"empty\.jsonl: holds no rows, so there are no tokens to score$"):
        read_metrics([f"likelihood:{empty}"])
    cases = {
        "word10": r":2: nothing to score: a text needs two tokens",
        "": r":2: nothing to score: a text needs two tokens",
        "hullo there my friend": r":2: .* cannot read it: 3 of 3 tokens are unknown to its tokenizer$",
    }
    for text, told in cases.items():
        with pytest.raises(UserError, match=told):
            Likelihood(jsonl(tmp_path / "fit.jsonl", words(4, 5), text))(model, tokenizer)
    with pytest.raises(UserError, match=r":1: nothing to score: the assistant's message is empty$"):
        Likelihood(jsonl(tmp_path / "fit.jsonl", chat(words(4), "")))(model, tokenizer)
    with pytest.raises(
        UserError, match=r"reads token 15\d in it, and the model has 100; tokenizer and model do not belong together$"
    ):
        Likelihood(jsonl(tmp_path / "fit.jsonl", words(3, 150)))(tiny(2, vocab=100), tokenizer)
    with pytest.raises(UserError, match="the model has no tokenizer"):
        Likelihood(jsonl(tmp_path / "fit.jsonl", words(3, 150)))(model, None)


def test_chats_need_a_template(living: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metric = Likelihood(jsonl(tmp_path / "fit.jsonl", CONTENTS[2]))
    monkeypatch.setattr(living[1], "chat_template", None)
    with pytest.raises(UserError, match=r":1: is a chat, and .*tiny has no chat template; give rows of 'text'$"):
        metric(*living)
    monkeypatch.setattr(living[1], "chat_template", "{{ raise_exception('no such role') }}")
    with pytest.raises(UserError, match=r":1: the chat template of .*tiny refuses it: no such role$"):
        metric(*living)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_model_is_an_error_naming_the_metric(value: float, tmp_path: Path) -> None:
    broken = tiny(1)
    with torch.no_grad():
        broken.model.norm.weight[3] = value
    folder = saved(tmp_path / "tiny", tiny(1))
    tokenizer = load_tokenizer(folder)
    file = jsonl(tmp_path / "fit.jsonl", words(4, 5))
    with pytest.raises(ModistError, match=rf"^likelihood:{file}: {file}:1: the model gives (nan|-inf|inf) as a log-likelihood"):
        read_metrics([f"likelihood:{file}"])(broken, tokenizer)
    own = tmp_path / "own.yml"
    own.write_text(
        "name: own\nfile: own.jsonl\nquestion: q\ngold: a\nkind: text\nprompt: plain\nsplit: development\nmax_new_tokens: 4\n"
    )
    (tmp_path / "own.jsonl").write_text(json.dumps({"q": "word4 word5", "a": "word6"}) + "\n")
    with pytest.raises(ModistError, match=rf"^accuracy:{own}: .*own\.jsonl:1: the model's logits are not finite"):
        read_metrics([f"accuracy:{own}"])(broken, tokenizer)


def test_a_metric_of_one_s_own_that_is_no_number() -> None:
    class Odd:
        name = "odd"
        files: tuple[Path, ...] = ()
        value: Any = float("nan")

        def __call__(self, model: Any, tokenizer: Any) -> Any:
            return self.value

    with pytest.raises(ModistError, match=r"^odd: gives nan, which is no number to search by$"):
        Sum([(1.0, Odd())])(None, None)  # type: ignore[list-item]
    Odd.value = None
    with pytest.raises(ModistError, match=r"^odd: gives 'None', which is no number to search by$"):
        finite(Odd(), None, None)


def test_accuracy_is_what_modist_eval_says(general: tuple[Any, Any], tmp_path: Path) -> None:
    what = str(QUESTIONS / "general.dev.yml")
    metric = Accuracy(what, limit=60, seed=3)
    found = metric(*general)
    generator = TransformersGenerator.of(*general, "general")
    benchmark = find(what)
    asked = {sample.question for sample in metric.samples()}
    results = evaluate(generator, [benchmark], tmp_path / "run", None, Settings())
    right = {record.id: record.equal for record in results.records}
    chosen = [item for item in benchmark.items(None) if item.question in asked]
    assert len(chosen) == 60
    assert found == sum(right[item.id] for item in chosen) / 60
    assert 0.85 < found <= 1 and found == metric(*general)
    # The other specialist knows nothing of it.
    math_model = load_model("math", EXPERTS / "math", dtype="float32"), load_tokenizer(EXPERTS / "math")
    assert metric(*math_model) < 0.2
    metric.close()


def test_questions_that_fail_for_themselves_are_wrong(general: tuple[Any, Any], tmp_path: Path) -> None:
    good = [json.loads(line) for line in (QUESTIONS / "general.dev.jsonl").read_text().splitlines()[:3]]
    head = "name: own\nfile: own.jsonl\nquestion: question\ngold: answer\nkind: text\npattern: 'The answer is (.*?)\\.?$'\n"
    (tmp_path / "own.yml").write_text(head + "prompt: chat\nmax_new_tokens: 64\nsplit: development\n")
    long = {"question": "Count the words: " + "egg " * 400, "answer": "400"}

    def accuracy(*rows: dict[str, str]) -> float:
        (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return Accuracy(str(tmp_path / "own.yml"))(*general)

    assert accuracy(*good) == 1.0
    assert accuracy(*good, long) == 0.75
    with pytest.raises(
        UserError, match=r"own\.jsonl:1: the prompt has \d+ tokens, and the model's context of 256 leaves no room$"
    ):
        accuracy(long)


def test_sums(general: tuple[Any, Any], tmp_path: Path) -> None:
    file = jsonl(tmp_path / "fit.jsonl", chat("How long is tea?", "The answer is 3."), "Some words that are scored.")
    accuracy = f"accuracy:{QUESTIONS}/general.dev.yml"
    metric = read_metrics([f"0.7*{accuracy} + 3e-1 * likelihood:{file}"], limit=20)
    parts = [read_metrics([one], limit=20)(*general) for one in (accuracy, f"likelihood:{file}")]
    assert metric.each(*general) == parts
    assert metric(*general) == pytest.approx(0.7 * parts[0] + 0.3 * parts[1], abs=1e-12)
    assert metric.name == f"0.7*{accuracy} + 0.3*likelihood:{file}"
    assert read_metrics([f"0.7*{accuracy}", f"0.3*likelihood:{file}"], limit=20).digest() == metric.digest()
    assert read_metrics([f"0.6*{accuracy}", f"0.3*likelihood:{file}"], limit=20).digest() != metric.digest()
    assert read_metrics([f"0.7*{accuracy}", f"0.3*likelihood:{file}"], limit=19).digest() != metric.digest()
    assert [path.name for path in metric.files] == ["general.dev.jsonl", "fit.jsonl"]
    metric.close()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("accuracy:a.yml", [(1.0, "accuracy", "a.yml")]),
        ("0.7*accuracy:a.yml + 0.3*likelihood:b.jsonl", [(0.7, "accuracy", "a.yml"), (0.3, "likelihood", "b.jsonl")]),
        ("2*likelihood:b.jsonl+accuracy:a.yml", [(2.0, "likelihood", "b.jsonl"), (1.0, "accuracy", "a.yml")]),
        ("likelihood:a + b.jsonl", [(1.0, "likelihood", "a + b.jsonl")]),
        ("1e-2 * likelihood : C:/a*b.jsonl", [(0.01, "likelihood", "C:/a*b.jsonl")]),
        ("accuracy", [(0.5, "accuracy", "x"), (0.5, "accuracy", "y")]),
        ("4*likelihood + accuracy:z", [(2.0, "likelihood", "x"), (2.0, "likelihood", "y"), (1.0, "accuracy", "z")]),
    ],
)
def test_what_is_written(text: str, found: list[tuple[float, str, str]]) -> None:
    assert [(term.weight, term.kind, term.what) for term in parse(text, ["x", "y"])] == found


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("acuracy:a.yml", r"'acuracy' is no kind of metric; did you mean 'accuracy'\?$"),
        ("a.yml", r"'a\.yml' is no kind of metric; write accuracy:FILE or likelihood:FILE$"),
        ("accuracy", r"says not on what: accuracy: and a benchmark's name or YAML file$"),
        ("likelihood:", r"says not on what: likelihood: and a JSONL file$"),
        ("", r"'' is no kind of metric"),
        ("half*accuracy:a.yml", r"'half' is no weight; a number, as in 0\.7\*accuracy:FILE$"),
        ("-1*accuracy:a.yml", r"the weight must be more than 0, since every metric is better when higher$"),
        ("0*accuracy:a.yml", r"must be more than 0"),
        ("1e999*accuracy:a.yml", r"must be more than 0|no weight"),
    ],
)
def test_what_is_written_wrong(text: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        read_metrics([text])


def test_no_metric_or_one_twice(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "fit.jsonl", words(1, 2))
    with pytest.raises(UserError, match="no metric"):
        read_metrics([])
    with pytest.raises(UserError, match=r"is there twice; give it once, with the weight it should have$"):
        read_metrics([f"likelihood:{file}", f"2*likelihood:{file}"])
    with pytest.raises(UserError, match="there is no such file"):
        read_metrics([f"likelihood:{tmp_path}/none.jsonl"])
    with pytest.raises(UserError, match=r"a limit of 0 rows: must be at least 1$"):
        read_metrics([f"likelihood:{file}"], limit=0)
    with pytest.raises(UserError, match=r"a batch size of 0: must be at least 1$"):
        read_metrics([f"accuracy:{QUESTIONS}/math.dev.yml"], batch_size=0)


def test_parts_share_nothing_and_lose_nothing(tmp_path: Path) -> None:
    # A question that is there twice, once in other case, is in one part.
    rows = [chat(f"What is {number} and one?", "x") for number in range(100)]
    file = jsonl(tmp_path / "fit.jsonl", *rows, *(chat(f"WHAT IS {number}  AND ONE?", "y") for number in range(100)))
    parts = [Likelihood(file, part=Part(index, 3, seed=1)) for index in range(3)]
    asked = [{sample.question.casefold().replace("  ", " ") for sample in part.samples()} for part in parts]
    assert sum(map(len, asked)) == 100 == len(set().union(*asked)) and min(map(len, asked)) > 20
    assert sum(len(part.samples()) for part in parts) == 200
    assert asked[0] != {sample.question for sample in Likelihood(file, part=Part(0, 3, seed=2)).samples()}
    with pytest.raises(UserError, match="part 3 of 3"):
        Part(3, 3)
    with pytest.raises(UserError, match="too few rows to make 50 parts of"):
        [Likelihood(jsonl(tmp_path / "one.jsonl", rows[0]), part=Part(index, 50)) for index in range(50)]


def test_a_larger_limit_keeps_the_rows_of_a_smaller(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "fit.jsonl", *(words(number, number) for number in range(50)))
    found = [[sample.place for sample in Likelihood(file, limit=limit, seed=5).samples()] for limit in (5, 20, 50, 99)]
    assert [len(places) for places in found] == [5, 20, 50, 50]
    assert set(found[0]) < set(found[1]) < set(found[2])
    assert found[1] == sorted(found[1], key=lambda place: int(place.rpartition(":")[2]))
    assert found[0] != [sample.place for sample in Likelihood(file, limit=5, seed=6).samples()]


def test_likelihood_is_no_more_than_zero(living: tuple[Any, Any], tmp_path: Path) -> None:
    """A uniform model gives -log of the vocabulary."""
    flat = tiny(1)
    with torch.no_grad():
        flat.get_output_embeddings().weight.zero_()
    metric = Likelihood(jsonl(tmp_path / "fit.jsonl", *CONTENTS))
    assert metric(flat, living[1]) == pytest.approx(-math.log(160), abs=1e-6)
