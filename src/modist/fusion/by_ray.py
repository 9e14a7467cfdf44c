"""Extraction on a Ray cluster: experts, and parts of each, wherever there is room.  The machines share the folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from modist.errors import ModistError, UserError
from modist.fusion.extraction import Extracted, extract
from modist.fusion.models import Participants
from modist.fusion.store import Part, StoreError
from modist.recipe.fusion import load_fusion_recipe

LOCAL = "local"


def extract_by_ray(
    recipe: str | Path,
    folder: str | Path,
    *,
    experts: Collection[str] = (),
    parts: int = 1,
    address: str = LOCAL,
    device: str | None = None,
    trust_remote_code: bool = False,
    advance: Callable[[str, int, int], object] = lambda what, done, total: None,
) -> list[Extracted]:
    """What `extract` does, each expert in so many parts, each part a task of its own.

    A task that is lost with its machine is tried again elsewhere, and finds there what it had finished.

    Args:
        recipe, folder, experts, trust_remote_code: see `extract`; both paths lie where all machines see them.
        parts: tasks for each expert.
        address: of a cluster, or `local` to start one here.
        device: `cuda` asks for a GPU for each task.
        advance: told tasks done, and in all.

    Raises:
        UserError: Ray is not here or does not answer; see `extract`.
        StoreError, ModistError: a task failed for good.
    """
    if find_spec("ray") is None:
        raise UserError("extracting on several machines needs ray, which is not here: pip install 'modist[ray]'")
    ray: Any = import_module("ray")
    read = load_fusion_recipe(recipe)
    names = [one.name for one in Participants.of(read, trust_remote_code=trust_remote_code).named(experts, read)]
    ours = not ray.is_initialized()
    if ours:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        quiet = {"logging_level": "ERROR", "log_to_driver": False}
        try:
            ray.init(address=address, **({"include_dashboard": False} if address == LOCAL else {}), **quiet)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError, OSError) as error:
            raise UserError(f"--ray {address}: no Ray cluster answers there: {_line(error)}") from None
    try:
        gpus = int(str(device).startswith("cuda"))
        remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=2)(_task)
        given = (str(recipe), str(folder), device, trust_remote_code, os.getcwd())
        waiting = [remote.remote(name, index, parts, given) for name in names for index in range(1, parts + 1)]
        total = len(waiting)
        while waiting:
            ready, waiting = ray.wait(waiting, num_returns=1)
            _raise(ray, ready[0])
            advance("tasks", total - len(waiting), total)
    finally:
        if ours and ray.is_initialized():
            ray.shutdown()
    # Everything is there now; this reads and checks it.
    return extract(recipe, folder, experts=experts, device=device, trust_remote_code=trust_remote_code)


def _task(name: str, index: int, parts: int, given: tuple[str, str, str | None, bool, str]) -> tuple[str, int] | None:
    """On a worker: one part of one expert; what went wrong as plain data, for an exception might not cross machines."""
    recipe, folder, device, trust_remote_code, here = given
    try:
        # Paths are often relative, and a running cluster was started elsewhere.
        if os.path.isdir(here):
            os.chdir(here)
        extract(recipe, folder, experts=[name], part=Part(index, parts), device=device, trust_remote_code=trust_remote_code)
    except ModistError as error:
        return str(error), error.exit_status
    except Exception as error:
        return f"{name}: {type(error).__name__}: {_line(error)}", 1
    return None


def _raise(ray: Any, task: Any) -> None:
    try:
        failed = ray.get(task)
    except ray.exceptions.RayError as error:
        raise StoreError(f"a task was lost for good: {_line(error)}; the same command goes on") from None
    if failed is not None:
        text, status = failed
        raise (UserError if status == 2 else ModistError)(text)


def _line(error: object) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
