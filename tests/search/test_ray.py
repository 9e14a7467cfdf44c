"""Candidates on Ray: the scores of one process, in order, also where an actor or a whole node is killed."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modist.errors import UserError
from modist.search import ray_pool
from modist.search.pool import LocalPool, SearchError
from modist.search.ray_pool import RayPool

ray = pytest.importorskip("ray")
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
VECTORS = [np.array([number / 8, 1.0 - number / 8]) for number in range(9)]


class Workshop:
    """A merged model that is its vector; it writes down who made what, and dies or fails where it is told to."""

    tokenizer = None

    def __init__(
        self, device: str, log: Path, dies: float | None = None, fails: float | None = None, slow: float = 0.0
    ) -> None:
        assert device == "cpu"
        self.log, self.dies, self.fails, self.slow = log, dies, fails, slow

    def merge(self, vector: np.ndarray) -> np.ndarray:
        time.sleep(self.slow)
        node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else "here"
        with self.log.open("a") as file:
            file.write(f"{os.getpid()} {vector[0]} {node}\n")
        if vector[0] == self.dies and not (marker := self.log.with_suffix(".died")).exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if vector[0] == self.fails:
            raise UserError(f"nobody can merge {vector[0]}")
        vector += 0.0  # a workshop may write into what it is given
        return vector


class Distance:
    name = "distance"

    def __call__(self, model: Any, tokenizer: Any) -> float:
        return float("nan") if model[0] == -1 else -float(((model - 0.3) ** 2).sum())


@pytest.fixture(scope="module")
def local() -> Iterator[str]:
    """One Ray for all tests but those of connecting."""
    # The workers do not know the tests' package.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield "auto"
    ray.shutdown()


def of_one_process(log: Path, vectors: list[np.ndarray] = VECTORS) -> list[float]:
    return LocalPool(Workshop("cpu", log), Distance()).scores(vectors)


# These connect by themselves, so they come before the fixture does.


def test_nobody_at_the_address() -> None:
    began = time.monotonic()
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1"):
        with pytest.raises(UserError, match=rf"^--ray {address}: no Ray cluster answers there: ConnectionRefusedError"):
            RayPool(Workshop, Distance, address=address)
    assert time.monotonic() - began < 5


@pytest.mark.full
def test_own_ray_ends_with_the_pool(tmp_path: Path) -> None:
    assert not ray.is_initialized()
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with RayPool(partial(Workshop, log=tmp_path / "log"), Distance, workers=1) as pool:
        assert pool.scores(VECTORS) == of_one_process(tmp_path / "other")
        assert ray.is_initialized()
    assert not ray.is_initialized()
    pool.close()
    with pytest.raises(SearchError, match="open a new pool"):
        pool.scores(VECTORS)


@pytest.mark.full
@pytest.mark.parametrize("kill", [False, True], ids=["two nodes", "one is killed"])
def test_two_nodes(kill: bool, tmp_path: Path) -> None:
    assert not ray.is_initialized()
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    cluster = importlib.import_module("ray.cluster_utils").Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    log = tmp_path / "log"
    vectors = [np.array([number / 64, 0.5]) for number in range(40)]
    try:
        second = cluster.add_node(num_cpus=1)
        with RayPool(partial(Workshop, log=log, slow=0.1), Distance, address=cluster.address, workers=2) as pool:

            def told(place: int, score: float) -> None:
                if kill and place == 20:
                    cluster.remove_node(second, allow_graceful=False)

            assert pool.scores(vectors, told) == of_one_process(tmp_path / "other", vectors)
    finally:
        ray.shutdown()
        cluster.shutdown()
    lines = [line.split() for line in log.read_text().splitlines()]
    assert len({node for _, _, node in lines}) == 2
    # What the killed node was at is done again, and nothing else.
    assert len(lines) - len(vectors) in ((0, 1) if kill else (0,))


@pytest.mark.full
def test_a_search_that_loses_a_worker_finds_the_same(tmp_path: Path) -> None:
    """The demo's experts, likelihood of chats, CMA-ES; one of two actors is killed in the middle."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    evolution = importlib.import_module("modist.search.evolve")
    journals = importlib.import_module("modist.search.journal")
    from modist.search.candidate import Workshop as Real
    from modist.search.metric import read_metrics
    from modist.search.settings import SearchSettings

    experts = Path(__file__).parents[2] / "examples" / "experts"
    models = "".join(f"- {{model: {experts / name}, parameters: {{weight: 0.5}}}}\n" for name in ("general", "math"))
    (tmp_path / "recipe.yml").write_text(f"merge_method: linear\nmodels:\n{models}dtype: bfloat16\n")
    rows = [(f"How many are {a} and {b}?", f"The answer is {a + b}.") for a in range(3, 9) for b in range(2, 9)]
    chats = [[{"role": "user", "content": asked}, {"role": "assistant", "content": said}] for asked, said in rows]
    (tmp_path / "fit.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    settings = SearchSettings(layer_blocks=2, budget=25, seed=3)
    make_workshop = partial(made, Real, str(tmp_path / "recipe.yml"), settings)
    make_metric = partial(read_metrics, [f"likelihood:{tmp_path / 'fit.jsonl'}"], compare=False)
    workshop = make_workshop("cpu")

    def search(pool: Any, folder: str, watch: Any = None) -> Any:
        with journals.Journal(tmp_path / folder, {}) as journal:
            return evolution.evolve(workshop.genome, pool, settings, journal, watch)

    def watch(entry: Any, done: int, best: Any) -> None:
        if done == 12:
            ray.kill(pool.workers[0], no_restart=True)

    alone = search(LocalPool(workshop, make_metric()), "alone")
    notes: list[str] = []
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with RayPool(make_workshop, make_metric, workers=2, note=notes.append) as pool:
        together = search(pool, "together", watch)
    assert len(notes) == 1
    assert [entry.vector for entry in together.candidates] == [entry.vector for entry in alone.candidates]
    assert [entry.score for entry in together.candidates] == [entry.score for entry in alone.candidates]
    assert together.best.score > together.candidates[0].score


def made(kind: Any, recipe: str, settings: Any, device: str) -> Any:
    return kind(recipe, settings, device=device, threads=1)


def test_scores_of_one_process_in_order(local: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Ray was started in another folder.
    monkeypatch.chdir(tmp_path)
    log = Path("log")
    told: dict[int, float] = {}
    with RayPool(partial(Workshop, log=log, slow=0.05), Distance, address=local, workers=2) as pool:
        found = pool.scores(VECTORS, told.__setitem__)
        assert pool.scores(VECTORS[:1]) == found[:1]
        assert pool.scores([]) == []
    assert found == of_one_process(tmp_path / "other")
    assert told == dict(enumerate(found))
    # Both had work, none of it done twice, and none of it in this process.
    workers = {line.split()[0] for line in log.read_text().splitlines()}
    assert len(workers) == 2 and str(os.getpid()) not in workers
    assert len(log.read_text().splitlines()) == len(VECTORS) + 1


def test_killed_actor_costs_its_candidate_alone(local: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    notes: list[str] = []
    make = partial(Workshop, log=log, dies=0.25, slow=0.05)
    with RayPool(make, Distance, address=local, workers=2, note=notes.append) as pool:
        found = pool.scores(VECTORS)
    assert found == of_one_process(tmp_path / "other")
    assert len(notes) == 1 and notes[0].startswith("a worker was lost")
    tried = [line.split()[1] for line in log.read_text().splitlines()]
    assert sorted(tried) == sorted([*(str(vector[0]) for vector in VECTORS), "0.25"])


def test_failing_candidate_ends_the_search_at_once(local: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with RayPool(partial(Workshop, log=log, fails=0.25), Distance, address=local, workers=1) as pool:
        with pytest.raises(UserError, match=r"^nobody can merge 0\.25$"):
            pool.scores(VECTORS)
        with pytest.raises(SearchError, match=r"^distance: gives nan, which is no number to search by$"):
            pool.scores([np.array([-1.0, 0.0])])
        assert pool.scores(VECTORS[:2]) == of_one_process(tmp_path / "other", VECTORS[:2])
    tried = [line.split()[1] for line in log.read_text().splitlines()]
    assert tried.count("0.25") == 1


def unmade(device: str) -> Workshop:
    raise UserError("there is no such expert")


def test_workshop_that_cannot_be_made(local: str) -> None:
    with (
        RayPool(unmade, Distance, address=local, workers=2) as pool,
        pytest.raises(UserError, match=r"^there is no such expert$"),
    ):
        pool.scores(VECTORS)


def test_too_small_a_cluster(local: str) -> None:
    with pytest.raises(
        UserError, match=r"^3 workers on cpu, of 1 threads each, are too many for this Ray, which has 2 CPUs and 0"
    ):
        RayPool(Workshop, Distance, address=local, workers=3)
    with pytest.raises(UserError, match=r"^1 workers on cuda.* 0 GPUs$"):
        RayPool(Workshop, Distance, address=local, device="cuda")
    with pytest.raises(UserError, match="did you mean 'cuda'"):
        RayPool(Workshop, Distance, address=local, device="cud")
    with pytest.raises(UserError, match="at least 1"):
        RayPool(Workshop, Distance, address=local, workers=0)


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_pool, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'modist\[ray\]'$"):
        RayPool(Workshop, Distance)


def test_importing_the_pool_does_not_import_ray() -> None:
    import subprocess

    code = "import sys, modist.search.ray_pool, modist.search.metric; assert not {'ray', 'torch', 'cma'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
