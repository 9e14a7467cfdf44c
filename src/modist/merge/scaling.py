"""Scaling a merged delta by what is known of the base: how busy its channels are (AIM), how much its output hangs on a tensor.

    aim     theta = base + (1 - (1 - omega) s) delta     s of an input channel: mean |activation| over the largest of its layer
    fisher  theta = base + alpha_l delta                 alpha_l = sigmoid(-z_l), z_l = standardised log of F_l |delta_l|^2

Sources: Nobari et al. 2025, Activation-Informed Merging (arXiv 2502.02421), as its released code has it: the merged delta is
scaled, embeddings are left alone, omega 0.4; Xia 2026, FIM-Merging (arXiv 2603.21705).  The latter has no code; what its text
leaves open is settled here: l is a tensor; F_l is the mean of its diagonal Fisher; |delta_l|^2 is summed over the recipe's
models, whatever their weights, so that searched weights leave alpha alone; logs are standardised over the matrices; its gate
factor and its renormalisation are left out.

Nothing here runs a model: `modist statistics` does, once, and writes the file that is read here.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modist.checkpoint.dtype import FLOATS, HOLDERS, Floats, bytes_of
from modist.checkpoint.folder import Checkpoint
from modist.checkpoint.header import read_header
from modist.errors import UserError, nearest
from modist.merge.crew import Crew
from modist.merge.tensor import GRAIN, Block, Scale, run_dots
from modist.recipe import Recipe

if TYPE_CHECKING:
    from modist.merge.plan import PlannedTensor

FORMAT = "modist-statistics"
VERSION = "1"
OMEGA = 0.4
# Of each tensor so many elements are read for the digest, at its beginning, middle and end.
_PIECE = 1024

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Statistics:
    """A statistics file.

    Attributes:
        path, sha256: of the file.
        metadata: `kind`, `model`, `model_digest`, `data`, `data_digest`, ... as its header has them.
        values: tensor -> [input channels] (aim: mean absolute activation) or [] (fisher: mean of the diagonal), float64.
    """

    path: Path
    sha256: str
    metadata: Mapping[str, str]
    values: Mapping[str, Values]

    @property
    def kind(self) -> str:
        return self.metadata["kind"]


@dataclass(frozen=True)
class Scaling:
    """What a plan does with its merged deltas; `omega` is None for kinds that have none."""

    statistics: Statistics
    omega: float | None

    @property
    def record(self) -> dict[str, Any]:
        """For the manifest, and for telling one merge from another."""
        told = {key: self.statistics.metadata.get(key) for key in ("model", "model_digest", "data", "data_digest")}
        omega = {} if self.omega is None else {"omega": self.omega}
        file = {"file": self.statistics.path.name, "sha256": self.statistics.sha256}
        return {"kind": self.statistics.kind, **omega, "statistics": file | told}


def model_digest(checkpoint: Checkpoint) -> str:
    """SHA-256 of a model's tensors, hexadecimal: names, dtypes, shapes and three pieces of each, however the files are cut.

    Reading everything would take longer than merging; two models that agree in all pieces are copies of one another.
    """
    digest = hashlib.sha256()
    for name in sorted(checkpoint.tensors):
        stored = checkpoint.tensors[name]
        digest.update(f"{name} {stored.dtype} {list(stored.shape)}\n".encode())
        last = max(0, stored.elements - _PIECE)
        for start in dict.fromkeys((0, last // 2, last)) if stored.dtype in HOLDERS else ():
            digest.update(bytes_of(checkpoint.read(name, start, min(start + _PIECE, stored.elements))))
    return digest.hexdigest()


def read_statistics(path: Path) -> Statistics:
    """Read a statistics file.

    Raises:
        CheckpointError: it is damaged or cannot be read.
        UserError: it is whole and holds something else.
    """
    header, metadata = read_header(path), _metadata(path)
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise UserError(f"{path}: holds no statistics; modist statistics makes such a file")
    if metadata.get("version") != VERSION:
        raise UserError(f"{path}: is of version {metadata.get('version')!r}, and {VERSION!r} is read here; make it again")
    missing = [key for key in ("kind", "model_digest") if not isinstance(metadata.get(key), str)]
    if missing:
        raise UserError(f"{path}: does not say its {missing[0]}; make it again with modist statistics")
    raw = path.read_bytes()
    values = {}
    for name, stored in header.items():
        if stored.dtype not in ("F32", "F64"):
            raise UserError(f"{path}: {name!r} has the dtype {stored.dtype}; statistics are F32 or F64")
        found = np.frombuffer(raw, HOLDERS[stored.dtype], stored.elements, stored.offset).reshape(stored.shape)
        if not np.isfinite(found).all() or (found < 0).any():
            raise UserError(f"{path}: {name!r} has negative, infinite or NaN values, which no statistic has; make it again")
        values[name] = found.astype(np.float64)
    return Statistics(path, hashlib.sha256(raw).hexdigest(), metadata, values)


def _metadata(path: Path) -> Any:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(length)).get("__metadata__")


def attach_scaling(
    recipe: Recipe, base: Checkpoint, planned: Sequence[PlannedTensor], left_out: Mapping[str, str]
) -> Scaling | None:
    """Give every tensor of a plan its scale, and say what was given; None where the recipe asks for none.

    Args:
        base: what deltas are taken from.
        left_out: tensors that are not written.

    Raises:
        RecipeError: a file that does not belong to this base, with the line that names it.
        CheckpointError: a damaged file.
    """
    option = recipe.scaling
    if option is None:
        return None
    place = ("scaling", "statistics")
    try:
        statistics = read_statistics(option.statistics)
    except UserError as error:
        raise recipe.document.error(str(error), *place) from None
    path = option.statistics
    if statistics.kind != option.kind:
        raise recipe.document.error(f"{path} holds statistics of kind {statistics.kind!r}, not {option.kind!r}", *place)
    # What a hub still has is checked when it is here.
    if base.here and model_digest(base) != statistics.metadata["model_digest"]:
        raise recipe.document.error(
            f"{path} was made for another model, {statistics.metadata.get('model', 'unnamed')!r}; the base is {base.label!r}:"
            f" modist statistics {base.label} FILE --kind {option.kind}",
            *place,
        )
    tensors = {entry.name: entry for entry in planned if not entry.copied}
    for name, values in statistics.values.items():
        if name in left_out:
            continue
        if name not in tensors:
            raise recipe.document.error(f"{path} has {name!r}, which is no tensor of the base{nearest(name, tensors)}", *place)
        shape = tensors[name].tensor.shape
        wanted = shape[-1:] if option.kind == "aim" else ()
        if values.shape != wanted or (option.kind == "aim" and len(shape) != 2):
            raise recipe.document.error(
                f"{path}: {name!r} has the shape {list(values.shape)}; a tensor of {list(shape)} needs {list(wanted)}", *place
            )
    known = {name: values for name, values in statistics.values.items() if name in tensors}
    if not known:
        raise recipe.document.error(f"{path} has no tensor of the base, so it would change nothing", *place)
    omega = None
    if option.kind == "aim":
        omega = OMEGA if option.omega is None else option.omega
        for name, values in known.items():
            tensors[name].tensor.scale = channel_scale(relaxation(values, omega))
    else:
        shared = _Fisher({name: float(values) for name, values in known.items()}, [tensors[name] for name in known])
        for name in known:
            tensors[name].tensor.scale = shared
    return Scaling(statistics, omega)


def relaxation(activations: Values, omega: float) -> Floats:
    """AIM's factor of each input channel: 1 where it is silent, `omega` where it is the busiest of its layer.

    Args:
        activations: mean |x| of each channel [n], 0 or more.
        omega: 0 to 1.

    Returns:
        1 - (1 - omega) s, float32 [n]; all ones for a layer that never was active.
    """
    most = float(activations.max(initial=0.0))
    return (1.0 - (1.0 - omega) * (activations / most if most > 0 else activations)).astype(np.float32)


def channel_scale(factors: Floats) -> Scale:
    """A scale of one factor for each input channel: an element's channel is its flat index modulo their number."""
    count = len(factors)

    def scale(block: Block, delta: Floats) -> Floats:
        offset = block.start % count
        # Up to the end of a row, whole rows, the beginning of one.
        first = min(count - offset, len(delta)) if offset else 0
        whole = first + (len(delta) - first) // count * count
        np.multiply(delta[:first], factors[offset : offset + first], out=delta[:first])
        rows = delta[first:whole].reshape(-1, count)
        np.multiply(rows, factors, out=rows)
        np.multiply(delta[whole:], factors[: len(delta) - whole], out=delta[whole:])
        return delta

    return scale


def coefficients(sensitivities: Mapping[str, float], matrices: frozenset[str]) -> dict[str, float]:
    """FIM-Merging's alpha of each tensor.

    Args:
        sensitivities: F_l |delta_l|^2, 0 or more.
        matrices: those whose logs give mean and standard deviation.

    Returns:
        sigmoid(-z), in (0, 1): a half at the matrices' mean, less where more hangs on the tensor.  1 where the sensitivity is 0
        or no number; a half for all others where all matrices are alike.
    """
    logs = {name: math.log(value) for name, value in sensitivities.items() if value > 0 and math.isfinite(value)}
    seen = np.array([logs[name] for name in sorted(matrices & logs.keys())])
    mean, spread = (float(seen.mean()), float(seen.std())) if len(seen) else (0.0, 0.0)
    # Equal sensitivities differ in their last bits.
    alike = spread <= 1e-9 * max(1.0, abs(mean))
    found = dict.fromkeys(sensitivities, 1.0)
    for name, value in logs.items():
        z = 0.0 if alike else (value - mean) / spread
        found[name] = 0.5 * (1.0 - math.tanh(z / 2))
    return found


class _Fisher:
    """The scales of all tensors of a plan; how far the models moved each is measured when the first is asked for.

    Every thread that asks meanwhile takes part: each takes a tensor, and all wait for the last one.
    """

    def __init__(self, means: Mapping[str, float], planned: Sequence[PlannedTensor]) -> None:
        self._means = means
        self._matrices = frozenset(entry.name for entry in planned if len(entry.tensor.shape) > 1)
        self._left = list(planned)
        self._sensitivities: dict[str, float] = {}
        self._factors: dict[str, float] | None = None
        self._failure: BaseException | None = None
        self._changed = threading.Condition()

    def __call__(self, block: Block, delta: Floats) -> Floats:
        factors = self._factors if self._factors is not None else self._measured(block)
        np.multiply(delta, np.float32(factors[block.tensor.name]), out=delta)
        return delta

    def _measured(self, block: Block) -> dict[str, float]:
        while True:
            with self._changed:
                while not self._left and self._factors is None and self._failure is None:
                    self._changed.wait()
                if self._factors is not None:
                    return self._factors
                if self._failure is not None:
                    raise self._failure
                entry = self._left.pop()
            try:
                # Whole grains, so that sums are the same for any block size.
                size = max(GRAIN, block.tensor.block_size // GRAIN * GRAIN)
                squares = _squares(entry, block.tensor.crew, size)
            except BaseException as error:
                with self._changed:
                    self._failure = error
                    self._changed.notify_all()
                raise
            with self._changed:
                self._sensitivities[entry.name] = self._means[entry.name] * squares
                if len(self._sensitivities) == len(self._means):
                    self._factors = coefficients(self._sensitivities, self._matrices)
                    self._changed.notify_all()


def _squares(entry: PlannedTensor, crew: Crew, size: int) -> float:
    """|delta|^2 of one tensor, summed over the models that have it."""
    tensor = entry.tensor
    assert tensor.base is not None
    base = tensor.sources[tensor.base]
    moved = []
    for index in tensor.others:
        source = tensor.sources[index]
        if source.present and source.shape == tensor.shape and source.dtype in FLOATS:
            moved.append(source)

    def sums(number: int) -> Values:
        start, stop = number * size, min((number + 1) * size, tensor.size)
        origin = base.floats(start, stop)
        found = []
        for source in moved:
            delta = source.floats(start, stop)
            np.subtract(delta, origin, out=delta)
            found.append(run_dots(delta, delta))
        return np.concatenate(found) if found else np.zeros(0)

    return math.fsum(np.concatenate([np.zeros(1), *crew.each(-(-tensor.size // size), sums)]))
