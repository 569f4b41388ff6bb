"""Lists of texts and small datasets, in memory."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cleaning import valid_unicode

if TYPE_CHECKING:
    from datasets import Dataset


def list_texts(source: "Dataset | Sequence[str]", column: str, argument: str) -> list[str]:
    """List public texts. A lone surrogate in them becomes a question mark.

    Args:
        source (`datasets.Dataset` or `Sequence[str]`): The texts, or a dataset with a column of them.
        column (`str`): Name of that column.
        argument (`str`): What errors call `source`.

    Raises:
        ValueError: The dataset has no such column.
        TypeError: Some texts are not strings, or `source` is one string.
    """
    from datasets import Dataset

    columns = source.column_names if isinstance(source, Dataset) else None
    if columns is not None and column not in columns:
        raise ValueError(f"`{argument}` has no column {column!r} of texts, but {list(columns)}.")
    if isinstance(source, str):
        raise TypeError(f"`{argument}` is one string. Give a list of texts or a dataset.")
    rows: Any = source
    texts = list(rows if columns is None else rows[column])
    wrong = sorted({type(text).__name__ for text in texts if not isinstance(text, str)})
    if wrong:
        raise TypeError(f"`{argument}` must hold strings only, but some are of type {', '.join(wrong)}.")
    return list(map(valid_unicode, texts))


def make_dataset(rows: list[dict[str, Any]]) -> "Dataset":
    """Make a dataset of rows, in memory."""
    from datasets import Dataset

    return Dataset.from_list(rows)


def split_by_client(
    samples: Sequence[tuple[str, str]], held_out_share: float, seed: int = 0
) -> tuple["Dataset", "Dataset"]:
    """Set a random fraction of the clients aside, with all of their texts.

    Args:
        samples (`Sequence[tuple[str, str]]`): Client and text of each sample.
        held_out_share (`float`): Fraction of the clients that are set aside.
        seed (`int`, *optional*, defaults to `0`): Seed of the split.

    Returns:
        `tuple` of two `datasets.Dataset`: The other clients' samples and those of the clients set aside. Columns
        `client_id` (`str`) and `text` (`str`).
    """
    from datasets import Dataset

    clients = sorted({client for client, _ in samples})
    order = np.random.default_rng(seed).permutation(len(clients))
    held_out = {clients[index] for index in order[: round(held_out_share * len(clients))]}
    kept, aside = (
        Dataset.from_list([{"client_id": who, "text": text} for who, text in samples if (who in held_out) == is_held])
        for is_held in (False, True)
    )
    return kept, aside
