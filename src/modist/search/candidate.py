"""Candidates merged in memory: one live model whose tensors are merged anew, in place, wherever coefficients have changed.

The engine that writes checkpoints does the work, block by block, with the same surveys, draws and rounding; only where a block
goes differs: into the model's own memory.  So a candidate's tensors are, bit for bit, those that `modist merge` writes for its
recipe.  The experts stay on disk as they are, read through the system's page cache; beside them there is one merged copy and
a few blocks.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from modist.checkpoint import Checkpoint
from modist.checkpoint.dtype import FLOATS, HOLDERS, NAMES, TORCH_NAMES, Array, narrow, widen
from modist.checkpoint.header import StoredTensor
from modist.errors import UserError, nearest
from modist.merge.engine import Engine, Events
from modist.recipe import Recipe, parse_recipe
from modist.search.genes import open_genome
from modist.search.genome import Coefficients, Genome, Vector
from modist.search.settings import SearchSettings

if TYPE_CHECKING:
    from modist.checkpoint.shards import ShardFiles

# torch's name of a dtype -> safetensors' spelling.
_STORED = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.int64": "I64",
    "torch.int32": "I32",
    "torch.int16": "I16",
    "torch.int8": "I8",
    "torch.uint8": "U8",
    "torch.bool": "BOOL",
}
_PREFIXES = ("", "model.", "transformer.", "gpt_neox.", "base_model.")


class Workshop:
    """One live model that becomes any candidate.

    Attributes:
        genome: what vectors mean.
        model: a transformers causal LM in eval mode; `merge` changes its tensors in place.
        tokenizer: the donor's, or None.
        touched: how many tensors the last `merge` made anew.
    """

    def __init__(
        self,
        recipe: Genome | Recipe | str | Path,
        settings: SearchSettings | None = None,
        *,
        device: str | None = None,
        dtype: str | None = None,
        threads: int | None = None,
        memory: int = 1 << 30,
        allow: Iterable[str] = (),
        trust_remote_code: bool = False,
    ) -> None:
        """Open the experts and load the model; nothing is merged yet.

        Args:
            recipe: the merge, as a file or read; or its genome, which `settings` and `allow` are then part of.
            settings: what is searched.
            device: `cpu`, `cuda`, ...; the best there is where left out.
            dtype: the model runs in: `float32` ...; `auto` for the output's own; left out, that, and float32 on a CPU.
            threads: merging; None for one a core.
            memory: budget in bytes of the merge itself, above the model.
            allow: see `modist.merge.merge`.
            trust_remote_code: run the Python files that come with the donor.

        Raises:
            RecipeError, UserError, CheckpointError, HubError: as `open_genome`; a model whose tensors are not the
                checkpoint's.
        """
        found = recipe if isinstance(recipe, Genome) else open_genome(
            recipe, settings, allow=allow, trust_remote_code=trust_remote_code
        )  # fmt: skip
        self.genome = found
        self.touched = 0
        self._engine = Engine(threads or os.cpu_count() or 1, memory, allow_nonfinite="nonfinite" in found.allow)
        self._engine.workers(found.plan)
        self._merged: Coefficients | None = None
        main = _main_dtype(found)
        self.model, self.tokenizer = live_model(found.plan.donor, device, dtype, main, trust_remote_code)
        if found.plan.untied:
            _untie(self.model)
        self._sink = _Sink(self._places())
        # A donor that lends only its config has other values than the lead in what no method touches.
        self._fresh = True

    def _places(self) -> dict[str, Any]:
        """The model's own tensor for each of the plan's."""
        state = self.model.state_dict(keep_vars=True)
        found: dict[str, Any] = {}
        for planned in self.genome.plan.tensors:
            known = [prefix + planned.name for prefix in _PREFIXES] + [
                planned.name.removeprefix(prefix) for prefix in _PREFIXES[1:]
            ]
            name = next((name for name in known if name in state), None)
            if name is None:
                if planned.copied:
                    continue
                raise UserError(
                    f"{self.genome.plan.donor.label}: transformers keeps the tensor {planned.name!r} under another name or in"
                    " another shape while the model runs, so candidates cannot be merged in memory"
                )
            if tuple(state[name].shape) != tuple(planned.tensor.shape):
                raise UserError(
                    f"{self.genome.plan.donor.label}: transformers holds {planned.name!r} as {tuple(state[name].shape)}, the"
                    f" checkpoint as {tuple(planned.tensor.shape)}, so candidates cannot be merged in memory"
                )
            found[planned.name] = state[name].data
        return found

    def merge(self, vector: Vector) -> Any:
        """Make the model the candidate of a vector.

        Returns:
            The model; the same object each time.

        Raises:
            ValueError: no vector of this genome.
            UserError: the method cannot merge with these coefficients.
            MergeError: NaN or infinite values come out.
        """
        return self._make(self.genome.decode(vector))

    def merge_recipe(self) -> Any:
        """Make the model the recipe's own merge, also where that is no candidate; as `merge`."""
        return self._make(self.genome.own)

    def _make(self, wanted: Coefficients) -> Any:
        changed = self.genome.changed(self._merged, wanted)
        plan = self.genome.plan_of(wanted)
        copied = {planned.name for planned in plan.tensors if planned.copied} if self._fresh else set()
        todo = {name for name in (changed | copied) if name in self._sink.places}
        done: dict[str, dict[str, float]] = {planned.name: {} for planned in plan.tensors if planned.name not in todo}
        targets = {
            planned.name: StoredTensor(planned.name, planned.dtype, planned.tensor.shape, Path(), 0, 0)
            for planned in plan.tensors
        }
        # What is half merged when something goes wrong is merged again, whatever comes next.
        self._merged = None
        files = cast("ShardFiles", self._sink)
        self._engine.run(plan, targets, files, Events(finished=lambda name, note: self._sink.finish(name)), done)
        self._merged, self._fresh, self.touched = wanted, False, len(todo)
        return self.model

    def close(self) -> None:
        """Let the experts' files go; they are opened again when they are needed."""
        for checkpoint in self.genome.plan.inputs:
            checkpoint.close()


class _Sink:
    """Where the engine's blocks go: the memory of live tensors, in the dtype they have there."""

    def __init__(self, places: dict[str, Any]) -> None:
        self.places = places
        self._views: dict[str, tuple[Array, str]] = {}
        self._lock = threading.Lock()

    def write(self, target: StoredTensor, start: int, stored: Array) -> None:
        """Elements from `start` on; as `ShardFiles.write`."""
        view, dtype = self._view(target.name)
        if dtype != target.dtype:
            wide = widen(stored, target.dtype) if target.dtype in FLOATS else stored
            stored = narrow(wide, dtype) if dtype in FLOATS else wide.astype(HOLDERS[dtype])
        view[start : start + len(stored)] = stored

    def _view(self, name: str) -> tuple[Array, str]:
        with self._lock:
            if name not in self._views:
                place = self.places[name]
                dtype = _STORED[str(place.dtype)]
                direct = place.device.type == "cpu" and place.is_contiguous()
                self._views[name] = (_memory(place) if direct else np.empty(place.numel(), HOLDERS[dtype])), dtype
            return self._views[name]

    def finish(self, name: str) -> None:
        """All blocks of a tensor are there: hand over what was gathered for memory that is elsewhere."""
        with self._lock:
            held, dtype = self._views.pop(name, (None, ""))
        place = self.places[name]
        if held is None or (place.device.type == "cpu" and place.is_contiguous()):
            return
        import torch

        ours = torch.from_numpy(held.view(np.int16) if dtype == "BF16" else held)
        place.copy_((ours.view(torch.bfloat16) if dtype == "BF16" else ours).view(place.shape))


def _memory(tensor: Any) -> Array:
    """A contiguous CPU tensor's elements [n], bfloat16 as uint16; writing to them changes the tensor."""
    import torch

    flat = tensor.detach().view(-1)
    if flat.dtype == torch.bfloat16:
        return cast("Array", flat.view(torch.int16).numpy().view(np.uint16))
    return cast("Array", flat.view(torch.uint8).numpy() if flat.dtype == torch.bool else flat.numpy())


def live_model(
    checkpoint: Checkpoint, device: str | None, dtype: str | None, own: str, trust_remote_code: bool = False
) -> tuple[Any, Any]:
    """A folder's model, in eval mode and without gradients, and its tokenizer.

    Args:
        device, dtype: as `Workshop`.
        own: the dtype that `auto` stands for.

    Raises:
        UserError, CheckpointError: see `modist.mixture.load.load_model`.
    """
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise UserError(f"candidates are scored alive, which needs {package}: pip install 'modist[search]'")
    from modist.mixture.load import load_model, load_tokenizer
    from modist.mixture.placement import choose_device

    check_dtype(dtype)
    place = choose_device(device or "cuda", lambda line: None)
    wanted = dtype or ("float32" if place == "cpu" else "auto")
    options = {"dtype": own if wanted == "auto" else wanted, "device_map": place}
    model = load_model(checkpoint.label, checkpoint.folder, trust_remote_code=trust_remote_code, **options)
    model.requires_grad_(False)
    return model, load_tokenizer(checkpoint.folder, trust_remote_code=trust_remote_code)


def check_dtype(dtype: str | None) -> None:
    """UserError for what names no dtype a model can run in."""
    known = ("auto", *NAMES)
    if dtype is not None and dtype not in known:
        raise UserError(f"there is no dtype {dtype!r}{nearest(dtype, known)}; one of {', '.join(known)}")


def _main_dtype(genome: Genome) -> str:
    """torch's name for the dtype most of the output has."""
    counts: Counter[str] = Counter()
    for planned in genome.plan.tensors:
        if planned.dtype in TORCH_NAMES:
            counts[TORCH_NAMES[planned.dtype]] += planned.tensor.size
    return counts.most_common(1)[0][0] if counts else "float32"


def _untie(model: Any) -> None:
    """Give the model a head of its own, as the merge's output has one."""
    import torch

    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head.weight is embedding.weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    model.config.get_text_config(decoder=True).tie_word_embeddings = False
    model.config.tie_word_embeddings = False


def open_workshop(
    recipe: str,
    settings: SearchSettings,
    dtype: str | None,
    threads: int | None,
    allow: tuple[str, ...],
    trust_remote_code: bool,
    device: str,
) -> Workshop:
    """A workshop from plain data, which workers elsewhere can be sent.

    Args:
        recipe: its YAML, models named by whole paths (`recipe_text` of a genome's plan).
        settings, dtype, threads, allow, trust_remote_code, device: as `Workshop`.
    """
    read = parse_recipe(recipe, "the recipe")
    return Workshop(
        read, settings, device=device, dtype=dtype, threads=threads, allow=allow, trust_remote_code=trust_remote_code
    )
