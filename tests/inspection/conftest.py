"""Real and tiny models to inspect, and the same numbers by plain float64 computation on whole tensors."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.tiny_models import Tensor, Trio, llama_shapes, random_tensors, read_folder, tuned, write_folder

MODELS = Path(__file__).parents[3] / "shared" / "models"


@pytest.fixture(scope="session")
def stories() -> Callable[[str], Path]:
    """`stories("-ft-grimm")`: the folder of stories260K or of one of its two fine-tunes."""
    if not (MODELS / "stories260K").is_dir():
        pytest.skip("the real models (stories260K and its fine-tunes) are not beside this checkout")
    return lambda ending="": MODELS / f"stories260K{ending}"


@pytest.fixture(scope="session")
def babyllama(stories: Callable[[str], Path]) -> Path:
    return MODELS / "babyllama-tok105"


@pytest.fixture(scope="session")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Trio:
    return family(tmp_path_factory.mktemp("trio"), shards=2)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """`make("name", tensors)` writes a folder; `make("name")` one of random tensors, `make("name", seed=3)` others."""

    def give(name: str, tensors: Mapping[str, Tensor] | None = None, *, seed: int = 0, noise: float = 0.0) -> Path:
        tensors = random_tensors(llama_shapes(), 0) if tensors is None else tensors
        return write_folder(tmp_path / name, tuned(tensors, seed, noise) if noise else tensors)

    return give


def family(folder: Path, shards: int = 1, **shape: int) -> Trio:
    """A small Llama and two fine-tunes of it, one five times as far away as the other."""
    tensors = random_tensors(llama_shapes(**shape), 0)
    moved = {"base": tensors, "one": tuned(tensors, 1, 0.02), "two": tuned(tensors, 2, 0.1)}
    base, one, two = (write_folder(folder / name, found, shards=shards) for name, found in moved.items())
    return Trio(base, one, two)


@dataclass(frozen=True)
class Flat:
    """All shared tensors of a model end to end, in float64."""

    values: np.ndarray

    @classmethod
    def of(cls, *folders: Path, chosen: Callable[[str], bool] = lambda name: True) -> list[Flat]:
        models = [read_folder(folder) for folder in folders]
        names = [name for name in models[0] if chosen(name)]
        return [cls(np.concatenate([model[name].float64.reshape(-1) for name in names])) for model in models]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    return cosine(a - a.mean(), b - b.mean())


def numbers(value: object, path: str = "") -> dict[str, object]:
    """Every leaf of nested plain values, by its path."""
    if isinstance(value, dict):
        parts = [numbers(entry, f"{path}.{key}") for key, entry in value.items()]
    elif isinstance(value, list):
        parts = [numbers(entry, f"{path}[{place}]") for place, entry in enumerate(value)]
    else:
        return {path: value}
    return dict(itertools.chain.from_iterable(part.items() for part in parts))
