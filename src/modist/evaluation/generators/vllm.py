"""vLLM's offline engine, where it is installed.  Thin on purpose: the same server behind the openai generator is the tested
road, and vLLM pins its own transformers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, cast

from modist.errors import UserError
from modist.evaluation.generators.encoding import Encoder, PromptError
from modist.evaluation.generators.generator import Ask, Prompt, Reply, Sampling
from modist.evaluation.generators.seeds import row_seed
from modist.evaluation.generators.stops import cut


class VllmGenerator:
    """A model in vLLM's engine, in this process."""

    def __init__(
        self,
        model: str,
        *,
        dtype: str | None = None,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        name: str | None = None,
    ) -> None:
        """Start the engine.

        Args:
            model: A folder, or a hub id, perhaps with `@revision`.
            dtype: As vLLM has it; `auto` by default.
            trust_remote_code: Run the Python files that come with the model.
            tensor_parallel_size: GPUs to spread it over.
            name: For tables; the folder's or hub id's by default.

        Raises:
            UserError: vLLM is not here, or there is no such folder.
        """
        from modist.evaluation.generators.transformers import reference_of

        try:
            from vllm import LLM, SamplingParams  # type: ignore[import-not-found,unused-ignore]
        except ImportError as error:
            line = " ".join(str(error).split())[:200]
            raise UserError(f"the vllm generator needs vllm, which is not here ({line}): pip install 'modist[vllm]'") from None
        reference = reference_of(model)
        source = str(reference.folder.resolve()) if reference.is_local else reference.source
        self.notes: list[str] = []
        self._engine: Any = LLM(
            model=source,
            revision=reference.revision,
            dtype=dtype or "auto",
            trust_remote_code=trust_remote_code,
            tensor_parallel_size=tensor_parallel_size,
        )
        self._params: Any = SamplingParams
        self.name = name or reference.name
        self._encoder = Encoder(self._engine.get_tokenizer(), self.name)
        self._context: int | None = getattr(
            getattr(getattr(self._engine, "llm_engine", None), "model_config", None), "max_model_len", None
        )
        self._described = {"model": str(reference), "dtype": dtype or "auto", "tensor_parallel_size": tensor_parallel_size}
        # The engine schedules by itself; a batch is what a killed run loses.
        self.batch_size = 256

    def describe(self) -> dict[str, Any]:
        """Model, dtype, GPUs, vLLM's version."""
        import vllm

        return {"kind": "vllm", **self._described, "vllm": getattr(vllm, "__version__", "unknown")}

    def length(self, prompt: Prompt) -> int:
        """Tokens of a prompt."""
        return self._encoder.length(prompt)

    def answer(self, asks: Sequence[Ask], sampling: Sampling) -> list[Reply]:
        """Answers a batch; see `Generator.answer`."""
        began = time.perf_counter()
        failed: dict[int, Reply] = {}
        rows: dict[int, list[int]] = {}
        for index, ask in enumerate(asks):
            try:
                ids = self._encoder.encode(ask.prompt)
            except PromptError as error:
                failed[index] = Reply.failed(ask.key, str(error))
                continue
            if self._context is not None and len(ids) >= self._context:
                reason = f"the prompt has {len(ids)} tokens, and the model's context of {self._context} leaves no room"
                failed[index] = Reply.failed(ask.key, reason, self._encoder.shown(ids), len(ids))
            else:
                rows[index] = ids
        prompts = [{"prompt_token_ids": ids} for ids in rows.values()]
        params = [self._params(**self._sampling(asks[index], sampling)) for index in rows]
        outputs = self._engine.generate(prompts, params, use_tqdm=False) if rows else []
        seconds = (time.perf_counter() - began) / max(1, len(asks))
        replies = dict(failed)
        for (index, ids), output in zip(rows.items(), outputs, strict=True):
            found = output.outputs[0]
            text, was_cut = cut(found.text, asks[index].stop)
            reason = "length" if found.finish_reason == "length" and not was_cut else "stop"
            replies[index] = Reply(
                asks[index].key,
                text,
                self._encoder.shown(ids),
                len(found.token_ids),
                len(ids),
                cast(Any, reason),
                seconds,
            )
        return [replies[index] for index in range(len(asks))]

    def _sampling(self, ask: Ask, sampling: Sampling) -> dict[str, Any]:
        given: dict[str, Any] = {
            "temperature": sampling.temperature or 0.0,
            "max_tokens": ask.max_new_tokens,
            "stop": list(ask.stop),
            "stop_token_ids": sorted(self._encoder.end_ids(ask.stop)),
        }
        if sampling.temperature is not None:
            given |= {"top_p": sampling.top_p, "seed": row_seed(ask)}
            given |= {"top_k": sampling.top_k} if sampling.top_k else {}
        return given

    def close(self) -> None:
        """Gives the engine's memory back."""
        self._engine = None
