"""Test sets as fitness: refused by name, and by content in whatever file their questions are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modist.errors import UserError
from modist.evaluation.benchmarks import known
from modist.search.disjoint import HeldOut, Sample, held_out, passage_sample, refuse_file, refuse_name, separate, words
from modist.search.likelihoods import Passage, read_passages
from modist.search.metric import read_metrics

QUESTION = "Natalia sold 48 clips to each of her friends in April, and half as many in May. How many is that?"
SHORT = "How long is treacle?"
DEMO = Path(__file__).parents[2] / "examples" / "experts" / "questions"


def sample(text: str) -> Sample:
    return Sample("here:1", text, (text,))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with one test set of two questions."""
    folder = tmp_path / "data" / "gsm8k"
    folder.mkdir(parents=True)
    rows = [{"question": question, "answer": "so #### 7"} for question in (QUESTION, SHORT)]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "train.jsonl").write_text(json.dumps({"question": "What is three and four?", "answer": "#### 7"}) + "\n")
    return tmp_path / "data"


def jsonl(path: Path, *contents: object) -> Path:
    rows = [{"text" if isinstance(content, str) else "messages": content} for content in contents]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def chat(*said: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(said)]


@pytest.mark.parametrize(
    "text",
    [
        QUESTION,
        QUESTION.upper().replace(" ", "\n  "),
        QUESTION.replace("48", "$48$").replace(",", " --").replace("--", ""),
        f"Question: {QUESTION} Answer: seven",
        f"I was asked this: {QUESTION} And I said seven.",
        SHORT,
        f"Q: {SHORT} A: 5",
        f"<|im_start|>user\n{SHORT}<|im_end|>\n<|im_start|>assistant\n5<|im_end|>",
        f"First.\n{SHORT}\nLast.",
    ],
)
def test_a_question_is_found_in_whatever_it_stands(text: str, data: Path) -> None:
    assert held_out(data).find(sample(text)) in ("gsm8k-0000 of the test set gsm8k", "gsm8k-0001 of the test set gsm8k")


@pytest.mark.parametrize(
    "text",
    [
        QUESTION.replace("48", "49"),
        QUESTION.replace("half as many", "half"),
        QUESTION[: len(QUESTION) // 2],
        "I wonder how long is treacle good for",
        f"{SHORT} And how short is milk?",
        "treacle",
        "!?",
        "",
    ],
)
def test_another_question_is_not(text: str, data: Path) -> None:
    assert held_out(data).find(sample(text)) is None


def test_signs_of_arithmetic_count() -> None:
    assert words("Let $x^{2} - 1 = 0$.") == ["let", "x", "^", "2", "-", "1", "=", "0"]
    assert words("X₁ − 2") == words("x1 – 2")
    assert words("2+3") != words("2-3")
    sets = HeldOut()
    sets.add("sums", [sample("2+3")])
    assert sets.find(sample("2 + 3 =")) is None and sets.find(sample("2-3")) is None
    assert sets.find(sample(" 2 +3")) == "here:1 of the test set sums"


def test_a_choice_question_without_its_choices() -> None:
    long = "Which gas makes up the largest part of the air we breathe?"
    sets = HeldOut()
    sets.add(
        "choices",
        [sample(f"{long}\nAnswer Choices: (A) one (B) two"), sample("Which is true?\nAnswer Choices: (A) one (B) two")],
    )
    assert sets.find(sample(long)) is not None
    # Anybody may ask that.
    assert sets.find(sample("Which is true?")) is None
    assert sets.find(sample("Which is true? Answer choices: (A) one (B) two")) is not None


def test_what_is_on_this_machine_is_known(data: Path) -> None:
    sets = held_out(data)
    assert "gsm8k" in sets.names and "gsm8k" not in sets.absent
    tests = {name for name, benchmark in known().items() if benchmark.split == "test"}
    assert set(sets.absent) == tests - {"gsm8k"}
    assert {"demo-general", "demo-math"} <= set(sets.names)


def test_likelihood_files_are_searched(data: Path, tmp_path: Path) -> None:
    file = jsonl(tmp_path / "fit.jsonl", "nothing here", chat("Hello", "Hi", SHORT, "5"), f"so: {QUESTION}")
    with pytest.raises(UserError) as error:
        read_metrics([f"likelihood:{file}"], data=data)
    assert str(error.value) == (
        f"{file}:2: holds gsm8k-0001 of the test set gsm8k; what a search is scored on must share no question with it"
        " (1 more rows are of such sets)"
    )
    # Where that has been done, or with other sets.
    read_metrics([f"likelihood:{file}"], data=data, compare=False)
    read_metrics([f"likelihood:{file}"], data=data, compare=HeldOut())


def test_the_system_message_is_no_question() -> None:
    system = {"role": "system", "content": "Answer the question as well as you possibly can, please."}
    one, two = (passage_sample(Passage("fit:1", [system, *chat(question, "4")])) for question in ("2+2?", "5-1?"))
    separate([one], [two], "second.jsonl")
    assert one.question == "2+2?"
    with pytest.raises(UserError, match=r"^fit:1: holds fit:1 of the second split second\.jsonl; "):
        separate([one], [one], "second.jsonl")


def test_a_long_chat_is_told_by_all_that_was_asked(tmp_path: Path) -> None:
    chats = [chat("Hm?", "What?", "Go on.", "Well"), chat("Ha?", "What?", "Go on.", "Well")]
    one, two = (passage_sample(passage) for passage in read_passages(jsonl(tmp_path / "fit.jsonl", *chats)))
    separate([one], [two], "second")
    with pytest.raises(UserError, match="of the second split second"):
        separate([one], [one], "second")


def test_equal_answers_are_no_overlap(tmp_path: Path) -> None:
    fit = read_passages(jsonl(tmp_path / "fit.jsonl", chat("Is it so?", "Yes, it is indeed so, as far as anybody can tell.")))
    second = read_passages(jsonl(tmp_path / "two.jsonl", chat("Or so?", "Yes, it is indeed so, as far as anybody can tell.")))
    separate(map(passage_sample, fit), map(passage_sample, second), "two")


@pytest.mark.parametrize(
    "name",
    [
        "gsm8k",
        "mmlu_stem",
        "mmlu",
        "mmlu_abstract_algebra",
        "arc_challenge",
        "gsm8k_cot",
        "GSM8K",
        "hellaswag",
        "bbh",
        "gsm8k-test",
    ],
)
def test_test_sets_by_name(name: str) -> None:
    with pytest.raises(UserError, match=rf"^{name}: is a test set, .*development split, such as gsm8k-train"):
        refuse_name(name)
    with pytest.raises(UserError, match="is a test set"):
        read_metrics([f"accuracy:{name}"])


@pytest.mark.parametrize("name", ["gsm8k-train", "gsm8k_dev", "demo-math-dev", "archery", "mine"])
def test_development_sets_by_name(name: str) -> None:
    refuse_name(name)


@pytest.mark.parametrize(
    "name", ["gsm8k.jsonl", "mmlu_stem.jsonl", "gsm8k_test.jsonl", "math/test.jsonl", "drop_test.jsonl", "MBPP.jsonl"]
)
def test_files_by_name(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    jsonl(file, "two words")
    with pytest.raises(UserError, match="has the name of a test set"):
        refuse_file(file)
    with pytest.raises(UserError, match="has the name of a test set"):
        read_metrics([f"likelihood:{file}"])


@pytest.mark.parametrize("name", ["math.jsonl", "drop.jsonl", "gsm8k_train.jsonl", "gsm8k/train.jsonl", "mine/test.jsonl"])
def test_files_of_other_names(name: str, tmp_path: Path) -> None:
    refuse_file(tmp_path / name)


def test_gsm8k_train_may_be_fitted(data: Path) -> None:
    metric = read_metrics(["accuracy:gsm8k-train"], data=data)
    assert [one.question for one in metric.samples()] == ["What is three and four?"]
    assert metric.samples()[0].place.endswith("gsm8k/train.jsonl:1")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with a development benchmark of three questions and a test benchmark, of which it has one."""
    questions = {
        "dev": ["What is one and one?", "Name the colour of the sky on a clear day at noon.", "Why?"],
        "test": ["Why?", "Who?"],
    }
    for split, asked in questions.items():
        rows = [{"q": question, "a": "two"} for question in asked]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / f"{split}.yml").write_text(
            f"name: own-{split}\nfile: {split}.jsonl\nquestion: q\ngold: a\nkind: text\nprompt: plain\n"
        )
    (tmp_path / "dev.yml").open("a").write("split: development\n")
    return tmp_path


def test_own_test_sets_beside_the_data(own: Path, data: Path) -> None:
    with pytest.raises(UserError, match=r"test\.yml: declares a test set, .*'split: development'"):
        read_metrics([f"accuracy:{own}/test.yml"], data=data)
    with pytest.raises(UserError, match=r"dev\.jsonl:3: holds own-test-0000 of the test set own-test; "):
        read_metrics([f"accuracy:{own}/dev.yml"], data=data)
    # A likelihood file beside the declaration is compared with it too.
    file = jsonl(own / "fit.jsonl", chat("Who?", "Me."))
    with pytest.raises(UserError, match=r"fit\.jsonl:1: holds own-test-0001 of the test set own-test; "):
        read_metrics([f"likelihood:{file}"], data=data)


def test_own_test_sets_elsewhere(own: Path, data: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    file = jsonl(elsewhere / "fit.jsonl", chat("Who?", "Me."))
    read_metrics([f"likelihood:{file}"], data=data)
    with pytest.raises(UserError, match=r"fit\.jsonl:1: holds own-test-0001"):
        read_metrics([f"likelihood:{file}"], data=data, tests=[str(own / "test.yml")])
    with pytest.raises(UserError, match="no such benchmark"):
        read_metrics([f"likelihood:{file}"], data=data, tests=["gsm9k"])


@pytest.mark.parametrize("domain", ["general", "math"])
def test_the_demo_s_questions(domain: str, data: Path, tmp_path: Path) -> None:
    metric = read_metrics([f"accuracy:{DEMO / domain}.dev.yml"], data=data)
    assert len(metric.samples()) == 200
    with pytest.raises(UserError, match="declares a test set"):
        read_metrics([f"accuracy:{DEMO / domain}.yml"], data=data)
    first, *_, last = (json.loads(line) for line in (DEMO / f"{domain}.jsonl").read_text().splitlines())
    copied = jsonl(tmp_path / "fit.jsonl", "not this one", chat(last["question"], last["answer"]))
    with pytest.raises(UserError, match=rf"^{copied}:2: holds {last['id']} of the test set demo-{domain}; "):
        read_metrics([f"likelihood:{copied}"], data=data)
    assert first["id"] != last["id"]
