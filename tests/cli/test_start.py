"""Help answers at once: nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from modist.cli.app import COMMANDS

HEAVY = ("torch", "numpy", "transformers", "pydantic", "yaml", "huggingface_hub", "matplotlib", "safetensors")


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("imported", ["modist", "modist.cli.app"])
def test_start_imports_nothing_heavy(imported: str) -> None:
    loaded = python(f"import sys, {imported}; print('\\n'.join(sys.modules))").split()
    assert not [name for name in HEAVY if name in loaded]


def test_merging_never_imports_torch() -> None:
    loaded = python("import sys, modist.merge.verify, modist.merge.run; print('\\n'.join(sys.modules))").split()
    assert "numpy" in loaded and not [name for name in ("torch", "transformers") if name in loaded]


def test_a_command_waits_for_no_other() -> None:
    help_of = "import sys; sys.argv = ['modist', 'merge', '--help']; from modist.cli import main\ntry: main()\nfinally: {}"
    loaded = python(help_of.format("print('\\n'.join(sys.modules))")).split()
    others = {place.split(".")[0] for place in COMMANDS.values()} - {"merge"}
    assert "modist.cli.merge" in loaded and not [name for name in others if f"modist.cli.{name}" in loaded]


def test_a_misspelt_command_is_told_the_nearest() -> None:
    done = subprocess.run([sys.executable, "-m", "modist", "mrege"], capture_output=True, text=True)
    assert done.returncode == 2 and "No such command 'mrege'. Did you mean 'merge'?" in done.stderr


def test_every_command_has_help() -> None:
    listed = subprocess.run([sys.executable, "-m", "modist", "--help"], capture_output=True, text=True, check=True).stdout
    for verb in COMMANDS:
        assert f"  {verb} " in listed
        done = subprocess.run([sys.executable, "-m", "modist", verb, "--help"], capture_output=True, text=True)
        assert done.returncode == 0 and "Usage" in done.stdout


def test_schema_and_methods_are_json() -> None:
    schema = json.loads(python("import sys; sys.argv=['modist','recipe','schema']; from modist.cli import main; main()"))
    assert schema["anyOf"] and {"MixtureFile", "MergeFile"} <= {part.get("title") for part in schema["anyOf"]}
    rows = json.loads(python("import sys; sys.argv=['modist','methods','--json']; from modist.cli import main; main()"))
    assert {"mod", "linear", "slerp", "task_arithmetic", "ties", "dare_linear", "dare_ties"} <= {row["name"] for row in rows}
