"""`modist study`, as a person runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from modist.cli.study import study_command
from modist.errors import RecipeError, UserError

EXAMPLES = Path(__file__).parents[2] / "examples"
TINY = EXAMPLES / "tiny.yml"

app = typer.Typer()
app.command()(study_command)


@pytest.mark.parametrize("name", ["tiny.yml", "paper/1.5B.yml", "paper/7B.yml"])
def test_every_study_is_priced_offline(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(app, [str(EXAMPLES / name), "--dry-run"], catch_exceptions=False)
    assert found.exit_code == 0
    for word in ("download ", "disk ", "tokens ", "time ", "general" if name == "tiny.yml" else "Qwen2.5-Math"):
        assert word in found.stdout
    assert list(tmp_path.iterdir()) == []
    found = CliRunner().invoke(app, [str(EXAMPLES / name), "--dry-run", "--json"], catch_exceptions=False)
    assert json.loads(found.stdout)["questions"] == (600 if name == "tiny.yml" else 26643)


def test_what_the_user_wrote_wrong(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"there is no such study; did you mean 'tiny\.yml'"):
        CliRunner().invoke(app, [str(EXAMPLES / "tinny.yml")], catch_exceptions=False)
    arguments = [str(TINY), "--only", "ruote", "--out", str(tmp_path / "out")]
    with pytest.raises(UserError, match="--only ruote: the study has no such row; did you mean 'route'"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*/"))


_MAIN = """
import typer
from modist.cli.study import study_command
app = typer.Typer()
app.command()(study_command)
if __name__ == "__main__":
    app()
"""


def command(folder: Path, *arguments: str) -> list[str]:
    file = folder / "main.py"
    file.write_text(_MAIN)
    return [sys.executable, str(file), str(TINY), *arguments]


def test_three_rows_of_the_tiny_study_with_real_models(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    out = tmp_path / "out"
    rows = ["--only", "mod", "--only", "mixture_half_bayes", "--only", "route"]
    arguments = [*rows, "--limit", "6", "--out", str(out)]
    found = subprocess.run(command(tmp_path, *arguments), capture_output=True, text=True, timeout=240)
    assert found.returncode == 0, found.stderr
    for label in ("general", "math", "MoD .9/.1 (1)", "Mixture .5/.5, bayes gate", "Routing by prompt"):
        assert label in found.stdout
    results = json.loads((out / "results.json").read_text())
    rows_ = {row["name"]: row for row in results["table"]["rows"]}
    # Each parent knows its own domain, and routing by the prompt finds some of it.
    assert rows_["general"]["cells"]["demo-general"]["right"] == 6 and rows_["general"]["cells"]["demo-math"]["right"] == 0
    assert rows_["math"]["cells"]["demo-math"]["right"] == 6
    assert rows_["Routing by prompt"]["averages"]["main"]["accuracy"] > rows_["math"]["averages"]["main"]["accuracy"]
    assert rows_["Mixture .5/.5, bayes gate"]["averages"]["main"]["accuracy"] > 0.7
    assert (out / "index.html").stat().st_size > 50_000
    # Once more: nothing is left to do.
    began = time.monotonic()
    again = subprocess.run(command(tmp_path, *arguments, "--json"), capture_output=True, text=True, timeout=240)
    assert again.returncode == 0 and json.loads(again.stdout)["table"] == results["table"]
    assert time.monotonic() - began < 60


@pytest.mark.full
def test_killed_at_random_moments_the_same_table(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    rows = ["--only", "linear_half", "--only", "task_arithmetic_tuned", "--only", "route", "--only", "vote"]

    def arguments(out: str) -> list[str]:
        return [*rows, "--limit", "30", "--out", str(tmp_path / out)]

    began = time.monotonic()
    subprocess.run(command(tmp_path, *arguments("whole")), check=True, capture_output=True, timeout=600)
    whole = time.monotonic() - began
    expected = json.loads((tmp_path / "whole" / "results.json").read_text())
    for number in range(5):
        for share in (0.3 + 0.1 * number, 0.2):
            running = subprocess.Popen(command(tmp_path, *arguments(f"out{number}")), stdout=-3, stderr=-3)
            time.sleep(share * whole)
            os.kill(running.pid, signal.SIGKILL)
            running.wait()
            # Its workers see that within a second.
            time.sleep(1.5)
        subprocess.run(command(tmp_path, *arguments(f"out{number}")), check=True, capture_output=True, timeout=600)
        found = json.loads((tmp_path / f"out{number}" / "results.json").read_text())
        assert found["table"] == expected["table"] and found["rows"] == expected["rows"]
