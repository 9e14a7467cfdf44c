"""One causal LM in this process: left-padded batches through transformers' own `generate`.

Only what is asked for acts on the answer: a repetition penalty or temperature that a model's generation_config carries is
left out, and of it only the ids that end an answer are kept.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from modist.checkpoint.folder import read_json
from modist.checkpoint.hub import fetch
from modist.errors import CheckpointError, UserError, nearest
from modist.evaluation.generators.encoding import Encoder, PromptError
from modist.evaluation.generators.generator import Ask, GenerationError, Prompt, Reply, Sampling
from modist.evaluation.generators.identity import fingerprint
from modist.evaluation.generators.stops import cut
from modist.recipe import ModelReference

_DTYPES = ("auto", "float16", "bfloat16", "float32", "float64")
_TINY = 50_000_000


def require(generator: str, *packages: str, extra: str = "eval") -> None:
    """UserError where a package is not installed."""
    from importlib.util import find_spec

    for package in packages:
        if find_spec(package) is None:
            raise UserError(f"the {generator} generator needs {package}, which is not here: pip install 'modist[{extra}]'")


def reference_of(model: str) -> ModelReference:
    """A model's name as a folder or hub id; UserError where it can be neither."""
    try:
        reference = ModelReference.parse(model)
    except ValueError as error:
        raise UserError(str(error)) from None
    if reference.adapter:
        raise UserError(f"{model}: adapters cannot be run; merge it into its model first")
    if reference.is_local and not reference.folder.is_dir():
        raise UserError(f"{model}: there is no such folder")
    return reference


def best_batch(parameters: int, device: str) -> int:
    """Asks a batch by default.  Tiny models answer a hundred in the time of a few; large ones on a CPU do not."""
    return 100 if parameters <= _TINY else 8 if device == "cpu" else 64


class TransformersGenerator:
    """A model folder or hub id, loaded here.

    Greedy answers do not depend on the batch but for the last bits of sums (padding changes their order), which is why batches
    are fixed by the plan.  Drawn answers depend on their ask's key and seed, likewise.
    """

    def __init__(
        self,
        model: str,
        *,
        device: str | None = None,
        dtype: str | None = None,
        trust_remote_code: bool = False,
        cache: Path | None = None,
        name: str | None = None,
    ) -> None:
        """Load a model.

        Args:
            model: A folder, or a hub id, perhaps with `@revision`.
            device: `cpu`, `cuda`, `cuda:1`, `mps`, `auto` (spread over all); the best there is where left out.
            dtype: `auto` (as stored), `bfloat16` ...; where left out, as stored, and float32 on a CPU.
            trust_remote_code: Run the Python files that come with it.
            cache: Folder for downloads.
            name: For tables; the folder's or hub id's by default.

        Raises:
            UserError: no such folder, hub id, device or dtype; no tokenizer; it does not fit.
            CheckpointError, HubError: it is damaged, or cannot be had.
        """
        require("transformers", "torch", "transformers")
        from modist.mixture.load import load_model, load_tokenizer
        from modist.mixture.placement import choose_device

        self.notes: list[str] = []
        if dtype is not None and dtype not in _DTYPES:
            raise UserError(f"there is no dtype {dtype!r}{nearest(dtype, _DTYPES)}; one of {', '.join(_DTYPES)}")
        reference = reference_of(model)
        if reference.is_local:
            folder, source = reference.folder.resolve(), str(reference.folder.resolve())
            if not (folder / "config.json").exists():
                raise CheckpointError(f"{reference}: {folder} has no config.json, so it is no model")
            if read_json(folder / "config.json").get("model_type") == "modist_mixture":
                raise UserError(f"{reference} is a mixture; answer with the mixture generator")
        else:
            fetched = fetch(reference, allow_code=trust_remote_code, cache=cache)
            folder, source = fetched.folder, f"{reference.source}@{fetched.commit}"
        place = choose_device("cuda", lambda line: None) if device is None else choose_device(device, self.notes.append)
        wanted = dtype or ("float32" if place == "cpu" else "auto")
        tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
        if tokenizer is None:
            raise UserError(f"{reference}: has no tokenizer that can be read, so there is nothing to read a prompt with")
        living = load_model(
            reference.name, folder, trust_remote_code=trust_remote_code, dtype=wanted, device_map=_checked(place)
        )
        self._start(living, tokenizer, name or reference.name)
        self._source = {"model": source, "fingerprint": fingerprint(folder)}

    @classmethod
    def of(cls, model: Any, tokenizer: Any, name: str) -> TransformersGenerator:
        """Around a living model and its tokenizer."""
        self = cls.__new__(cls)
        self.notes = []
        self._start(model, tokenizer, name)
        self._source = {"model": name}
        return self

    def _start(self, model: Any, tokenizer: Any, name: str) -> None:
        from transformers import GenerationConfig

        from modist.mixture.linear import quicken
        from modist.mixture.load import context_of, end_ids

        self.name = name
        self._encoder = Encoder(tokenizer, name)
        self._ends = end_ids(model, tokenizer)
        self._context = context_of(model)
        pad = tokenizer.pad_token_id
        self._pad = int(pad if pad is not None else min(self._ends, default=0))
        # What a model's authors recommend (sampling, penalties) would act on every answer unasked.
        model.generation_config = GenerationConfig(
            eos_token_id=sorted(self._ends) or None, pad_token_id=self._pad, bos_token_id=tokenizer.bos_token_id
        )
        quicken([model])
        self._model: Any = model.eval()
        self.batch_size = best_batch(sum(one.numel() for one in model.parameters()), model.device.type)

    def describe(self) -> dict[str, Any]:
        """Model, what tells its files from others', dtype, device, versions."""
        import torch
        import transformers

        return {
            "kind": "transformers",
            **self._source,
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "device": self._model.device.type,
            "torch": str(torch.__version__),
            "transformers": transformers.__version__,
        }

    def length(self, prompt: Prompt) -> int:
        """Tokens of a prompt."""
        return self._encoder.length(prompt)

    def answer(self, asks: Sequence[Ask], sampling: Sampling) -> list[Reply]:
        """Answers a batch; see `Generator.answer`."""
        began = time.perf_counter()
        rows: list[list[int]] = []
        errors: dict[int, str] = {}
        for index, ask in enumerate(asks):
            try:
                ids = self._encoder.encode(ask.prompt)
            except PromptError as error:
                ids, errors[index] = [], str(error)
            if self._context is not None and len(ids) >= self._context:
                errors[index] = f"the prompt has {len(ids)} tokens, and the model's context of {self._context} leaves no room"
            rows.append(ids)
        good = [index for index in range(len(asks)) if index not in errors]
        found = self._generate([asks[index] for index in good], [rows[index] for index in good], sampling) if good else []
        seconds = (time.perf_counter() - began) / max(1, len(asks))
        answers = dict(zip(good, found, strict=True))
        replies = []
        for index, (ask, ids) in enumerate(zip(asks, rows, strict=True)):
            prompt = self._encoder.shown(ids) if ids else ""
            if index in errors:
                replies.append(Reply.failed(ask.key, errors[index], prompt, len(ids), seconds))
                continue
            new, stopped, sound = answers[index]
            if not sound:
                reason = "the model's logits are not finite, so its tokens mean nothing"
                replies.append(Reply.failed(ask.key, reason, prompt, len(ids), seconds))
                continue
            text, was_cut = cut(self._encoder.text(new), ask.stop)
            reason = "stop" if stopped or was_cut else "length"
            replies.append(Reply(ask.key, text, prompt, len(new), len(ids), cast(Any, reason), seconds))
        return replies

    def _generate(
        self, asks: Sequence[Ask], rows: Sequence[Sequence[int]], sampling: Sampling
    ) -> list[tuple[list[int], bool, bool]]:
        """For each row its new ids, whether it stopped before its limit, and whether its logits were numbers."""
        import torch

        from modist.evaluation.generators.drawing import Drawing
        from modist.evaluation.generators.ends import Ends, Soundness

        width = max(map(len, rows))
        limits = [
            min(ask.max_new_tokens, self._context - len(row)) if self._context else ask.max_new_tokens
            for ask, row in zip(asks, rows, strict=True)
        ]
        ends = Ends(
            self._encoder,
            width,
            limits,
            [ask.stop for ask in asks],
            [self._ends | self._encoder.end_ids(ask.stop) for ask in asks],
        )
        soundness = Soundness()
        processors: list[Any] = [soundness]
        if sampling.temperature is not None:
            processors.append(Drawing(asks, sampling, width, max(limits)))
        ids = torch.tensor([[self._pad] * (width - len(row)) + list(row) for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        try:
            with torch.inference_mode():
                output = self._model.generate(
                    input_ids=ids.to(self._model.device),
                    attention_mask=mask.to(self._model.device),
                    max_new_tokens=max(limits),
                    do_sample=False,
                    logits_processor=processors,
                    stopping_criteria=[ends],
                )
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_memory(error):
                raise
            raise GenerationError(
                f"{self.name}: no memory for {len(asks)} answers of up to {width + max(limits)} tokens at once; "
                "start a new run with a smaller --batch-size"
            ) from None
        sound = [not broken for broken in soundness.rows(len(asks))]
        new = output[:, width:].tolist()
        return [
            (row[:count], stopped, fine)
            for row, count, stopped, fine in zip(new, ends.counts, ends.stopped, sound, strict=True)
        ]

    def close(self) -> None:
        """Gives the model's memory back."""
        if self._model is None:
            return
        import torch

        device, self._model = self._model.device.type, None
        if device == "cuda":
            torch.cuda.empty_cache()


def _checked(place: str) -> str:
    """A device torch knows."""
    import torch

    if place == "auto":
        return place
    try:
        torch.device(place)
    except RuntimeError:
        known = ("auto", "cpu", "cuda", "mps")
        raise UserError(f"there is no device {place!r}{nearest(place, known)}; such as {', '.join(known)}") from None
    return place


def is_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whichever device."""
    import torch

    text = str(error).lower()
    return (
        isinstance(error, (torch.OutOfMemoryError, MemoryError))
        or "out of memory" in text
        or "can't allocate memory" in text
        or "not enough memory" in text
    )
