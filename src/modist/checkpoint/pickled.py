"""pytorch_model.bin, through torch's weights_only loading: tensors and nothing else come out of the pickle."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from modist.checkpoint.dtype import NAMES, Array
from modist.checkpoint.header import StoredTensor
from modist.errors import CheckpointError, UserError

_STORED = NAMES | {"bool": "BOOL"} | {f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)}
_STORED |= {f"uint{bits}": f"U{bits}" for bits in (8, 16, 32, 64)}


def load_pickled(files: Sequence[Path]) -> tuple[dict[str, Array], dict[str, StoredTensor]]:
    """All tensors of some .bin files as flat arrays of stored bits (mapped, where the file allows it).

    Raises:
        UserError: torch is not installed.
        CheckpointError: a file is damaged, or holds anything but tensors.
    """
    try:
        import torch
    except ImportError:
        raise UserError(f"{files[0]}: reading .bin files needs torch: pip install 'modist[bin]'") from None

    arrays: dict[str, Array] = {}
    tensors: dict[str, StoredTensor] = {}
    for path in files:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                state = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
        except Exception as error:
            # torch raises nearly anything for a file it does not trust; the first sentence says which.
            reason = " ".join(str(error).split("\n")[0].split())[:160]
            raise CheckpointError(f"{path}: cannot be loaded as plain tensors ({reason})") from None
        if not isinstance(state, dict) or not all(
            isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
        ):
            raise CheckpointError(f"{path}: is not a mapping of names to tensors")
        for name, value in state.items():
            word = str(value.dtype).removeprefix("torch.")
            if word not in _STORED:
                raise CheckpointError(f"{path}: tensor {name!r} has the dtype {word}, which cannot be merged")
            stored = _STORED[word]
            if value.layout != torch.strided or value.device.type != "cpu":
                raise CheckpointError(f"{path}: tensor {name!r} is sparse or has no data, and cannot be merged")
            if value.untyped_storage().nbytes() < value.numel() * value.element_size():
                # A view that repeats a few elements may pretend to be of any size.
                raise CheckpointError(f"{path}: tensor {name!r} has more elements than the file holds")
            flat = value.detach().contiguous().reshape(-1)
            if word == "bfloat16":
                flat = flat.view(torch.uint16)
            elif word == "bool":
                flat = flat.view(torch.uint8)
            arrays[name] = flat.numpy()
            tensors[name] = StoredTensor(name, stored, tuple(value.shape), path, 0, flat.numel() * flat.element_size())
    return arrays, tensors


def _is_zip(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(2) == b"PK"
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
