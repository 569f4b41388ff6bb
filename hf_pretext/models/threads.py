"""How many threads of a CPU compute, and whether together or each alone.

Two threads that share every small matrix product wait for each other thousands of times a second. If another process
takes one of the cores, each of these waits lasts until that core is free again, and the work takes ten times as long.
Threads that share nothing lose what the other process takes, and no more (`map_in_threads`). Where work cannot be
divided, one thread computes while the cores are busy (`FittingThreads`).
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import local
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

SECONDS_BETWEEN_TRIALS = 2.0
MOST_OF_THE_TIME = 0.05
"""Fraction of the time that trials of the number of threads may take."""

_thread = local()


def map_in_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield `work(item)` of each item, in their order. As many threads work as torch would use for one product.

    Each of them computes with one thread, so the number of cores changes no result. Inside of `work`, this function
    works in the same thread.

    Args:
        work (`Callable`): The work. Its error ends the iteration.
        items (`Iterable`): The items. A few are taken in advance.
    """
    import torch

    count = torch.get_num_threads()
    if count == 1 or "works" in vars(_thread):
        yield from map(work, items)
        return

    def begin() -> None:
        _thread.works = True
        # For this thread, and for all that the product library starts. It is set back below.
        torch.set_num_threads(1)

    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(count, "hf_pretext", begin)
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 2 * count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # Whoever looks at the frames of an error finds no results that may be private.
        waiting.clear()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(count)


class FittingThreads:
    """Lets torch compute with as many threads as are of use while other processes take some of the cores.

    Each trial times a few matrix products, so it looks at no other process. In a product no thread sums up what
    another one began, so their number changes no result.

    Args:
        device (`torch.device`): Where the model is. On an accelerator nothing is tried.
    """

    def __init__(self, device: Any) -> None:
        import torch

        self._most = torch.get_num_threads() if device.type == "cpu" and "works" not in vars(_thread) else 1
        self._next_trial = 0.0

    def __enter__(self) -> "FittingThreads":
        return self

    def __exit__(self, *_: object) -> None:
        import torch

        if self._most > 1:
            torch.set_num_threads(self._most)

    def adapt(self) -> None:
        """Set the number of threads by a trial, if the last one is some time ago. To be called often."""
        started = time.monotonic()
        if self._most == 1 or started < self._next_trial:
            return
        import torch

        best, number = 0.9 * _seconds_of_products(1), 1
        # Many threads have to be clearly faster: the next moments may be busier than the trial.
        for count in dict.fromkeys((self._most, max(2, self._most // 2))):
            took = _seconds_of_products(count, best)
            if took < best:
                best, number = took, count
        torch.set_num_threads(number)
        ended = time.monotonic()
        self._next_trial = ended + max(SECONDS_BETWEEN_TRIALS, (ended - started) / MOST_OF_THE_TIME)


def _seconds_of_products(num_threads: int, at_most: float = math.inf) -> float:
    """Time a few products of the size of a small model's. Infinite if they take more than `at_most` seconds."""
    import torch

    torch.set_num_threads(num_threads)
    left, right = torch.ones(64, 576), torch.ones(576, 1536)
    left @ right
    started = time.monotonic()
    for _ in range(8):
        left @ right
        if time.monotonic() - started > at_most:
            return math.inf
    return time.monotonic() - started
