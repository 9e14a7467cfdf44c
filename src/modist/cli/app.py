"""The commands, gathered.  A command's module is imported when the command is asked for: `merge` need not wait for `study`."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from modist.version import VERSION

# Where each command is: a function, or the application of a group of commands.  Help lists them in this order.
COMMANDS = {
    "merge": "merge.merge_command",
    "generate": "generate.generate_command",
    "score": "score.score_command",
    "chat": "chat.chat_command",
    "eval": "eval.eval_command",
    "grade": "grade.grade_command",
    "study": "study.study_command",
    "recommend": "recommend.recommend_command",
    "statistics": "statistics.statistics_command",
    "inspect": "inspect.inspect_command",
    "verify": "verify.verify_command",
    "methods": "methods.methods_command",
    "fuse": "fuse.fuse_app",
    "search": "search.search_app",
    "hub": "hub.hub_app",
    "benchmarks": "benchmarks.benchmarks_app",
    "recipe": "recipe.recipe_app",
}


class Commands(TyperGroup):
    """Knows the commands by name, and each by itself once it is needed."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in COMMANDS and cmd_name not in self.commands:
            self.commands[cmd_name] = _load(cmd_name)
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS:
            # For the nearest of all names to be suggested.
            for name in COMMANDS:
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)


def _load(name: str) -> Any:
    """One command, or group of commands, as typer makes it."""
    module, attribute = COMMANDS[name].split(".")
    found = getattr(import_module(f"modist.cli.{module}"), attribute)
    if isinstance(found, typer.Typer):
        command: Any = typer.main.get_group(found)
    else:
        single = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
        single.command(name)(found)
        command = typer.main.get_command(single)
    command.name = name
    return command


app = typer.Typer(
    name="modist",
    cls=Commands,
    help="Combine language models: merge their tensors, mix or distil what they say, and know what came of it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"modist {VERSION}")
        raise typer.Exit


@app.callback()
def _main(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass
