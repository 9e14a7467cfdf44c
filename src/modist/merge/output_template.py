"""Which chat template a result carries, where the recipe says so."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from modist.checkpoint.folder import Checkpoint, refuse_link_out
from modist.errors import UserError
from modist.recipe import Recipe
from modist.vocabulary.chat_template import (
    AUTO,
    FILE,
    NAMES,
    check_template,
    control_tokens,
    folder_template,
    most_common,
    named_template,
)


@dataclass(frozen=True)
class OutputTemplate:
    """A chat template for the result: its text, and whose it is, for people."""

    text: str
    whose: str

    def put(self, files: dict[str, bytes]) -> dict[str, bytes]:
        """The result's small files with this template, and no other beside it."""
        found = {name: data for name, data in files.items() if name != "chat_template.json"}
        config = json.loads(files.get("tokenizer_config.json", b"{}"))
        if config.pop("chat_template", None) is not None:
            found["tokenizer_config.json"] = (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()
        return {**found, FILE: self.text.encode()}


def check_template_of(recipe: Recipe) -> None:
    """Whether what a recipe says of its template can be meant; RecipeError where not."""
    asked = recipe.chat_template
    if asked is None or asked in (AUTO, *NAMES):
        return
    try:
        check_template(asked)
    except UserError as error:
        raise recipe.document.error(str(error), "chat_template") from None


def plan_template(
    recipe: Recipe, inputs: Sequence[Checkpoint], donor: Checkpoint, tokens: Collection[str] | None
) -> tuple[OutputTemplate | None, list[str]]:
    """The template a recipe asks for, and remarks; None where the tokenizer's own is carried.

    Args:
        inputs, donor: of the plan.
        tokens: of the result's tokenizer, None where they are not known.

    Raises:
        CheckpointError: a parent's template is a link out of its folder.
    """
    asked = recipe.chat_template
    if asked is None:
        return None, []
    where = recipe.document.where("chat_template")
    if asked == AUTO:
        # The donor first: of templates equally common, its own is the one its tokens were made for.
        parents = [donor, *(checkpoint for checkpoint in inputs if checkpoint is not donor)]
        for parent in parents:
            for name in (FILE, "tokenizer_config.json"):
                refuse_link_out(parent.folder / name, parent.folder)
        own = [folder_template(parent.folder) for parent in parents]
        text = most_common(own)
        if text is None:
            return None, [f"{where} no parent has a chat template, so the result has none"]
        having = [parent.label for parent, template in zip(parents, own, strict=True) if (template or "").strip() == text]
        made = OutputTemplate(text, f"the result carries the most common, of {' and '.join(having)}")
    elif asked in NAMES:
        made = OutputTemplate(named_template(asked), f"the result carries {asked}'s")
    else:
        made = OutputTemplate(asked, "the result carries the recipe's own")
    missing = [token for token in control_tokens(made.text) if tokens is not None and token not in tokens]
    if missing:
        return made, [
            f"{where} the template writes {', '.join(missing)}, which the result's tokenizer has no single token for: the model"
            " reads it letter by letter"
        ]
    return made, []
