"""The processes of one fusion: one, or as many as a launcher started."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Processes:
    """This process among the others.

    Attributes:
        number: of this one, from 0.
        count: of all.
        local: its number on this machine.
    """

    number: int = 0
    count: int = 1
    local: int = 0
    _state: Any = None

    @classmethod
    def here(cls) -> Processes:
        """As the environment of `accelerate launch` or `torchrun` says."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count <= 1:
            return cls()
        from accelerate import PartialState

        state = PartialState()
        return cls(state.process_index, state.num_processes, state.local_process_index, state)

    @property
    def first(self) -> bool:
        return self.number == 0

    def device(self, asked: str | None) -> str | None:
        """Where this process runs an expert."""
        if self.count == 1 or asked == "cpu":
            return asked
        return str(self._state.device)

    def wait(self) -> None:
        """Until all processes are here."""
        if self._state is not None:
            self._state.wait_for_everyone()
