"""A recipe's experts mixed token by token, by the decoder of `modist mix`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from modist.checkpoint.folder import read_json
from modist.errors import ModistError, UserError, nearest
from modist.evaluation.generators.encoding import Encoder, PromptError
from modist.evaluation.generators.generator import Ask, GenerationError, Prompt, Reply, Sampling
from modist.evaluation.generators.identity import fingerprint
from modist.evaluation.generators.seeds import batch_seed
from modist.evaluation.generators.stops import cut
from modist.evaluation.generators.transformers import best_batch, is_memory, require

if TYPE_CHECKING:
    from modist.mixture.decode import Settings
    from modist.mixture.load import Experts
    from modist.recipe import Recipe

GATES = ("static", "bayes")
LAWS = ("arithmetic", "logits")
WARPS = ("experts", "mixture")


@dataclass(frozen=True)
class _Row:
    """One ask as the experts read it: a prompt's ids for each, and what it shows."""

    ids: tuple[tuple[int, ...], ...]
    prompt: str

    @property
    def tokens(self) -> int:
        return max(map(len, self.ids))


class MixtureGenerator:
    """p = sum a_i p_i, lazy or eager.

    Greedy answers are those of the eager law whichever way they are decoded.  Drawn answers depend on their place in the
    batch too, because a batch shares one draw of the expert a step; the plan fixes batches.
    """

    def __init__(
        self,
        model: str,
        *,
        gate: str = "static",
        discount: float = 1.0,
        stride: int = 1,
        gate_prompt: bool = False,
        law: str = "arithmetic",
        warp: str = "experts",
        eager: bool | None = None,
        device: str | None = None,
        dtype: str | None = None,
        trust_remote_code: bool = False,
        cache: Path | None = None,
        name: str | None = None,
    ) -> None:
        """Load a mixture's experts.

        Args:
            model: A recipe with experts and weights (YAML), or a folder that a mixture was saved into.
            gate: `static` or `bayes`.
            discount, stride, gate_prompt: Of `bayes`; see `modist.mixture.gate.Gate`.
            law: `arithmetic`, or `logits` (always eager).
            warp: Where a temperature acts: on `experts` or on the `mixture`.
            eager: Run every expert at every token.  None is the quicker: eager for several greedy answers at once, which
                lazy decoding would take one after the other, lazy for one and for drawn answers.
            device: For all experts, before the recipe's; the best there is where neither says.
            dtype: Likewise; as stored where neither says, and float32 on a CPU.
            trust_remote_code: Run the Python files that come with an expert.
            cache: Folder for downloads.
            name: For tables; the recipe's file name by default.

        Raises:
            UserError: as `modist.mixture.load_experts`, or options that do not go together.
            CheckpointError, HubError: an expert is damaged, or cannot be had.
        """
        for what, value, known in (("gate", gate, GATES), ("law", law, LAWS), ("warp", warp, WARPS)):
            if value not in known:
                raise UserError(f"{what} {value!r}: known are {', '.join(known)}{nearest(value, known)}")
        if gate != "bayes" and (discount != 1.0 or stride != 1 or gate_prompt):
            raise UserError("discount, stride and gate_prompt belong to the gate 'bayes'")
        if law == "logits" and eager is False:
            raise UserError("law 'logits' (a product of experts) has no lazy form; leave eager out")
        require("mixture", "torch", "transformers")
        self.notes: list[str] = []
        recipe, saved_law = _read(model)
        from modist.mixture.gate import Gate
        from modist.mixture.load import load_experts
        from modist.mixture.placement import choose_device

        self._gate = Gate(gate, discount, stride, gate_prompt)
        self._law = saved_law if saved_law and law == LAWS[0] else law
        self._warp, self._eager = warp, eager if self._law == LAWS[0] else True
        given = recipe.model_kwargs
        if device is None and not any(given.get(key) is not None for key in ("device", "device_map")):
            device = choose_device("cuda", lambda line: None)
        if dtype is None and device == "cpu" and not any(given.get(key) for key in ("dtype", "torch_dtype", *_BITS)):
            dtype = "float32"
        experts = load_experts(
            recipe,
            device=device,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            cache=cache,
            say=self.notes.append,
        )
        if experts.tokenizer is None:
            raise UserError(f"{model}: no expert has a tokenizer, so there is nothing to read a prompt with")
        self._experts: Experts | None = experts
        self._encoder = Encoder(experts.tokenizer, model)
        self.name = name or Path(model).resolve().stem
        parameters = sum(one.numel() for living in experts.models for one in living.parameters())
        self.batch_size = best_batch(parameters, experts.models[0].device.type)

    def describe(self) -> dict[str, Any]:
        """Experts, weights, law and gate, dtypes, devices, versions."""
        import torch
        import transformers

        experts = self._living
        return {
            "kind": "mixture",
            "experts": list(experts.references),
            "fingerprints": [folder and fingerprint(folder) for folder in experts.folders],
            "weights": list(experts.weights),
            "base": experts.base_reference,
            "law": self._law,
            "warp": self._warp,
            "gate": {
                "kind": self._gate.kind,
                "discount": self._gate.discount,
                "stride": self._gate.stride,
                "prompt": self._gate.prompt,
            },
            "eager": self._eager,
            "dtype": [str(model.dtype).removeprefix("torch.") for model in experts.models],
            "device": [model.device.type for model in experts.models],
            "torch": str(torch.__version__),
            "transformers": transformers.__version__,
        }

    def length(self, prompt: Prompt) -> int:
        """Tokens of a prompt, as the mixture's own tokenizer and template have it."""
        return self._encoder.length(prompt)

    def answer(self, asks: Sequence[Ask], sampling: Sampling) -> list[Reply]:
        """Answers a batch; see `Generator.answer`.  Asks with other limits or stop texts are decoded apart."""
        began = time.perf_counter()
        replies: dict[int, Reply] = {}
        groups: dict[tuple[int, tuple[str, ...]], list[tuple[int, _Row]]] = {}
        for index, ask in enumerate(asks):
            try:
                row = self._row(ask.prompt)
            except PromptError as error:
                replies[index] = Reply.failed(ask.key, str(error))
                continue
            context = self._living.context
            if context is not None and row.tokens >= context:
                reason = f"the prompt has {row.tokens} tokens, and the experts' context of {context} leaves no room"
                replies[index] = Reply.failed(ask.key, reason, row.prompt, row.tokens)
                continue
            groups.setdefault((ask.max_new_tokens, ask.stop), []).append((index, row))
        for (limit, stop), members in groups.items():
            settings = self._settings(limit, stop, sampling, [asks[index] for index, _ in members])
            found = self._decode([row for _, row in members], settings)
            for (index, row), (text, count, reason) in zip(members, found, strict=True):
                replies[index] = Reply(asks[index].key, text, row.prompt, count, row.tokens, reason, 0.0)
        seconds = (time.perf_counter() - began) / max(1, len(asks))
        return [replace(replies[index], seconds=seconds) for index in range(len(asks))]

    def _row(self, prompt: Prompt) -> _Row:
        from modist.mixture.decode import encode_prompts

        experts = self._living
        if isinstance(prompt, str):
            ids = self._encoder.encode(prompt)
            # The encoder takes a doubled BOS away, so the text's ids are given as they are; that experts can read them is
            # still asked.
            encode_prompts(experts, [prompt])
            rows = [ids] * len(experts)
        else:
            self._encoder.encode(prompt)
            rows = [found[0] for found in encode_prompts(experts, [prompt])]
        return _Row(tuple(tuple(row) for row in rows), self._encoder.shown(rows[0]))

    def _settings(self, limit: int, stop: tuple[str, ...], sampling: Sampling, asks: Sequence[Ask]) -> Settings:
        from modist.mixture.decode import Settings

        greedy = sampling.temperature is None
        eager = self._eager if self._eager is not None else greedy and len(asks) > 1
        return Settings(
            max_new_tokens=limit,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            warp=self._warp,
            seed=batch_seed(asks),
            stop=stop,
            gate=self._gate,
            eager=eager,
            scores=False,
            law=self._law,
        )

    def _decode(self, rows: Sequence[_Row], settings: Settings) -> list[tuple[str, int, Literal["stop", "length"]]]:
        """For each row its text, how many tokens it took, and why it ended."""
        import torch

        from modist.mixture.decode import Run

        lazy_greedy = settings.temperature is None and not settings.eager
        found = []
        try:
            for part in [[row] for row in rows] if lazy_greedy else [list(rows)]:
                run = Run(self._living, list(zip(*(row.ids for row in part), strict=True)), settings)
                for _ in run.steps():
                    pass
                found += [self._ended(result, settings.stop) for result in run.results()]
        except ModistError as error:
            if not is_memory(error):
                raise
            raise self._no_memory(len(rows)) from None
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_memory(error):
                raise
            raise self._no_memory(len(rows)) from None
        return found

    def _no_memory(self, rows: int) -> GenerationError:
        return GenerationError(
            f"{self.name}: no memory for {rows} answers at once; start a new run with a smaller --batch-size"
        )

    def _ended(self, result: Any, stop: tuple[str, ...]) -> tuple[str, int, Literal["stop", "length"]]:
        # A stop text that is one special token shows in no text, and may be no expert's own end.
        ends = self._encoder.end_ids(stop)
        place = next((place for place, token in enumerate(result.token_ids) if token in ends), None)
        if place is None:
            return result.text, len(result.token_ids), result.finish_reason
        text, _ = cut(self._encoder.text(result.token_ids[:place]), stop)
        return text, place + 1, "stop"

    @property
    def _living(self) -> Experts:
        if self._experts is None:
            raise GenerationError(f"{self.name}: is closed")
        return self._experts

    def close(self) -> None:
        """Gives the experts' memory back."""
        if self._experts is None:
            return
        import torch

        self._experts = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


_BITS = ("load_in_4bit", "load_in_8bit", "quantization_config")


def _read(model: str) -> tuple[Recipe, str]:
    """A mixture's recipe, and the law it was saved with, or ""."""
    from modist.recipe import load_recipe

    path = Path(model).expanduser()
    law = ""
    if path.is_dir():
        config = read_json(path / "config.json") if (path / "config.json").exists() else {}
        if config.get("model_type") != "modist_mixture":
            raise UserError(f"{model}: is no mixture; answer with the transformers generator, or name a recipe with experts")
        if not (path / "recipe.yml").exists():
            raise UserError(f"{model}: a mixture saved with its tensors; name the recipe it was made of")
        path, law = path / "recipe.yml", str(config.get("law") or "")
    elif not path.exists():
        raise UserError(f"{model}: there is no such recipe; a mixture is a YAML file with experts and weights")
    return load_recipe(path), law
