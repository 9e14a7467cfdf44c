"""`modist search`: mixture, merge, compare."""

from __future__ import annotations

import typer

from modist.cli import search_compare, search_merge, search_mixture

search_app = typer.Typer(
    help="Solve for the weights: of mixtures by likelihood, of merges by evolution.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
search_app.command("mixture")(search_mixture.search_mixture_command)
search_app.command("merge")(search_merge.search_merge_command)
search_app.command("compare")(search_compare.search_compare_command)
