"""Sharing of work among the processes of `torchrun` or `accelerate launch`, and progress bars.

Every process calls the same functions in the same order and ends with the same results. What is private passes through
`Group` alone, between processes of one organization that all hold private rows (see `clients.in_memory`).
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from huggingface_hub.utils import tqdm

if TYPE_CHECKING:
    import numpy as np

Item = TypeVar("Item")
Result = TypeVar("Result")

LONGEST_WAIT = timedelta(days=2)
"""How long processes wait for one another. One may embed many clients while the others are idle."""

_label: ContextVar[str | None] = ContextVar("label", default=None)


def num_processes() -> int:
    """Return the number of processes of this launch, or of a group that was made without a launcher."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    distributed = sys.modules.get("torch.distributed")
    if launched == 1 and distributed and distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return launched


def is_main_process() -> bool:
    """Return whether this process draws the noise, prints and writes files. It holds private data in any case."""
    return num_processes() == 1 or process_state().process_index == 0


def own_device() -> Any:
    """Return the device of this process among several, or None if it is alone and may use any device."""
    return process_state().device if num_processes() > 1 else None


def map_over_processes(
    work: Callable[..., Iterable[Result]], items: Sequence[Item], seed: int | None = None
) -> list[Result]:
    """Divide items among the processes, and gather the results in the order of the items.

    Args:
        work (`Callable`): `work(items)`, or `work(items, seed)` if a seed is given, returns one result per item.
        items (`Sequence`): The items, the same in every process.
        seed (`int`, *optional*): Gives each process its own seed. A single process gets it unchanged.

    Returns:
        `list`: One result per item, the same in every process.
    """
    count = num_processes()
    if count == 1:
        return list(work(items) if seed is None else work(items, seed))
    from accelerate.utils import gather_object

    rank = process_state().process_index
    part = items[rank::count]
    own = work(part) if seed is None else work(part, seed * count + rank)
    results: list[Any] = [None] * len(items)
    for other, gathered in enumerate(gather_object([list(own)])):
        results[other::count] = gathered
    return results


def broadcast(value: Any) -> Any:
    """Give every process the main process's value. The values of the others are ignored."""
    values = [value]
    if num_processes() > 1:
        from accelerate.utils import broadcast_object_list

        process_state()
        broadcast_object_list(values, from_process=0)
    return values[0]


@dataclass(frozen=True)
class Group:
    """The processes that divide the private side among them, as one of them sees it.

    Args:
        rank (`int`): Number of this process. The main one has 0.
        size (`int`): Number of processes.
    """

    rank: int
    size: int

    @classmethod
    def of_launch(cls) -> "Group":
        """Return the group of all processes of this launch."""
        return cls(process_state().process_index, num_processes()) if num_processes() > 1 else ALONE

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, by rank. All of them call it."""
        if self.size == 1:
            return [value]
        from accelerate.utils import gather_object

        process_state()
        return list(gather_object([value]))

    def sum(self, array: "np.ndarray") -> "np.ndarray":
        """Sum arrays of int64 of all processes, exactly. All of them call it, and get the sum.

        Raises:
            RuntimeError: Another process has ended. (What it is called depends on the backend.)
        """
        if self.size == 1:
            return array
        import torch

        total = torch.from_numpy(array.copy()).to(process_state().device)
        torch.distributed.all_reduce(total)
        return total.cpu().numpy()


ALONE = Group(0, 1)
"""A process that divides nothing."""


@contextmanager
def progress_label(label: str) -> Iterator[None]:
    """Name the progress bars that are shown inside, so that no function has to pass the name on."""
    token = _label.set(label)
    try:
        yield
    finally:
        _label.reset(token)


def progress_bar(total: int | None, unit: str, label: str | None = None) -> tqdm:
    """Make a progress bar that only the main process shows.

    Args:
        total (`int`, *optional*): Number of steps. None if it is not known.
        unit (`str`): What is counted.
        label (`str`, *optional*): Name of the bar, by default that of `progress_label`. Without a name it is hidden.
    """
    label = label or _label.get()
    hidden = label is None or not is_main_process()
    return tqdm(total=total, desc=label, unit=unit, disable=hidden, name="hf_pretext")


def process_state() -> Any:
    """Return accelerate's view of the processes, which is made if there is none."""
    import torch
    from accelerate import PartialState

    # Joins the group of processes that a trainer has made, or makes it. The timeout counts in the second case only.
    # Without `cpu=True`, accelerate does not look for other processes on a machine without an accelerator.
    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=LONGEST_WAIT)
    if state.num_processes != num_processes():
        raise RuntimeError(
            f"`WORLD_SIZE`={num_processes()}, but accelerate sees {state.num_processes} processes. Start them with "
            "`torchrun --nproc_per_node N` or `accelerate launch`."
        )
    return state
