"""One cache for all experts of a mixture: each fills its own, and what generation does to the whole reaches every one."""

from __future__ import annotations

from typing import Any

from transformers import Cache, DynamicCache


class MixtureCache(Cache):  # type: ignore[misc]
    """Dynamic caches side by side.

    Its `layers` are the very objects the experts' caches hold, so that cropping (assisted decoding), reordering (beams) and
    repeating reach all of them through the base class.

    Attributes:
        parts: the cache of each expert.
    """

    def __init__(self, parts: list[DynamicCache]) -> None:
        """Args: parts: an empty or filled cache for each expert."""
        self.parts = parts
        super().__init__(layers=[])

    @classmethod
    def empty(cls, configs: list[Any]) -> MixtureCache:
        """An empty cache for experts of these configs; one without a config keeps everything it reads."""
        return cls([DynamicCache(config=config) for config in configs])

    @property
    def layers(self) -> list[Any]:
        """Every layer of every expert; computed anew, as some experts add layers while they first run."""
        return [layer for part in self.parts for layer in part.layers]

    @layers.setter
    def layers(self, value: Any) -> None:
        """The base class sets it; the parts already hold the layers."""

    @property
    def is_compileable(self) -> bool:
        return False

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens read so far; all experts have read the same number."""
        return int(self.parts[0].get_seq_length(layer_idx))

    def update(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("a mixture's cache is filled through `parts`, by each expert its own")
