"""The crew: every block once, results in order, failures and Ctrl-C end it."""

from __future__ import annotations

import threading
import time

import pytest

from modist.merge.crew import Crew


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_every_block_once_and_in_order(threads: int) -> None:
    crew = Crew(threads)
    seen: dict[tuple[int, int], int] = {}
    lock = threading.Lock()
    results = {}

    def job(number: int, blocks: int):
        def work() -> None:
            def block(index: int) -> int:
                with lock:
                    seen[number, index] = seen.get((number, index), 0) + 1
                return index * index

            # Three passes, as a survey, another and a blend would be.
            results[number] = [crew.each(blocks, block) for _ in range(3)]

        return work

    sizes = [0, 1, 2, 50, 1, 7, 30]
    crew.run([job(number, blocks) for number, blocks in enumerate(sizes)])
    assert seen == {(n, i): 3 for n, blocks in enumerate(sizes) for i in range(blocks)}
    assert results == {n: [[i * i for i in range(blocks)]] * 3 for n, blocks in enumerate(sizes)}


def test_idle_threads_help_with_the_last_tensor() -> None:
    crew = Crew(3)
    helpers = set()

    def job() -> None:
        def block(index: int) -> None:
            helpers.add(threading.get_ident())
            time.sleep(0.005)

        crew.each(40, block)

    crew.run([job])
    assert len(helpers) == 3


@pytest.mark.parametrize("threads", [1, 4])
def test_a_failure_stops_the_rest_and_is_raised(threads: int) -> None:
    crew = Crew(threads)
    done = []

    def bad() -> None:
        raise ValueError("this block")

    def slow() -> None:
        crew.each(1000, lambda index: (time.sleep(0.001), done.append(index)))

    with pytest.raises(ValueError, match="this block"):
        crew.run([slow, bad, slow, slow] if threads > 1 else [bad, slow])
    assert len(done) < 1000


def test_a_crew_can_run_again_after_a_failure() -> None:
    crew = Crew(2)
    with pytest.raises(ZeroDivisionError):
        crew.run([lambda: 1 / 0])
    found = []
    crew.run([lambda: found.extend(crew.each(3, lambda index: index))])
    assert found == [0, 1, 2]
