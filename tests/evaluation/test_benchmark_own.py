"""A user's own benchmark in YAML: what it may say, and what is said of one that is wrong."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from modist.errors import UserError
from modist.evaluation.benchmark import Shot
from modist.evaluation.benchmarks import find

ROOT = Path(__file__).resolve().parents[2]
QUESTIONS = ROOT / "examples" / "experts" / "questions"
ROWS = [{"q": "How many?", "a": 3.0, "unit": "nuts", "n": "x1"}, {"q": "Where?", "a": "here", "unit": "", "n": "x2"}]


def declare(folder: Path, text: str, rows: list[Any] | None = None, name: str = "own.yml") -> str:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in (ROWS if rows is None else rows)]
    (folder / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


BASIC = "name: own\nfile: rows.jsonl\nquestion: q\ngold: a\nkind: math\n"


def test_the_least(tmp_path: Path) -> None:
    benchmark = find(declare(tmp_path, BASIC))
    items = benchmark.items(None)
    assert [(item.benchmark, item.id, item.question, item.gold) for item in items] == [
        ("own", "own-0000", "How many?", "3"),
        ("own", "own-0001", "Where?", "here"),
    ]
    assert (benchmark.name, benchmark.title, benchmark.kind, benchmark.expected, benchmark.split) == (
        *("own", "own", "math", None, "test"),
    )
    assert (benchmark.shots, benchmark.stop, benchmark.prompt, benchmark.pattern, benchmark.max_new_tokens) == (
        *(0, (), None, None, 2048),
    )
    # The data folder is not its business.
    assert benchmark.items(tmp_path / "nowhere") == items


def test_everything(tmp_path: Path) -> None:
    text = r"""
name: own.2
title: My own
file: rows.jsonl
rows: 2
id: n
domain: unit
question: "{q} Answer in {{{unit}}}."
gold: '{a} {unit}'
kind: text
prompt: plain
instruction: Be short.
shots:
  - question: One?
    answer: The answer is 1.
stop: "###"
max_new_tokens: 7
pattern: 'answer is (\w+)'
split: development
"""
    benchmark = find(declare(tmp_path, text))
    items = benchmark.items(None)
    assert [(item.id, item.question, item.gold, item.domain) for item in items] == [
        ("x1", "How many? Answer in {nuts}.", "3 nuts", "nuts"),
        ("x2", "Where? Answer in {}.", "here", ""),
    ]
    assert (benchmark.title, benchmark.expected, benchmark.split, benchmark.prompt) == ("My own", 2, "development", "plain")
    assert (benchmark.stop, benchmark.max_new_tokens, benchmark.pattern) == (("###",), 7, r"answer is (\w+)")
    assert (benchmark.shots, benchmark.examples) == (1, (Shot("One?", "The answer is 1."),))
    assert benchmark.prompt_for(items[0], "plain") == (
        "Be short.\n\nQuestion: One?\nAnswer: The answer is 1.\n\nQuestion: How many? Answer in {nuts}.\nAnswer:"
    )


def test_choices(tmp_path: Path) -> None:
    rows = [{"q": "Which?", "o": ["red", "blue"], "a": 1}, {"q": "Who?", "o": ["he", "she", 3], "a": "(c)"}]
    items = find(declare(tmp_path, BASIC.replace("math", "choice") + "choices: o\n", rows)).items(None)
    assert items[0].question == "Which?\nAnswer Choices: (A) red (B) blue"
    assert [(item.gold, item.choices) for item in items] == [("B", ("red", "blue")), ("C", ("he", "she", "3"))]
    (item,) = find(declare(tmp_path, BASIC.replace("math", "choice"), [{"q": "(A) x (B) y?", "a": "b"}])).items(None)
    assert (item.question, item.gold) == ("(A) x (B) y?", "B")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "own.yml: empty; a benchmark is a mapping with name, file, question, gold, kind"),
        ("- a\n", "own.yml:1: a benchmark is a mapping with name, file, question, gold, kind"),
        ("name: own\nfile: rows.jsonl\n", "own.yml:1: question and gold and kind are missing"),
        (BASIC + "patern: (a)\n", "own.yml:6: patern: no such key; did you mean 'pattern'?"),
        (BASIC + "name: b\n", "own.yml:6: 'name' is given twice"),
        (BASIC + "stop: [a\n", "own.yml:7: not YAML: "),
        (
            BASIC.replace("math", "maths"),
            "own.yml:5: kind: must be one of math, choice, text, not 'maths'; did you mean 'math'?",
        ),
        (BASIC.replace("math", "code"), "own.yml:5: kind: must be one of math, choice, text, not 'code'"),
        (BASIC.replace("math", "[math]"), "own.yml:5: kind: must be a text, not ['math']"),
        (BASIC.replace("name: own", "name: ../x"), "own.yml:1: name: letters, digits, '.', '_' and '-' only"),
        (BASIC.replace("name: own", "name: gsm8k"), "own.yml:1: name: 'gsm8k' is a benchmark modist brings; take another name"),
        (BASIC.replace("name: own", "name: 7"), "own.yml:1: name: must be a text, not 7"),
        (BASIC.replace("rows.jsonl", "row.jsonl"), "own.yml:2: file: there is no such file: "),
        (BASIC.replace("question: q", "question: ''"), "own.yml:3: question: is empty"),
        (BASIC.replace("question: q", "question: '{q'"), "own.yml:3: question: '{' is not a {key}; write {{ or }} for a brace"),
        (BASIC.replace("question: q", "question: '{}'"), "own.yml:3: question: '{}' is not a {key}"),
        (BASIC.replace("question: q", "question: 'a {{b}}'"), "own.yml:3: question: names no {key} of the rows"),
        (
            BASIC + "prompt: chatt\n",
            "own.yml:6: prompt: must be one of qwen25-math-cot, chat, plain, not 'chatt'; did you mean 'chat'?",
        ),
        (BASIC + "max_new_tokens: 0\n", "own.yml:6: max_new_tokens: must be a whole number from 1 to 1,000,000, not 0"),
        (BASIC + "max_new_tokens: true\n", "own.yml:6: max_new_tokens: must be a whole number from 1, not True"),
        (BASIC + "max_new_tokens: 1.5\n", "own.yml:6: max_new_tokens: must be a whole number from 1, not 1.5"),
        (BASIC + "pattern: '('\n", "own.yml:6: pattern: not a regular expression: "),
        (BASIC + "pattern: abc\n", "own.yml:6: pattern: needs a group"),
        (BASIC + "stop: ['a', '']\n", "own.yml:6: stop[1]: must be a text that is not empty, not ''"),
        (BASIC + "stop: 3\n", "own.yml:6: stop: must be a text or a list of texts, not 3"),
        (BASIC + "shots: 5\n", "own.yml:6: shots: must be a list of worked examples (question, answer), not 5"),
        (BASIC + "shots:\n- question: a\n", "own.yml:7: shots[0]: answer must be a text"),
        (BASIC + "shots:\n- question: a\n  anwser: b\n", "own.yml:8: shots[0].anwser: no such key; did you mean 'answer'?"),
        (BASIC + "choices: o\n", "own.yml:6: choices: only a benchmark of kind 'choice' has choices, and this is 'math'"),
        (BASIC + "split: dev\n", "own.yml:6: split: must be one of test, development, not 'dev'"),
        (BASIC + "1: 2\n", "own.yml:"),
    ],
)
def test_what_is_wrong_is_told_by_line_and_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        find(declare(tmp_path, text))
    assert str(raised.value).startswith(str(tmp_path))
    assert message in str(raised.value)
    assert "recipe" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "rows", "message"),
    [
        (BASIC, [{"q": "a", "a": "b"}, {"qq": "a", "a": "b"}], "rows.jsonl:2: no key 'q'; did you mean 'qq'?"),
        (BASIC, [{"q": "a", "a": None}], "rows.jsonl:1: 'a' must be a text or a number, not null"),
        (BASIC, [{"q": " ", "a": "b"}], "rows.jsonl:1: the question is empty"),
        (BASIC, ["not json"], "rows.jsonl:1: not JSON"),
        (BASIC, ["[" * 100_000], "rows.jsonl:1: not JSON"),
        (BASIC, [], "rows.jsonl: holds no rows"),
        (BASIC + "id: q\n", [{"q": "a", "a": "b"}, {"q": "a", "a": "c"}], "rows.jsonl:2: the id 'a' stands on "),
        (
            BASIC.replace("math", "choice"),
            [{"q": "a", "a": "yes"}],
            "rows.jsonl:1: the gold must be a letter up to Z, not 'yes'",
        ),
        (
            BASIC.replace("math", "choice") + "choices: o\n",
            [{"q": "a", "a": 2, "o": ["x", "y"]}],
            "rows.jsonl:1: the gold must be a letter up to B or a place from 0, not '2'",
        ),
        (BASIC.replace("gold: a", "gold: '{a.b}'"), [{"q": "a", "a": "b"}], "rows.jsonl:1: no key 'a.b'"),
    ],
)
def test_rows_that_do_not_fit(tmp_path: Path, text: str, rows: list[Any], message: str) -> None:
    benchmark = find(declare(tmp_path, text, rows))
    with pytest.raises(UserError) as raised:
        benchmark.items(None)
    assert message in str(raised.value)


def test_a_template_reads_keys_and_nothing_else(tmp_path: Path) -> None:
    # str.format would follow attributes, and would stumble over the row's own braces.
    rows = [{"q": "{a} {0} {q.__class__}", "a": r"\frac{1}{2}"}]
    (item,) = find(declare(tmp_path, BASIC.replace("question: q", "question: 'Q: {q}'"), rows)).items(None)
    assert (item.question, item.gold) == ("Q: {a} {0} {q.__class__}", r"\frac{1}{2}")


def test_a_folder_and_bytes_that_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="this is a folder; a benchmark is a YAML file"):
        find(f"{tmp_path}/")
    (tmp_path / "x.yml").write_bytes(b"name: \xff")
    with pytest.raises(UserError, match=r"not UTF-8 text \(byte 6\)"):
        find(str(tmp_path / "x.yml"))
    (tmp_path / "y.yml").write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(UserError, match="larger than 1 MiB"):
        find(str(tmp_path / "y.yml"))


@pytest.mark.parametrize(
    ("file", "name", "count", "kind"),
    [
        ("general", "demo-general", 300, "text"),
        ("math", "demo-math", 300, "math"),
        ("general.dev", "demo-general-dev", 200, "text"),
        ("math.dev", "demo-math-dev", 200, "math"),
    ],
)
def test_the_demo_s_question_sets(file: str, name: str, count: int, kind: str) -> None:
    benchmark = find(str(QUESTIONS / f"{file}.yml"))
    items = benchmark.items(None)
    rows = [json.loads(line) for line in (QUESTIONS / f"{file}.jsonl").read_text(encoding="utf-8").splitlines()]
    assert (benchmark.name, benchmark.kind, benchmark.expected, len(items)) == (name, kind, count, count)
    assert [(item.id, item.question, item.gold) for item in items] == [(r["id"], r["question"], r["answer"]) for r in rows]
    assert (benchmark.split == "development") == file.endswith(".dev")
    # Asked as examples/experts/check.py asks, and read as examples/experts/tasks.py reads.
    assert benchmark.prompt_for(items[0], benchmark.prompt or "") == [{"role": "user", "content": rows[0]["question"]}]
    assert benchmark.max_new_tokens == 64
    tasks = _tasks()
    for reply in (
        "97 + 85 = 182. \\boxed{182}",
        "\\boxed{1} or \\boxed{2}",
        "n-u-t has 3 letters. The answer is 3.",
        "The answer is a.\nThe answer is b, c",
        "nothing",
    ):
        found = re.findall(benchmark.pattern or "", reply, flags=re.MULTILINE)
        assert (found[-1] if found else None) == tasks.extract(file.removesuffix(".dev"), reply)


def _tasks() -> Any:
    import sys

    spec = importlib.util.spec_from_file_location("demo_tasks", ROOT / "examples" / "experts" / "tasks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo_tasks"] = module
    spec.loader.exec_module(module)
    return module
