"""Sharing of work among processes of one machine, which a GPU that waits for each of them needs to be busy."""

import multiprocessing
import queue
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub.utils import disable_progress_bars

Task = Callable[[], Any]

SECONDS_BETWEEN_LOOKS = 5.0
"""How often it is looked whether the processes that work are still there."""


@dataclass(frozen=True)
class _Failure:
    """What a process reports of a task that failed, or of itself if it cannot begin."""

    trace: str


def share(
    plan: Callable[[], Sequence[Task]], num_tasks: int, processes: int, preload: Sequence[str] = ()
) -> Iterator[Any]:
    """Run tasks in several processes, in their order, each task once.

    The other tasks of a plan are run even if one fails.

    Args:
        plan (`Callable`): Lists the tasks, the same ones in every process. It is pickled.
        num_tasks (`int`): Their number.
        processes (`int`): Number of processes.
        preload (`Sequence[str]`, *optional*): Modules that are imported once for all processes.

    Yields:
        The result of each task, as soon as it is there.

    Raises:
        RuntimeError: A task failed, or a process died. It is raised after all other results.
    """
    # A fork of this process could not use the GPU if this process has.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    next_task, results = context.Value("i", 0), context.Queue()
    arguments = (plan, next_task, results)
    workers = [context.Process(target=_work, args=arguments, daemon=True) for _ in range(min(processes, num_tasks))]
    for worker in workers:
        worker.start()
    failures: list[str] = []
    try:
        for result in _until_all_ended(workers, results):
            if isinstance(result, _Failure):
                failures.append(result.trace)
            else:
                yield result
    finally:
        for worker in workers:
            worker.terminate()
    if failures:
        raise RuntimeError(f"{len(failures)} of {num_tasks} tasks failed. The first of them:\n{failures[0]}")


def _until_all_ended(workers: Sequence[Any], results: Any) -> Iterator[Any]:
    """Yield results until every process has said that it ended, or has died. `None` says so."""
    running = len(workers)
    while running:
        try:
            result = results.get(timeout=SECONDS_BETWEEN_LOOKS)
        except queue.Empty:
            dead = [worker.exitcode for worker in workers if worker.exitcode]
            if dead and len(dead) >= running:
                yield _Failure(f"A process died with the exit code {dead[0]}.")
                return
            continue
        if result is None:
            running -= 1
        else:
            yield result


def _work(plan: Callable[[], Sequence[Task]], next_task: Any, results: Any) -> None:
    """Run tasks that no other process has begun."""
    disable_progress_bars()
    try:
        tasks = plan()
    except Exception:
        results.put(_Failure(traceback.format_exc()))
        tasks = []
    while True:
        with next_task.get_lock():
            index = next_task.value
            next_task.value += 1
        if index >= len(tasks):
            break
        try:
            results.put(tasks[index]())
        except Exception:
            traceback.print_exc()  # It may take hours until all others are done.
            results.put(_Failure(traceback.format_exc()))
    results.put(None)
