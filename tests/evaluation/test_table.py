"""The table: order, intervals, marks, what may be bold, and every form it is shown in."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata

import pytest

from modist.errors import UserError
from modist.evaluation.statistics import holm, mcnemar, wilson
from modist.evaluation.table import Table, build
from modist.evaluation.telling import disagreements, p_value
from tests.evaluation.synthetic_results import counted, record, results, study

PARENTS = ("general", "math")
EVIL = '=1+1\x1b[31m|<b>_*`$\\{"\n'


def table(rows: dict[str, dict[str, list[bool]]], **options: object) -> Table:
    return build([results(name, answers) for name, answers in rows.items()], PARENTS, {}, **options)  # type: ignore[arg-type]


def wide() -> Table:
    """Nine benchmarks and two for retention, six rows."""
    benchmarks = {f"bench{number}": 40 + 30 * number for number in range(9)} | {"bbh": 90, "humaneval": 60}
    rows = {"MoD .9/.1": [0.5] * 11, "general": [0.4] * 11, "math": [0.6] * 11, "routing": [0.95] * 11, EVIL: [0.1] * 11}
    return build(
        study(benchmarks, rows),
        PARENTS,
        {"MoD .9/.1": "merge", "routing": "rival"},
        retention=("bbh", "humaneval"),
        shares={"MoD .9/.1": "99.97% of general"},
        paper={"MoD .9/.1": {"bench0": 74.5}},
        titles={"bench0": "GSM8K_x & 100%"},
    )


def test_parents_first_then_the_given_order() -> None:
    found = wide()
    assert [row.name for row in found.rows] == ["general", "math", "MoD .9/.1", "routing", EVIL]
    assert [row.role for row in found.rows] == ["parent", "parent", "merge", "rival", "other"]
    assert [column.benchmark for column in found.columns][-2:] == ["bbh", "humaneval"]
    assert [column.group for column in found.columns].count("retention") == 2


def test_a_cell_counts_and_tests() -> None:
    right = counted(60, 100)
    other = [number < 50 or 60 <= number < 85 for number in range(100)]
    found = table({"general": {"a": counted(55, 100)}, "math": {"a": right}, "merge": {"a": other}})
    (cell,) = found.rows[2].cells
    assert cell is not None
    assert (cell.n, cell.right, cell.accuracy) == (100, 75, 0.75)
    assert (cell.low, cell.high) == wilson(75, 100)
    assert (cell.only_row, cell.only_best) == (25, 10)
    assert cell.p == mcnemar(25, 10)
    assert cell.difference == pytest.approx(0.15)
    assert cell.mark == "▲"
    assert found.columns[0].best == "math"
    assert found.rows[1].cells[0] is not None
    assert found.rows[1].cells[0].is_best
    assert found.rows[1].cells[0].p is None


def test_each_column_has_its_own_best_parent() -> None:
    found = table(
        {
            "general": {"a": counted(90, 100), "b": counted(20, 100)},
            "math": {"a": counted(50, 100), "b": counted(80, 100)},
            "merge": {"a": counted(70, 100), "b": counted(70, 100)},
        }
    )
    assert [column.best for column in found.columns] == ["general", "math"]
    # Above the one parent and below the other everywhere: below the best.
    assert [cell.mark for cell in found.rows[2].cells if cell] == ["▼", "▼"]


def test_what_covers_the_best_parent_is_never_bold() -> None:
    """Over many random tables: bold only above the best parent, beyond its interval, after Holm's correction."""
    bold = marked = 0
    for seed in range(60):
        rows = {name: [0.2 + 0.1 * ((seed + at) % 7)] * 2 for at, name in enumerate(("general", "math", "x", "y", "z"))}
        found = build(study({"a": 60, "b": 200}, rows, seed), PARENTS, {})
        cells = [(row, at, cell) for row in found.rows for at, cell in enumerate(row.cells) if cell]
        claims = [cell.p for row, _, cell in cells if row.role != "parent" and cell.p is not None]
        corrected = iter(holm(claims))
        for row, at, cell in cells:
            best = max(other.accuracy for one in found.rows[:2] if (other := one.cells[at]))
            if row.role != "parent":
                assert cell.p is not None
                adjusted = next(corrected)
                assert cell.bold == (cell.p < 0.05 and adjusted < 0.05 and cell.low > best)
            if cell.bold:
                bold += 1
                assert not cell.low <= best <= cell.high
                assert cell.mark == "▲"
            marked += bool(cell.mark)
        for row in found.rows:
            for average in row.averages.values():
                assert not (average.bold and average.low <= max(one.averages["main"].accuracy for one in found.rows[:2]))
    assert bold > 10
    assert marked > 2 * bold


def test_a_paired_test_alone_does_not_make_bold() -> None:
    """All of the parent's right answers and eight more: significant, but the interval still covers the parent."""
    found = table({"general": {"a": counted(60, 100)}, "math": {"a": counted(50, 100)}, "merge": {"a": counted(68, 100)}})
    cell = found.rows[2].cells[0]
    assert cell is not None
    assert cell.p == pytest.approx(2 / 2**8)
    assert cell.mark == "▲"
    assert cell.low < 0.6
    assert not cell.bold
    assert "**" not in found.markdown()


def test_the_average_is_unweighted_and_only_of_whole_rows() -> None:
    rows = {
        "general": {"a": counted(10, 10), "b": counted(0, 1000), "bbh": counted(5, 10)},
        "math": {"a": counted(5, 10), "b": counted(500, 1000), "bbh": counted(4, 10)},
        "part": {"a": counted(10, 10)},
    }
    found = table(rows, retention=("bbh",))
    assert found.rows[0].averages["main"].accuracy == pytest.approx(0.5)
    assert found.rows[2].averages == {}
    assert found.rows[2].cells[1:] == (None, None)
    assert "—" in found.markdown()
    assert "retention" not in found.rows[0].averages  # of one benchmark it would say nothing new


def test_the_compatible_grader_has_a_table_of_its_own() -> None:
    runs = [
        results(name, [record("a", number, number < 5, compatible=number < 8) for number in range(10)])
        for name in ("general", "math")
    ]
    ours, theirs = build(runs, PARENTS, {}), build(runs, PARENTS, {}, compatible=True)
    assert [one.rows[0].cells[0].right for one in (ours, theirs) if one.rows[0].cells[0]] == [5, 8]
    assert ours.disagreement_line() == "the two graders disagree on 6 of 20 answers (30%)"
    assert ours.rows[0].disagreements == 3
    assert "rules" in theirs.text(100)
    listed = disagreements(runs)
    assert [len(rows) for rows in listed.values()] == [6]
    assert listed["a"][0]["default grader"].startswith("wrong: ")
    assert listed["a"][0]["compatible grader"].startswith("right: ")


def test_errors_cuts_and_tokens_are_told() -> None:
    answers = [record("a", number, False, finish_reason="error", tokens=0, note="500") for number in range(2)]
    answers += [record("a", number, True, finish_reason="length", tokens=100) for number in range(2, 5)]
    found = build([results("x", answers)], [], {})
    assert (found.rows[0].errors, found.rows[0].cut, found.rows[0].tokens) == (2, 3, 60)
    assert "no answer" in found.text(100)
    assert "no answer failed" not in found.text(100)
    assert "no answer failed" in table({"general": {"a": counted(1, 2)}, "math": {"a": counted(1, 2)}}).text(100)


def test_several_samples_widen_no_claim() -> None:
    def sampled(name: str, right: int) -> list[object]:
        return [record("a", item, item < right, sample=sample) for item in range(40) for sample in range(8)]

    runs = [results(name, sampled(name, right)) for name, right in (("general", 20), ("math", 20), ("merge", 23))]  # type: ignore[arg-type]
    found = build(runs, PARENTS, {})
    cell = found.rows[2].cells[0]
    assert cell is not None
    # Three questions more, whatever each is sampled: no evidence.
    assert (cell.n, cell.samples, cell.answers, cell.right) == (40, 8, 320, 184)
    assert cell.p is not None
    assert cell.p > 0.05
    assert cell.only_row is None
    assert cell.pass_k == pytest.approx(23 / 40)
    assert (cell.low, cell.high) == pytest.approx(wilson(23, 40), abs=0.02)


def test_rows_are_paired_on_what_both_answered() -> None:
    found = table({"general": {"a": counted(50, 100)}, "math": {"a": counted(40, 100)}, "part": {"a": counted(30, 30)}})
    cell = found.rows[2].cells[0]
    assert cell is not None
    assert (cell.n, found.columns[0].n, cell.p, cell.mark) == (30, 100, 1.0, "")
    assert "only 30 of 100" in found.grid().lines[2].faces[0].hint


def test_the_smallest_difference_falls_with_n() -> None:
    found = wide()
    shows = [column.shows for column in found.columns if column.group == "main"]
    assert 0.05 < shows[-1] < shows[0] < 0.5
    tiny = table({"general": {"a": [True] * 3}, "math": {"a": [False] * 3}})
    assert tiny.grid().foot[0].text == "none"
    assert tiny.as_dict()["columns"][0]["shows"] is None


@pytest.mark.parametrize(
    ("names", "parents", "roles", "words"),
    [
        (["a", "a"], [], {}, "two rows are called 'a'"),
        (["general"], ["generel"], {}, "did you mean 'general'"),
        (["general"], ["general"], {"general": "merged"}, "did you mean 'merge'"),
    ],
)
def test_what_cannot_be_shown(names: list[str], parents: list[str], roles: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        build([results(name, {"q": [True]}) for name in names], parents, roles)


def test_other_questions_are_refused() -> None:
    one, two = results("a", {"q": [True]}), results("b", [record("q", 0, True, gold="7")])
    with pytest.raises(UserError, match="different questions"):
        build([one, two], ["a"], {})
    with pytest.raises(UserError, match="did you mean 'gsm8k'"):
        build([results("a", {"gsm8k": [True]})], [], {}, benchmarks=["gsm8"])


def test_no_parent_no_test() -> None:
    found = build([results("a", {"q": counted(5, 9)}), results("b", {"q": counted(9, 9)})], [], {})
    assert all(cell.p is None and not cell.mark for row in found.rows for cell in row.cells if cell)
    assert "McNemar" not in found.text(100)
    assert found.findings() == []


@pytest.mark.parametrize("width", [60, 80, 100, 126, 200, 400])
def test_text_is_never_cut(width: int) -> None:
    found = wide()
    text = found.text(width)
    columns = [sum(0 if unicodedata.combining(c) else 1 for c in line) for line in text.splitlines()]
    assert max(columns) <= width
    flat = "".join(text.split())
    for row in found.rows:
        for cell in row.cells:
            assert cell is not None
            assert f"{100 * cell.low:.1f}–{100 * cell.high:.1f}" in flat
    assert "…" not in text
    assert "paper 74.5" in text
    assert "\x1b" not in text


def test_bold_is_seen_without_colours_and_with() -> None:
    found = wide()
    cell = next(cell for row in found.rows for cell in row.cells if cell and cell.bold)
    number = f"{100 * cell.accuracy:.1f}"
    assert f"*{number}*" in found.text(100)
    assert f"\x1b[1m{number}" in found.text(100, colour=True)
    assert f"*{number}*" not in found.text(100, colour=True)


def test_markdown_is_escaped_and_split() -> None:
    blocks = [block for block in wide().markdown().split("\n\n") if block.startswith("|")]
    assert len(blocks) == 3
    for block in blocks:
        lines = block.splitlines()
        pipes = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
        assert len(pipes) == 1
        assert len(lines) == 2 + 5 + 1
    assert r"\|&lt;b>\_\*\`\$\\{" in blocks[0]
    assert "\x1b" not in wide().markdown()


def test_latex_is_escaped_and_balanced() -> None:
    tex = wide().latex()
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == tex.count(r"\toprule") == 3
    assert tex.count(r"\bottomrule") == 3
    assert r"GSM8K\_x \& 100\%" in tex
    assert r"\textbar{}\textless{}b\textgreater{}\_*`\$\textbackslash{}\{\textquotedbl{}" in tex
    for part in tex.split(r"\begin{tabular}")[1:]:
        body = part.split(r"\end{tabular}")[0]
        count = re.match(r"{(\w+)}", body)
        assert count is not None
        for line in body.splitlines():
            if line.endswith(r"\\"):
                assert len(re.findall(r"(?<!\\)&", line)) == len(count[1]) - 1
        assert len(re.findall(r"(?<!\\)\{", body)) == len(re.findall(r"(?<!\\)\}", body))
    assert not re.search("[▲▼–]", tex)


def test_csv_has_the_raw_numbers() -> None:
    found = wide()
    rows = list(csv.DictReader(io.StringIO(found.csv())))
    cells = [row for row in rows if not row["benchmark"].startswith("average")]
    assert len(cells) == 5 * 11
    assert len(rows) - len(cells) == 5 * 2
    first = next(row for row in cells if row["row"] == "MoD .9/.1" and row["benchmark"] == "bench0")
    cell = found.rows[2].cells[0]
    assert cell is not None
    assert float(first["p"]) == cell.p
    assert (int(first["n"]), int(first["right"]), float(first["low"])) == (cell.n, cell.right, cell.low)
    assert float(first["paper"]) == pytest.approx(0.745)
    assert rows[-1]["row"] == EVIL


def test_json_has_everything() -> None:
    found = json.loads(json.dumps(wide().as_dict(), allow_nan=False))
    assert found["rows"][2]["cells"]["bench0"]["paper"] == pytest.approx(0.745)
    assert found["rows"][2]["share"] == "99.97% of general"
    assert set(found["rows"][0]["averages"]) == {"main", "retention"}
    assert len(found["columns"]) == 11


def test_findings_say_who_is_shown_to_win() -> None:
    said = wide().findings()
    assert said[0].startswith("Shown to beat the best parent")
    assert "routing on" in said[0]
    assert "MoD" not in said[0]
    lame = table({"general": {"a": counted(5, 10)}, "math": {"a": counted(5, 10)}, "m": {"a": counted(6, 10)}})
    assert lame.findings() == ["None of 1 row is shown to beat the best parent on any benchmark here."]


def test_no_answers_at_all() -> None:
    found = build([results("x", [])], ["x"], {})
    assert found.disagreement_line() == "no answers were graded"
    assert "x" in found.text(80)
    assert "x" in found.markdown()


def test_p_values_are_written_as_papers_do() -> None:
    assert [p_value(p) for p in (1.0, 0.9999, 0.0312, 0.0004, 0.999)] == ["p=1", "p=1", "p=.031", "p<.001", "p=.999"]
