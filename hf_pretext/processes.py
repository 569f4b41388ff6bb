"""Sharing work on public data among the processes of `torchrun` or `accelerate launch`.

Every process calls the same functions in the same order and ends with the same results. Private data is none of this
module's business: the main process alone holds it.
"""

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from huggingface_hub.utils import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")

LONGEST_WAIT = timedelta(days=2)
"""How long processes wait for one another: the main one may embed many clients while the others have nothing to do."""


def num_processes() -> int:
    """Return the number of processes of this launch, or of a group that was made without a launcher."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    distributed = sys.modules.get("torch.distributed")
    if launched == 1 and distributed and distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return launched


def is_main_process() -> bool:
    """Tell whether this is the process that holds the private data, draws the noise, prints and writes files."""
    return num_processes() == 1 or _state().process_index == 0


def own_device() -> Any:
    """Return the device of this process among several, or None where it is alone and may take any."""
    return _state().device if num_processes() > 1 else None


def map_over_processes(
    work: Callable[..., Iterable[Result]], items: Sequence[Item], seed: int | None = None
) -> list[Result]:
    """Share out items among the processes, and gather the results in the order of the items.

    Args:
        work (`Callable`): `work(items)`, or `work(items, seed)` where a seed is given, returns a result for each item.
        items (`Sequence`): The items, the same in every process.
        seed (`int`, *optional*): Gives each process a seed of its own; a single process gets it as it is.

    Returns:
        `list`: A result for each item, the same in every process.
    """
    count = num_processes()
    if count == 1:
        return list(work(items) if seed is None else work(items, seed))
    from accelerate.utils import gather_object

    rank = _state().process_index
    share = items[rank::count]
    own = work(share) if seed is None else work(share, seed * count + rank)
    results: list[Any] = [None] * len(items)
    for other, shared in enumerate(gather_object([list(own)])):
        results[other::count] = shared
    return results


def broadcast(value: Any) -> Any:
    """Give every process the main process's value; those of the others are ignored."""
    values = [value]
    if num_processes() > 1:
        from accelerate.utils import broadcast_object_list

        _state()
        broadcast_object_list(values, from_process=0)
    return values[0]


def progress_bar(total: int, description: str, unit: str, shown: bool = True) -> tqdm:
    """Make a progress bar, which only the main process shows."""
    hidden = not (shown and is_main_process())
    return tqdm(total=total, desc=description, unit=unit, disable=hidden, name="hf_pretext")


def _state() -> Any:
    import torch
    from accelerate import PartialState

    # Joins the group of processes that a trainer has made, or makes it; the patience counts in the second case only.
    # Without being told, accelerate does not look for other processes on a machine that has no accelerator.
    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=LONGEST_WAIT)
    if state.num_processes != num_processes():
        raise RuntimeError(
            f"`WORLD_SIZE`={num_processes()}, but accelerate sees {state.num_processes} processes. Start them with "
            "`torchrun --nproc_per_node N` or `accelerate launch`."
        )
    return state
