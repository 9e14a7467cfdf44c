"""Studies as people write them: what is read, and what one line says of what cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from modist.errors import RecipeError, UserError
from modist.evaluation.study import load_study
from modist.evaluation.study.document import read_study
from modist.recipe.document import parse_document

EXAMPLES = Path(__file__).parents[3] / "examples"
EXPERTS = EXAMPLES / "experts"
MIX = {
    "experts": [{"source_model": str(EXPERTS / "general")}, {"source_model": str(EXPERTS / "math")}],
    "weights": [0.5, 0.5],
}


def good() -> dict[str, Any]:
    return {
        "title": "A study",
        "parents": {"general": str(EXPERTS / "general"), "math": {"model": str(EXPERTS / "math"), "label": "Maths"}},
        "benchmarks": ["gsm8k", "svamp"],
        "retention": ["bbh"],
        "development": ["gsm8k-train"],
        "paper": {"source": "a paper", "columns": ["gsm8k", "svamp"], "rows": {"Mean": [1.5, 2]}},
        "rows": [
            {"name": "merged", "merge": {**MIX, "normalize": "quantile"}, "paper": "Mean", "seed": 3},
            {
                "name": "tuned",
                "merge": {
                    "merge_method": "task_arithmetic",
                    "base_model": str(EXPERTS / "base"),
                    "models": [{"model": str(EXPERTS / "math"), "parameters": {"weight": 1}}],
                    "parameters": {"int8_mask": True},
                },
                "tune": {"lambda": [0.5, 1]},
                "allow": ["rope"],
            },
            {"name": "mixed", "mixture": MIX, "gate": "bayes", "discount": 0.9},
            {"name": "route", "route": ["general", "math"]},
            {"name": "vote", "label": "Vote", "vote": ["math", "general"]},
            {"name": "control", "vote": ["math"], "samples": 6},
        ],
    }


def write(folder: Path, data: Any) -> Path:
    path = folder / "study.yml"
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return path


def changed(path: str, value: Any) -> dict[str, Any]:
    """The good study with one value set (`...` removes it): `rows.2.gate`."""
    data: Any = good()
    *way, last = path.split(".")
    place = data
    for key in way:
        place = place[int(key) if key.isdigit() else key]
    if value is ...:
        del place[int(last) if last.isdigit() else last]
    else:
        place[int(last) if last.isdigit() else last] = value
    return dict(data)


def test_a_study_as_it_should_be(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, good()))
    assert [parent.label for parent in study.parents] == ["general", "Maths"]
    assert [row.kind for row in study.rows] == ["merge", "merge", "mixture", "route", "vote", "vote"]
    assert study.rows[1].tuned == ("lambda", (0.5, 1.0))
    assert study.rows[4].samples == 4 and study.rows[4].parents == ("math", "general")
    # Two of each for the one vote, six of one parent for the other.
    assert study.samples_needed(study.rows) == {"math": 6, "general": 2}
    assert study.samples_needed(study.rows[4:5]) == {"math": 2, "general": 2}
    assert study.paper == {"Mean": {"gsm8k": 1.5, "svamp": 2.0}}
    assert [row.name for row in study.chosen(("mixed", "general"))] == ["mixed"]
    assert study.chosen(()) == study.rows


def test_a_candidate_is_the_recipe_with_one_parameter_set(tmp_path: Path) -> None:
    row = load_study(write(tmp_path, good())).rows[1]
    recipe = row.at(0.5)
    assert recipe.parameters["lambda"].at("x", 0.0) == 0.5 and recipe.parameters["int8_mask"].at("x", 0.0) is True
    assert yaml.safe_load(recipe.document.text)["parameters"] == {"int8_mask": True, "lambda": 0.5}
    assert row.at(None) is row.recipe


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("benchmark", ["gsm8k"], r"study\.yml:\d+: benchmark: unknown key 'benchmark'; did you mean 'benchmarks'\?"),
        ("rows.0.alow", ["rope"], r"study\.yml:\d+: rows\[0\]\.alow: unknown key 'alow'; did you mean 'allow'\?"),
        ("title", ..., "the key 'title' is missing"),
        ("benchmarks", [], "benchmarks"),
        ("benchmarks.0", "gsm8", r"benchmarks\[0\]: gsm8: no such benchmark; did you mean 'gsm8k'\?"),
        ("benchmarks.1", "gsm8k", "named twice"),
        ("benchmarks.1", "gsm8k-train", "gsm8k-train is development data"),
        ("development.0", "math", r"development\[0\]: math is test data"),
        ("benchmarks.0", "nowhere.yml", "there is no benchmark 'nowhere.yml'"),
        ("parents.general", str(EXPERTS / "generl"), r"parents\.general.*there is no folder .*did you mean 'general'"),
        ("rows.0.name", "../up", "cannot name a folder"),
        ("rows.0.name", "Math", "'Math' is named twice"),
        ("rows.1.name", "merged", r"rows\[1\]\.name: 'merged' is named twice"),
        ("rows.0.merge", ..., "exactly one of merge, mixture, route, vote says what a row is; found none"),
        ("rows.0.route", ["general", "math"], "found merge and route"),
        ("rows.0.merge", "nothing.yml", r"rows\[0\]\.merge: there is no recipe 'nothing.yml'"),
        ("rows.0.merge.weights", [0.5, 0.4], r"study\.yml:\d+: rows\[0\]\.merge\.weights: the weights \[0.5, 0.4\] sum to 0.9"),
        ("rows.0.gate", "bayes", "'gate' belongs to rows with 'mixture', and this one has 'merge'"),
        ("rows.0.paper", "Mode", r"'Mode' is no row of 'paper'"),
        ("rows.0.allow", ["ropes"], r"rows\[0\]\.allow\[0\]: unknown 'ropes'; did you mean 'rope'\?"),
        ("rows.1.tune", {"lambda": []}, "give one parameter with a list of values"),
        ("rows.1.tune", {"lambda": [1, 1.0]}, "a value is given twice"),
        ("rows.1.tune", {"lambda": ["much"]}, "lambda"),
        ("development", [], "tuning needs 'development'"),
        ("rows.2.gate", "bays", "bays"),
        ("rows.2.gate", "static", "'discount' belongs to 'gate: bayes'"),
        ("rows.2.mixture", {"merge_method": "linear", "models": []}, "models"),
        ("rows.3.route", ["general", "maths"], r"rows\[3\]\.route\[1\]: 'maths' is no parent; did you mean 'math'\?"),
        ("rows.3.route", ["general", "general"], "named twice"),
        ("rows.3.route", ["general"], "route"),
        ("rows.4.samples", 3, "3 samples cannot be split evenly among 2 parents"),
        ("rows.5.samples", 0, "samples"),
        ("paper.rows.Mean", [1.0], "1 numbers for 2 columns"),
        ("paper.rows.Mean", [1.0, 101], "less than or equal to 100"),
        ("decode", {"temperature": 0}, "greater than 0"),
        ("decode", {"generator": "openai"}, "openai"),
    ],
)
def test_what_cannot_be_is_one_line_with_its_place(tmp_path: Path, path: str, value: Any, says: str) -> None:
    with pytest.raises(RecipeError, match=says) as found:
        load_study(write(tmp_path, changed(path, value)))
    assert "\n" not in str(found.value) and "study.yml" in str(found.value)


def test_an_error_in_a_recipe_written_inside_names_the_study_s_own_line(tmp_path: Path) -> None:
    data = changed("rows.1.merge.parameters", {"int8_mask": [{"fltr": "mlp", "value": 1}]})
    path = write(tmp_path, data)
    line = next(number for number, text in enumerate(path.read_text().splitlines(), start=1) if "fltr" in text)
    with pytest.raises(RecipeError, match=rf"study\.yml:{line}: .*unknown key 'fltr'"):
        load_study(path)


def test_files_that_are_no_study(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nothing\.yml: there is no such study"):
        load_study(tmp_path / "nothing.yml")
    write(tmp_path, good())
    with pytest.raises(RecipeError, match=r"there is no such study; did you mean 'study\.yml'\?"):
        load_study(tmp_path / "studie.yml")
    with pytest.raises(RecipeError, match="not YAML"):
        load_study(write(tmp_path, "title: [\n"))
    with pytest.raises(RecipeError, match="a study is a mapping"):
        load_study(write(tmp_path, "- 1\n"))


def test_a_row_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--only mixd: the study has no such row; did you mean 'mixed'"):
        load_study(write(tmp_path, good())).chosen(("mixd",))


@pytest.mark.parametrize("size", ["1.5B", "7B"])
def test_the_paper_s_studies(size: str) -> None:
    study = load_study(EXAMPLES / "paper" / f"{size}.yml")
    assert [str(parent.reference) for parent in study.parents] == [
        f"Qwen/Qwen2.5-{size}-Instruct",
        f"Qwen/Qwen2.5-Math-{size}-Instruct",
    ]
    assert len(study.benchmarks) == 12 and study.retention == ("bbh", "humaneval", "mbpp")
    rows = {row.name: row for row in study.rows}
    # Configurations 2-6 use both parents' attention and say so; Configuration 1 and the quantile touch only the MLP.
    allowed = {name for name, row in rows.items() if row.entry.allow}
    assert allowed == {"linear", "dare", "ties", "task_arithmetic", "slerp", "task_arithmetic_tuned"}
    assert all(rows[name].entry.allow == ["rope"] for name in allowed)
    assert {row.entry.paper for row in study.rows} - {None} == set(study.paper)
    assert all(set(numbers) == set(study.benchmarks) for numbers in study.paper.values())


@pytest.mark.parametrize(
    ("size", "sums"),
    [
        # The sum of each row of Tables 2 and 3.
        ("1.5B", {"Linear": 340.1, "Task-Arithmetic": 445.4, "TIES": 227.3, "DARE": 420.9, "SLERP": 385.0, "MoD": 657.1}),
        ("7B", {"Linear": 767.5, "Task-Arithmetic": 544.2, "TIES": 478.1, "DARE": 758.7, "SLERP": 772.2, "MoD": 777.0}),
    ],
)
def test_the_paper_s_numbers_add_up(size: str, sums: dict[str, float]) -> None:
    study = load_study(EXAMPLES / "paper" / f"{size}.yml")
    assert {name: round(sum(numbers.values()), 1) for name, numbers in study.paper.items()} == sums


@pytest.mark.parametrize(("size", "table"), [("1.5B", "Table 2:"), ("7B", "Table 3:")])
def test_the_paper_s_numbers_are_the_paper_s(size: str, table: str) -> None:
    seeds = sorted((Path(__file__).parents[4] / "shared" / "seeds").glob("002*.txt"))
    if not seeds:
        pytest.skip("the paper's text is not beside the repository")
    text = seeds[0].read_text(encoding="utf-8")
    lines = text[text.index(table) :].splitlines()
    study = load_study(EXAMPLES / "paper" / f"{size}.yml")
    order = ["gsm8k", "math", "college_math", "svamp", "asdiv", "mawps", "carp_en", "gaokao2023en", "olympiadbench"]
    order += ["mmlu_stem", "aime24", "amc23"]
    for name, numbers in study.paper.items():
        line = next(line for line in lines if line.split("\t")[0].removesuffix(" (Our)") == name)
        assert [float(part.replace("<b>", "").replace("</b>", "")) for part in line.split("\t")[1:]] == [
            numbers[of] for of in order
        ]


def test_the_tiny_study_has_twelve_rows_and_more() -> None:
    study = load_study(EXAMPLES / "tiny.yml")
    assert len(study.parents) + len(study.rows) >= 12 and len(study.benchmarks) == 2
    assert {row.kind for row in study.rows} == {"merge", "mixture", "route", "vote"}
    assert [row.name for row in study.rows if row.tuned] == ["task_arithmetic_tuned"]


def test_the_study_in_the_documentation_can_be_read() -> None:
    text = (EXAMPLES.parent / "docs" / "evaluate.md").read_text(encoding="utf-8")
    block = text.split("```yaml\n", 1)[1].split("```", 1)[0]
    study = read_study(parse_document(block, str(EXAMPLES / "documentation.yml")))
    assert [row.kind for row in study.rows] == ["merge", "merge", "mixture", "route", "vote"]
