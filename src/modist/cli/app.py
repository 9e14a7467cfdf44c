"""The commands, gathered.  Nothing heavy is imported here: help must answer at once."""

from __future__ import annotations

import typer

from modist.cli import (
    benchmarks,
    chat,
    eval,
    fuse,
    generate,
    grade,
    hub,
    inspect,
    merge,
    methods,
    recipe,
    recommend,
    score,
    search,
    statistics,
    study,
    verify,
)
from modist.version import VERSION

app = typer.Typer(
    name="modist",
    help="Combine language models: merge their tensors, mix or distil what they say, and know what came of it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("merge")(merge.merge_command)
app.command("generate")(generate.generate_command)
app.command("score")(score.score_command)
app.command("chat")(chat.chat_command)
app.command("eval")(eval.eval_command)
app.command("grade")(grade.grade_command)
app.command("study")(study.study_command)
app.add_typer(fuse.fuse_app, name="fuse")
app.add_typer(search.search_app, name="search")
app.command("recommend")(recommend.recommend_command)
app.command("statistics")(statistics.statistics_command)
app.command("inspect")(inspect.inspect_command)
app.command("verify")(verify.verify_command)
app.command("methods")(methods.methods_command)
app.add_typer(hub.hub_app, name="hub")
app.add_typer(benchmarks.benchmarks_app, name="benchmarks")
app.add_typer(recipe.recipe_app, name="recipe")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"modist {VERSION}")
        raise typer.Exit


@app.callback()
def _main(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass
