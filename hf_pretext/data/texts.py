"""Lists of texts and small datasets, in memory."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cleaning import valid_unicode
from .columns import MissingColumnError, shown_names, value_at, values_of

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


def list_texts(source: "Dataset | IterableDataset | Sequence[str]", column: str, argument: str) -> list[str]:
    """List public texts. A lone surrogate in them becomes a question mark.

    Args:
        source (`datasets.Dataset`, `datasets.IterableDataset` or `Sequence[str]`):
            The texts, or a dataset with a column of them. A transform of the dataset is applied.
        column (`str`): Name of that column, or path into nested fields.
        argument (`str`): What errors call `source`.

    Raises:
        ValueError: The dataset has no such column.
        TypeError: Some texts are not strings, or `source` is one string.
    """
    if isinstance(source, str):
        raise TypeError(f"`{argument}` is one string. Give a list of texts or a dataset.")
    return list(each_text(source, column, argument))


def draw_texts(source: Iterable[Any], column: str, argument: str, number: int, seed: int) -> list[str]:
    """Draw different texts of a stream at random, and keep no others in memory.

    Each text has a rank, a hash of it under a key of the seed, and those of the smallest ranks are drawn. So each set
    of this many different texts has the same chance, a text that is there twice has no other chance than one that is
    there once, and the draw does not depend on the order of the stream. Blank texts are left out.

    Args:
        source (`Iterable`): Texts, or rows, such as of an `IterableDataset`. All of them are read once.
        column (`str`): Column of texts, or path into nested fields.
        argument (`str`): What errors call `source`.
        number (`int`): Most texts that are drawn.
        seed (`int`): Seed of the draw.

    Returns:
        `list` of `str`: The texts, by rank. All that there are, if they are fewer.

    Raises:
        ValueError: The stream has no such column.
        TypeError: Some texts are not strings.
    """
    key = seed.to_bytes(16, "big")
    drawn: dict[int, str] = {}
    largest: list[int] = []  # The ranks of `drawn`, negative, so that the largest comes first.
    for text in each_text(source, column, argument):
        rank = int.from_bytes(blake2b(text.encode(), digest_size=16, key=key).digest(), "big")
        if not text.strip() or rank in drawn or (len(drawn) == number and rank > -largest[0]):
            continue
        drawn[rank] = text
        heappush(largest, -rank)
        if len(drawn) > number:
            del drawn[-heappop(largest)]
    return [drawn[rank] for rank in sorted(drawn)]


def each_text(source: Iterable[Any], column: str, argument: str) -> Iterator[str]:
    """Yield public texts, or those in a column of rows. A lone surrogate in them becomes a question mark.

    Raises:
        ValueError: The rows have no such column.
        TypeError: Some texts are not strings.
    """
    for text in _values(source, column, argument):
        if not isinstance(text, str):
            raise TypeError(f"`{argument}` must hold strings only, but some are of type {type(text).__name__}.")
        yield valid_unicode(text)


def _values(source: Any, column: str, argument: str) -> Iterator[Any]:
    from datasets import Dataset, IterableDataset

    names = source.column_names if isinstance(source, (Dataset, IterableDataset)) else None
    try:
        if isinstance(source, Dataset):
            yield from values_of(source, column)
        else:
            for row in source:
                names = names or (list(row) if isinstance(row, Mapping) else None)
                yield value_at(row, column) if isinstance(row, Mapping) else row
    except MissingColumnError:
        names = names or []
        raise ValueError(f"`{argument}` has no column {column!r} of texts, but {shown_names(names)}.") from None


def make_dataset(rows: list[dict[str, Any]], features: Mapping[str, Any] | None = None) -> "Dataset":
    """Make a dataset of rows, in memory.

    Args:
        rows (`list` of `dict`): The rows.
        features (`Mapping[str, Any]`, *optional*): Features of columns that do not follow from their values.
    """
    from datasets import Dataset, Features

    dataset = Dataset.from_list(rows)
    if not features:
        return dataset
    return Dataset.from_list(rows, features=Features({**dataset.features, **features}))


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
