"""lm-evaluation-harness 0.4.13 on a mixture: the model type `mixture`.

    python -m modist.evaluation.lm_eval run --model mixture --model_args recipe=RECIPE --tasks gsm8k

The harness finds model types of others only when they have been imported, which is all this command does before it hands
over.  Two more ways need nothing of this file: `lm_eval run --model hf --model_args pretrained=DIR,trust_remote_code=True` on a
folder that `MixtureForCausalLM.save_pretrained` wrote, and `HFLM(pretrained=mixture, tokenizer=...)` from Python.
"""

from __future__ import annotations

import sys
from typing import Any

try:
    from lm_eval.api.registry import register_model  # type: ignore[import-untyped,import-not-found,unused-ignore]
    from lm_eval.models.huggingface import HFLM  # type: ignore[import-untyped,import-not-found,unused-ignore]
except ImportError as error:
    raise ImportError(f"lm-evaluation-harness is not here ({error}): pip install 'modist[lm-eval]'") from None

from modist.errors import ModistError, UserError


@register_model("mixture")  # type: ignore[untyped-decorator,unused-ignore]
class MixtureLM(HFLM):  # type: ignore[misc]
    """HFLM with a mixture in place of one model; only how the model is made differs."""

    def __init__(
        self,
        recipe: str | None = None,
        pretrained: str | None = None,
        tokenizer: Any = None,
        law: str = "arithmetic",
        device: str | None = None,
        dtype: str = "auto",
        trust_remote_code: bool = False,
        **kwargs: Any,
    ) -> None:
        """Make the mixture, then an HFLM around it.

        Args:
            recipe: a recipe's file with `experts` and `weights`.
            pretrained: in place of a recipe, a folder or hub id of a saved mixture.
            tokenizer: a name or an object; the base's by default.
            law: `arithmetic` or `logits`.
            device: for all experts, before the recipe's.
            dtype: for all experts, before the recipe's.
            trust_remote_code: run the Python files that come with an expert.
            **kwargs: for HFLM (`batch_size`, `max_length`, `add_bos_token` ...).

        Raises:
            UserError: neither or both of recipe and pretrained; and as `load_experts`.
        """
        from transformers import AutoTokenizer

        from modist.mixture import MixtureForCausalLM, load_experts
        from modist.recipe import load_recipe

        if (recipe is None) == (pretrained is None):
            raise UserError("give the mixture as recipe=FILE or as pretrained=FOLDER, and not both")
        # `auto` means what the recipe says; `cuda` is what the harness says where the user says nothing.
        wanted = None if dtype == "auto" else dtype
        if recipe is not None:
            experts = load_experts(load_recipe(recipe), device=device, dtype=wanted, trust_remote_code=trust_remote_code)
            model = MixtureForCausalLM.from_experts(experts, law=law)
            tokenizer = tokenizer or experts.tokenizer
        else:
            model = MixtureForCausalLM.from_pretrained(
                pretrained, device_map=device, dtype=wanted, trust_experts=trust_remote_code
            )
            tokenizer = tokenizer or AutoTokenizer.from_pretrained(pretrained)
        if tokenizer is None:
            raise UserError("the mixture's base has no tokenizer; give one with tokenizer=...")
        super().__init__(pretrained=model, tokenizer=tokenizer, backend="causal", **kwargs)


def main() -> None:
    """lm_eval's own command line, with `mixture` among its models."""
    from lm_eval.__main__ import cli_evaluate  # type: ignore[import-untyped,import-not-found,unused-ignore]

    try:
        cli_evaluate()
    except ModistError as error:
        print(f"modist: {error}", file=sys.stderr)
        raise SystemExit(error.exit_status) from None


if __name__ == "__main__":
    main()
