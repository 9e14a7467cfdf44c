"""`modist methods`."""

from __future__ import annotations

import json

import typer


def methods_command(
    name: str = typer.Argument(None, help="Only this method, with its parameters."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON list."),
) -> None:
    """List the merge methods, their parameters, sources and needs."""
    from modist.merge.method import find_method, methods

    chosen = [find_method(name)] if name else list(methods().values())
    if as_json:
        rows = [
            {
                "name": method.name,
                "summary": method.summary,
                "source": method.source,
                "base": method.base,
                "inputs": list(method.inputs),
                "reports": method.reports,
                "parameters": [
                    {"name": p.name, "help": p.help, "default": p.default, "scope": p.scope, "range": p.range}
                    for p in method.parameters
                ],
            }
            for method in chosen
        ]
        print(json.dumps(rows, ensure_ascii=False))
        return
    for method in chosen:
        fewest, most = method.inputs
        count = f"{fewest}" if fewest == most else f"{fewest} or more" if most is None else f"{fewest} to {most}"
        needs = f"{count} model{'' if count == '1' else 's'}" + (" beside a base" if method.base == "required" else "")
        print(f"{method.name}: {method.summary}\n    needs   {needs}\n    source  {method.source}")
        for p in method.parameters:
            default = (
                "required"
                if p.default is None
                else f"default {str(p.default).lower() if isinstance(p.default, bool) else p.default}"
            )
            whose = {"shared": "", "input": ", one a model", "other": ", one a model"}[p.scope]
            print(f"    {p.name:<10} {p.help} ({p.range}; {default}{whose})")
