"""The declared benchmarks against the paper's Table 1 and against what is known of the published files."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from modist.errors import UserError
from modist.evaluation.benchmark import Item, data_folder
from modist.evaluation.benchmarks import find, known
from modist.evaluation.benchmarks.maths import last_boxed

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the benchmarks' rows are not beside the repository (../shared/data)")

# Table 1 of arXiv 2411.00406.
TABLE_1 = {
    "gsm8k": 1319,
    "math": 5000,
    "college_math": 2818,
    "svamp": 1000,
    "asdiv": 2215,
    "mawps": 2065,
    "carp_en": 976,
    "gaokao2023en": 385,
    "olympiadbench": 675,
    "mmlu_stem": 3018,
    "aime24": 30,
    "amc23": 40,
}
OTHERS = {"bbh": 6511, "humaneval": 164, "mbpp": 427, "gsm8k-train": 7473}


@pytest.fixture(scope="module")
def items() -> dict[str, dict[str, Item]]:
    return {name: {item.id: item for item in benchmark.items(DATA)} for name, benchmark in known().items()}


def test_the_names_and_expected_counts_are_table_1s() -> None:
    found = {name: benchmark.expected for name, benchmark in known().items()}
    assert found == TABLE_1 | OTHERS
    assert sum(TABLE_1.values()) == 19_541
    assert [name for name, one in known().items() if one.split == "development"] == ["gsm8k-train"]
    assert {name: one.shots for name, one in known().items() if one.shots} == {"mmlu_stem": 5}


@needs_data
@pytest.mark.parametrize("name", [*TABLE_1, *OTHERS])
def test_rows_are_as_many_as_expected_with_ids_of_their_own(name: str) -> None:
    found = known()[name].items(DATA)
    assert len(found) == (TABLE_1 | OTHERS)[name]
    assert len({item.id for item in found}) == len(found)
    assert all(item.benchmark == name and item.id.startswith(f"{name}-") for item in found)
    assert all(item.question and item.question == item.question.strip() for item in found)
    # Two golds of the published GaoKao file are empty.
    assert [item.id for item in found if not item.gold] == (
        ["gaokao2023en-0167", "gaokao2023en-0192"] if name == "gaokao2023en" else []
    )


@needs_data
@pytest.mark.parametrize(
    ("name", "number", "gold", "begins"),
    [
        ("gsm8k", 0, "18", "Janet’s ducks lay 16 eggs per day."),
        ("gsm8k", 2, "70000", "Josh decides to try flipping a house."),
        ("math", 0, "2", "How many vertical asymptotes does"),
        ("math", 2, "\\dfrac{9}{7}", ""),
        ("college_math", 0, "10-4 n", "Simplify: $-10-4(n-5)$"),
        ("college_math", 1, "(45,2),(-10,-9)", ""),
        (
            *("svamp", 0, "145"),
            "There are 87 oranges and 290 bananas in Philip's collection. If the bananas are organized into 2 groups and "
            "oranges are organized into 93 groups. How big is each group of bananas?",
        ),
        ("asdiv", 0, "9", "Seven red apples and two green apples are in the basket. How many apples are in the basket?"),
        ("mawps", 0, "43", "Joan found 70 seashells on the beach."),
        ("carp_en", 0, "b ^ { 2 } - 9 a ^ { 2 }", "Calculate $( 3 a - b ) ( - 3 a - b )$"),
        ("gaokao2023en", 0, "\\{x|-2\\leq x < 1\\}", "Given sets $M="),
        ("olympiadbench", 1, "\\frac{1}{2 n+2}", ""),
        ("mmlu_stem", 0, "C", "Based on the characteristic population curves"),
        ("amc23", 0, "27", "Cities $A$ and $B$ are $45$ miles apart."),
        ("aime24", 0, "204", "Every morning Aya goes for a $9$-kilometer-long walk"),
    ],
)
def test_golds_that_were_looked_up(items: dict[str, dict[str, Item]], name: str, number: int, gold: str, begins: str) -> None:
    item = items[name][f"{name}-{number:04d}"]
    assert item.gold == gold
    assert item.question.startswith(begins)


@needs_data
def test_golds_have_the_published_peculiarities(items: dict[str, dict[str, Item]]) -> None:
    golds = {name: [item.gold for item in found.values()] for name, found in items.items()}
    assert sum("," in gold for gold in golds["gsm8k"]) == 14
    assert sum(not re.fullmatch(r"-?[\d.,]+", gold) for gold in golds["asdiv"]) == 131
    assert not any(re.search(r"[()$]|#", gold) for gold in golds["asdiv"] + golds["gsm8k"])
    # Floats are written as people write them, and fractions of them are kept.
    assert all(re.fullmatch(r"-?\d+(\.\d*[1-9])?", gold) for gold in golds["svamp"] + golds["mawps"])
    assert {"11.5", "1.84"} <= set(golds["mawps"])
    assert not any("$" in gold for gold in golds["college_math"] + golds["gaokao2023en"])
    assert all(not gold.startswith("$") and not gold.endswith("$") for gold in golds["olympiadbench"])
    assert all(re.fullmatch(r"\d{1,3}", gold) for gold in golds["aime24"])
    assert any(gold.startswith("0") for gold in golds["aime24"])
    assert set(golds["mmlu_stem"]) == set("ABCD")
    assert all(gold.count("{") == gold.count("}") for gold in golds["math"])


@needs_data
def test_domains(items: dict[str, dict[str, Item]]) -> None:
    def domains(name: str) -> Counter[str]:
        return Counter(item.domain for item in items[name].values())

    assert domains("mawps") == {"multiarith": 600, "singleop": 562, "singleeq": 508, "addsub": 395}
    assert len(domains("mmlu_stem")) == 18
    assert {"computer_security", "machine_learning"} < set(domains("mmlu_stem"))
    assert "anatomy" not in domains("mmlu_stem")
    assert len(domains("bbh")) == 27
    assert set(domains("bbh").values()) == {250, 187, 146, 178}


@needs_data
def test_choices_are_written_out_and_kept(items: dict[str, dict[str, Item]]) -> None:
    item = items["mmlu_stem"]["mmlu_stem-0003"]
    assert item.choices == ("Prostaglandins", "Inositol triphosphate", "Cyclic AMP", "Calmodulin")
    assert item.question.endswith(
        "\nAnswer Choices: (A) Prostaglandins (B) Inositol triphosphate (C) Cyclic AMP (D) Calmodulin"
    )
    assert item.gold == "B"
    bbh = items["bbh"]["bbh-date_understanding-0000"]
    assert bbh.choices == ("12/11/1937", "12/25/1937", "01/04/1938", "12/04/1937", "12/25/2006", "07/25/1937")
    assert bbh.question.startswith("Today is Christmas Eve of 1937.")
    assert (bbh.gold, bbh.domain) == ("(B)", "date_understanding")
    assert items["bbh"]["bbh-navigate-0000"].choices == ()
    lettered = [one for one in items["bbh"].values() if re.fullmatch(r"\([A-Z]\)", one.gold)]
    assert len(lettered) > 3000
    assert all(ord(one.gold[1]) - ord("A") < len(one.choices) for one in lettered)


@needs_data
@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@pytest.mark.parametrize(("name", "count"), [("humaneval", 164), ("mbpp", 427)])
def test_code_has_scripts_that_call_the_function(items: dict[str, dict[str, Item]], name: str, count: int) -> None:
    found = list(items[name].values())
    for item in found:
        assert set(item.extra) == {"prompt", "tests", "entry_point"}
        compile(item.gold, item.id, "exec")
        compile(item.extra["tests"], item.id, "exec")
        assert re.search(rf"def {item.extra['entry_point']}\b", item.gold)
        assert item.extra["entry_point"] in item.extra["tests"]
        assert name == "mbpp" or item.gold.startswith(item.extra["prompt"])
    assert len(found) == count


@needs_data
@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_a_solution_passes_its_tests_and_another_does_not(items: dict[str, dict[str, Item]], name: str) -> None:
    for number in (0, 1, 2, 3, 5):
        item = items[name][f"{name}-{number:04d}"]
        exec(f"{item.gold}\n{item.extra['tests']}", {})
        with pytest.raises((AssertionError, TypeError)):
            exec(f"def {item.extra['entry_point']}(*a): return None\n{item.extra['tests']}", {})


@needs_data
def test_digest_is_of_the_content(items: dict[str, dict[str, Item]], tmp_path: Path) -> None:
    amc = find("amc23")
    found = amc.items(DATA)
    assert amc.digest(found) == amc.digest(found[:])
    assert amc.digest(found) != amc.digest(found[::-1])
    assert amc.digest(found) != amc.digest(found[:-1])
    first = found[0]
    for changed in (replace(first, gold="28"), replace(first, question="?"), replace(first, id="amc23-0040")):
        assert amc.digest([changed, *found[1:]]) != amc.digest(found)
    # Another layout, other spaces, the same content.
    (tmp_path / "amc23").mkdir()
    rows = (DATA / "math" / "amc23" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "amc23" / "test.jsonl").write_text("".join(json.dumps(json.loads(row), indent=None) + "\n\n" for row in rows))
    assert amc.digest(amc.items(tmp_path)) == amc.digest(found)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"so $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"\boxed{1} and then \boxed{\{2\}}", r"\{2\}"),
        (r"thus $\boxed 7$ apples", "7"),
        (r"cut off \boxed{3 + {4", "3 + {4"),
        ("nothing", None),
    ],
)
def test_last_boxed(text: str, found: str | None) -> None:
    assert last_boxed(text) == found


def write(folder: Path, name: str, *lines: str) -> Path:
    file = folder / name / "test.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def test_both_layouts_and_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = json.dumps({"question": "q\u2028r ", "answer": "so\n#### 1,234 "}, ensure_ascii=False)
    for layout in ("", "math"):
        write(tmp_path / (layout or "plain") / layout, "gsm8k", row)
        (item,) = find("gsm8k").items(tmp_path / (layout or "plain"))
        assert (item.id, item.question, item.gold) == ("gsm8k-0000", "q\u2028r", "1,234")
    monkeypatch.setenv("MODIST_DATA", str(tmp_path / "plain"))
    assert len(find("gsm8k").items(None)) == 1
    monkeypatch.delenv("MODIST_DATA")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_folder() == tmp_path / ".cache" / "modist" / "data"


def test_data_that_is_not_there_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^gsm8k: its rows are not in .*modist benchmarks download gsm8k --data /"):
        find("gsm8k").items(tmp_path)


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("gsm8k", ['{"question": "q", "answer": "#### 1"}', '{"question": "q", "answer": "1"}'], ":2: 'answer' has no ####"),
        ("gsm8k", ['{"question": "q", "answer": "#### 1"}', "", "{"], ":3: not JSON"),
        ("gsm8k", ["[1]"], ":1: a row is an object, not a list"),
        ("gsm8k", ["", " "], ": holds no rows"),
        ("gsm8k", ['{"questions": "q", "answer": "#### 1"}'], ":1: no key 'question'; did you mean 'questions'?"),
        ("gsm8k", ['{"question": null, "answer": "#### 1"}'], ":1: 'question' must be a text or a number, not null"),
        ("math", ['{"problem": "q", "type": "t", "solution": "2"}'], r":1: 'solution' has no \boxed"),
        ("mmlu_stem", ['{"question": "q", "type": "t", "choices": ["a"], "answer": 1}'], "a place among the 1 choices, not 1"),
        ("mmlu_stem", ['{"question": "q", "type": "t", "choices": "ab", "answer": 1}'], "'choices' must be a list of texts"),
        ("olympiadbench", ['{"question": "q", "subfield": "t", "final_answer": []}'], ":1: 'final_answer' is empty"),
    ],
)
def test_a_damaged_file_is_told_by_line(tmp_path: Path, name: str, lines: list[str], message: str) -> None:
    file = write(tmp_path, name, *lines)
    with pytest.raises(UserError) as raised:
        find(name).items(tmp_path)
    assert str(raised.value).startswith(str(file))
    assert message in str(raised.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    write(tmp_path, "gsm8k").write_bytes(b'{"question": "\xff"}')
    with pytest.raises(UserError, match=r"not UTF-8 text \(byte 14\)"):
        find("gsm8k").items(tmp_path)


def test_bbh_wants_all_its_tasks(tmp_path: Path) -> None:
    (tmp_path / "bbh").mkdir()
    with pytest.raises(UserError, match=r"27 of the 27 tasks are not there, among them boolean_expressions\.json"):
        find("bbh").items(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gsm8", "gsm8: no such benchmark; did you mean 'gsm8k'?"),
        ("GSM8K", "GSM8K: no such benchmark; did you mean 'gsm8k'?"),
        ("zzz", "zzz: no such benchmark; there are gsm8k, math, "),
        ("no/such.yml", "no/such.yml: there is no such benchmark file"),
    ],
)
def test_a_name_that_is_none(name: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        find(name)
    assert str(raised.value).startswith(message)
