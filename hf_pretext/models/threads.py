"""Threads of a CPU that each compute alone.

Two threads that share every small matrix product wait for each other thousands of times a second. If another process
takes one of the cores, each of these waits lasts until that core is free again, and the work takes ten times as long.
Threads that share nothing lose what the other process takes, and no more.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import local
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

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
