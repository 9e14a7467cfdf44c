"""The engine: carries a plan out, block by block, in memory that does not depend on the model.

Each tensor is surveyed if its method asks for it, then blended; every block is read, computed in float32, rounded once and
written at its final offset by whichever thread holds it.  What a tensor gives is known before it starts, so nothing waits
for anything but the disk.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from modist.checkpoint.dtype import HOLDERS, Array, all_finite, narrow
from modist.checkpoint.header import StoredTensor
from modist.checkpoint.shards import ShardFiles
from modist.errors import MergeError, UserError
from modist.merge.crew import Crew
from modist.merge.heap import keep_freed_pages
from modist.merge.plan import Plan, PlannedTensor
from modist.merge.selection import ROOM
from modist.merge.tensor import BLOCK, Block, Choice, Copy

# Live float32 arrays a worker may hold beside one of each input: masks, sums, the rounded result.
_SCRATCH_ARRAYS = 8
_KEPT_SHARE = 4

Note = dict[str, float]


class Nonfinite(MergeError):
    """NaN or infinite values in a parent or in the result; what was finished is of no use to any later run."""


@dataclass
class Events:
    """What an onlooker may be told, from any thread: the phase entered, bytes of output written, a tensor finished."""

    phase: Callable[[str], None] = lambda name: None
    advance: Callable[[int], None] = lambda count: None
    finished: Callable[[str, Note], None] = lambda tensor, note: None


@dataclass
class Engine:
    """Runs plans.

    Attributes:
        threads: workers; fewer are used where the memory budget is small.
        memory: budget in bytes for what grows with threads and surveys, the interpreter not counted.
        block: elements a block.
    """

    threads: int = 1
    memory: int = 1 << 30
    block: int = BLOCK
    allow_nonfinite: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def workers(self, plan: Plan) -> int:
        """How many threads the budget allows; UserError where it allows none."""
        each = self.worker_bytes(plan)
        # Surveys may hold keys too: a quarter of the budget is theirs.
        room = self.memory * (_KEPT_SHARE - 1) // _KEPT_SHARE
        if room < each:
            raise UserError(
                f"--memory {self.memory >> 20} MiB is too little: one worker needs"
                f" {(each * _KEPT_SHARE // (_KEPT_SHARE - 1) >> 20) + 1} MiB"
            )
        return max(1, min(self.threads, room // each))

    def worker_bytes(self, plan: Plan) -> int:
        inputs = max((len(planned.tensor.sources) for planned in plan.tensors), default=1)
        reading = max((sum(source.reading_bytes for source in p.tensor.sources) for p in plan.tensors), default=0)
        # Rows that a method needs whole may be longer than a block.
        rows = [row for planned in plan.tensors if (row := plan.method.rows(planned.tensor)) is not None]
        return max([self.block, *rows]) * 4 * (2 * inputs + _SCRATCH_ARRAYS) + reading

    def run(
        self,
        plan: Plan,
        targets: Mapping[str, StoredTensor],
        files: ShardFiles,
        events: Events,
        done: Mapping[str, Note],
    ) -> dict[str, Note]:
        """Write every tensor of the plan that is not `done`.

        Args:
            targets: where each output tensor lies.
            files: the open files.
            events: told of progress.
            done: tensors an earlier run finished, with what it noted.

        Returns:
            For each tensor, what was noted of it: counts and squared norms that the report sums.
        """
        keep_freed_pages()
        crew = Crew(self.workers(plan))
        notes: dict[str, Note] = dict(done)
        room = min(ROOM, self.memory // _KEPT_SHARE // 4 // crew.threads)

        for planned in plan.tensors:
            self._equip(planned, plan, crew, room, events)
        across = plan.method.across
        merged = [planned for planned in plan.tensors if not planned.copied and planned.tensor.size]
        if across is not None and any(planned.name not in done for planned in merged):
            tensors = [planned.tensor for planned in merged]
            crew.run([lambda: across(tensors)])

        def job(planned: PlannedTensor) -> Callable[[], None]:
            def work() -> None:
                note = self._merge(plan, planned, targets[planned.name], files, events)
                with self._lock:
                    notes[planned.name] = note
                events.finished(planned.name, note)

            return work

        crew.run([job(planned) for planned in plan.tensors if planned.name not in done])
        return notes

    def _equip(self, planned: PlannedTensor, plan: Plan, crew: Crew, room: int, events: Events) -> None:
        tensor = planned.tensor
        tensor.row = plan.method.rows(tensor)
        tensor.crew, tensor.block_size, tensor.room = crew, tensor.fit(self.block), room
        tensor.on_survey = lambda: events.phase("survey")
        tensor.on_nonfinite = lambda index: self._refuse_input(planned, index)

    def _merge(self, plan: Plan, planned: PlannedTensor, target: StoredTensor, files: ShardFiles, events: Events) -> Note:
        tensor = planned.tensor
        # A tensor without elements has nothing to survey.
        copied = planned.copied or not tensor.size
        answer = Copy(planned.lead) if copied else plan.method.merge(tensor)
        events.phase("blend")

        def one(number: int) -> Note:
            block = tensor.block(number)
            if isinstance(answer, Copy):
                stored = self._converted(block, answer.input, target.dtype)
                block.note(f"taken {answer.input}", len(block))
            else:
                result = answer(block)
                if isinstance(result, Choice):
                    stored = self._chosen(block, result, planned, target.dtype)
                else:
                    if len(result) != len(block):
                        raise MergeError(
                            f"the method {plan.method.name!r} gave {len(result)} elements for a block of {len(block)}"
                        )
                    stored = narrow(result, target.dtype)
            if not all_finite(stored, target.dtype):
                self._report_nonfinite(plan, planned, block, target.dtype)
            files.write(target, block.start, stored)
            events.advance(stored.nbytes)
            return block.tally

        total: Note = {}
        for tally in tensor.crew.each(tensor.blocks, one):
            for quantity, amount in tally.items():
                total[quantity] = total.get(quantity, 0.0) + amount
        return total

    @staticmethod
    def _converted(block: Block, index: int, dtype: str) -> Array:
        return block.tensor.sources[index].converted(block.start, block.stop, dtype)

    def _chosen(self, block: Block, choice: Choice, planned: PlannedTensor, dtype: str) -> Array:
        counts = np.bincount(choice.inputs, minlength=len(planned.used))
        merged: Array | None = None
        for index in np.flatnonzero(counts):
            block.note(f"taken {index}", int(counts[index]))
            stored = self._converted(block, int(index), dtype)
            merged = stored if merged is None else _put(merged, stored, choice.inputs == index)
        return merged if merged is not None else np.empty(0, HOLDERS[dtype])

    def _refuse_input(self, planned: PlannedTensor, index: int) -> None:
        if self.allow_nonfinite:
            return
        source = planned.tensor.sources[index]
        raise Nonfinite(
            f"{source.model}: tensor {source.name!r} holds NaN or infinite values; repair it, or keep them with"
            " --allow nonfinite"
        )

    def _report_nonfinite(self, plan: Plan, planned: PlannedTensor, block: Block, dtype: str) -> None:
        if self.allow_nonfinite:
            block.note("nonfinite", 1)
            return
        for index, source in enumerate(planned.tensor.sources):
            if planned.used[index] and not source.finite(block.start, block.stop):
                self._refuse_input(planned, index)
        raise Nonfinite(
            f"tensor {planned.name!r} overflows {dtype} although its inputs are finite; choose a wider dtype, or"
            " --allow nonfinite"
        )


def _put(into: Array, values: Array, mask: Array) -> Array:
    """`into` with `values` where `mask` is true; integer selection, which no branch can mispredict."""
    if into.dtype.itemsize == 2:
        a, b = into.view(np.uint16), values.view(np.uint16)
        select = np.negative(mask.astype(np.uint16))
        return (a ^ ((a ^ b) & select)).view(into.dtype)
    np.copyto(into, values, where=mask)
    return into
