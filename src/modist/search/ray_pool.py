"""Candidates on Ray: one actor for each device holds the experts, and vectors travel.

    RayPool(make_workshop, make_metric, workers=2)                                  # a Ray of its own on this machine
    RayPool(make_workshop, make_metric, address="10.0.0.1:6379", device="cuda")     # a cluster, an actor for each GPU

modist must be installed on every node, and the experts' folders and the data must be there under the same names.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from modist.errors import UserError, nearest
from modist.search.metric import Metric
from modist.search.pool import ClusterPool, Failure, LostError, Merger, Vector, score_one

LOCAL = "local"
DEVICES = ("cpu", "cuda")
# How long to wait for a cluster's head to take a connection, in seconds.
_CONNECT_S = 10.0


class RayPool(ClusterPool):
    """A pool of Ray actors.  A context manager: the actors, and a Ray that was started here, end with it."""

    def __init__(
        self,
        make_workshop: Callable[[str], Merger],
        make_metric: Callable[[], Metric],
        *,
        address: str = LOCAL,
        workers: int | None = None,
        device: str = "cpu",
        threads: int = 1,
        attempts: int = 3,
        patience_s: float = 1800.0,
        note: Callable[[str], object] | None = None,
    ) -> None:
        """Connect, and have every worker load the experts; this does not wait for them.

        Args:
            make_workshop: called in each actor with its device (`cpu`, or `cuda` for the one GPU it sees); must be picklable.
            make_metric: likewise, with nothing; a `functools.partial` of `read_metrics` will do.
            address: `local` starts a Ray of its own here, for this pool alone; else a running cluster's.
            workers: how many actors; as many as there are devices where left out.
            device: `cpu`, or `cuda` for an actor a GPU.
            threads: CPU cores of an actor.
            attempts, patience_s, note: see `ClusterPool`.

        Raises:
            UserError: Ray is not installed, no cluster at the address, or it is too small.
        """
        cluster = RayCluster(make_workshop, make_metric, address, workers, device, threads)
        try:
            super().__init__(cluster, cluster.workers, attempts=attempts, patience_s=patience_s, note=note)
        except BaseException:
            cluster.close()
            raise

    def __enter__(self) -> RayPool:
        return self


class RayCluster:
    """Ray's actors as `ClusterPool` uses workers."""

    def __init__(
        self,
        make_workshop: Callable[[str], Merger],
        make_metric: Callable[[], Metric],
        address: str,
        workers: int | None,
        device: str,
        threads: int,
    ) -> None:
        self._ray = _ray()
        if device not in DEVICES:
            raise UserError(f"a worker's device is {' or '.join(DEVICES)}, not {device!r}{nearest(device, DEVICES)}")
        if threads < 1 or (workers is not None and workers < 1):
            raise UserError(f"{workers} workers of {threads} threads: there must be at least 1 of each")
        self._device = device
        self._ours = self._connect(address, workers, threads)
        try:
            self.workers = self._fitting(workers, device, threads)
            # Ray restarts nothing by itself: a candidate that kills its worker would do so for ever.
            remote = self._ray.remote(num_cpus=threads, num_gpus=int(device == "cuda"), max_restarts=0, max_task_retries=0)
            self._actor = remote(Scorer)
            # Once in the cluster's store, not once for every actor.
            self._made = self._ray.put((make_workshop, make_metric, device, threads, os.getcwd()))
        except BaseException:
            self.close()
            raise

    def start(self) -> Any:
        return self._actor.remote()

    def build(self, worker: Any) -> Any:
        return worker.build.remote(self._made)

    def score(self, worker: Any, vector: Vector) -> Any:
        return worker.score.remote(vector)

    def wait(self, tasks: Sequence[Any], seconds: float) -> Any | None:
        done, _ = self._ray.wait(list(tasks), num_returns=1, timeout=seconds)
        return done[0] if done else None

    def result(self, task: Any) -> float | Failure | None:
        errors = import_module("ray.exceptions")
        try:
            found: float | Failure | None = self._ray.get(task)
            return found
        except errors.RayTaskError as error:
            # Not what the candidate raised, which `Scorer` gives back: something that could not be pickled or imported.
            return Failure(_line(error.cause if getattr(error, "cause", None) else error), 1)
        except errors.RayError as error:
            raise LostError(_line(error)) from None

    def stop(self, worker: Any) -> None:
        self._ray.kill(worker, no_restart=True)

    def close(self) -> None:
        if self._ours and self._ray.is_initialized():
            self._ray.shutdown()
        self._ours = False

    def _connect(self, address: str, workers: int | None, threads: int) -> bool:
        """Join a Ray; whether it is for us to leave it."""
        if self._ray.is_initialized():
            # The caller's: who uses Ray already has one connection and no more.
            if address != LOCAL:
                return False
            raise UserError(f"this process is connected to a Ray already; give its address instead of {LOCAL!r}")
        _reach(address)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        quiet = {"logging_level": "ERROR", "log_to_driver": False}
        try:
            if address == LOCAL:
                cpus = {} if workers is None else {"num_cpus": workers * threads}
                self._ray.init(address=LOCAL, include_dashboard=False, **cpus, **quiet)
            else:
                self._ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError, OSError) as error:
            there = "Ray could not be started here" if address == LOCAL else f"--ray {address}: no Ray cluster answers there"
            raise UserError(f"{there}: {_line(error)}") from None
        return True

    def _fitting(self, workers: int | None, device: str, threads: int) -> int:
        """How many workers there are to be."""
        there = self._ray.cluster_resources()
        most = int(there.get("CPU", 0)) // threads
        if device == "cuda":
            most = min(most, int(there.get("GPU", 0)))
        wanted = workers or max(1, most)
        if wanted > most:
            raise UserError(
                f"{wanted} workers on {device}, of {threads} threads each, are too many for this Ray, which has "
                f"{there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs"
            )
        return wanted


class Scorer:
    """What runs in an actor."""

    def build(self, made: tuple[Callable[[str], Merger], Callable[[], Metric], str, int, str]) -> Failure | None:
        """Load the experts and the data."""
        make_workshop, make_metric, device, threads, folder = made
        try:
            # Paths are often relative, and a running cluster was started elsewhere.
            if os.path.isdir(folder):
                os.chdir(folder)
            self._metric = make_metric()
            self._workshop = make_workshop(device)
            if "torch" in sys.modules:
                sys.modules["torch"].set_num_threads(threads)
        except Exception as error:  # a line of text crosses machines, an exception might not
            return Failure.of(error)
        return None

    def score(self, vector: Vector) -> float | Failure:
        """One candidate."""
        try:
            # Ray's arrays cannot be written.
            return score_one(self._workshop, self._metric, vector.copy())
        except Exception as error:
            return Failure.of(error)


def _ray() -> Any:
    if find_spec("ray") is None:
        raise UserError("searching on several workers needs ray, which is not here: pip install 'modist[ray]'")
    return import_module("ray")


def _reach(address: str) -> None:
    """See that somebody listens at `host:port`; Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"--ray {address}: no Ray cluster answers there: {_line(error)}") from None


def _line(error: object) -> str:
    """The first line of what Ray says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else 'no more is known'}"
