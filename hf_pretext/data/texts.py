"""Lists of texts and small datasets, in memory."""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cleaning import valid_unicode
from .columns import MissingColumnError, shown_names, value_at, values_of

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


NO_IDS = frozenset({"", "nan", "none", "null", "nat", "na", "n/a", "#n/a", "#na", "<na>"})
"""What programs write for an id that is missing, in lower case."""

_WHOLE_NUMBER = re.compile(r"([+-]?)([0-9]+)(\.0*)?")


def list_texts(source: "Dataset | IterableDataset | Sequence[str]", column: str, argument: str) -> list[str]:
    """List public texts. A lone surrogate in them becomes a question mark.

    Args:
        source (`datasets.Dataset`, `datasets.IterableDataset` or `Sequence[str]`):
            The texts, or a dataset with a column of them. A transform of the dataset is applied.
        column (`str`): Name of that column, or path into nested fields.
        argument (`str`): What errors call `source`.

    Raises:
        ValueError: The dataset has no such column.
        TypeError: Some texts are not strings, or `source` is not what texts are read from.
    """
    check_source(source, argument)
    return list(each_text(source, column, argument))


def check_source(source: Any, argument: str) -> None:
    """Raise a `TypeError` if iterating over `source` gives characters or names, and neither texts nor rows."""
    if isinstance(source, str):
        raise TypeError(f"`{argument}` is one string. Give a list of texts or a dataset.")
    if isinstance(source, Mapping):
        first = next(iter(source), "train")
        raise TypeError(
            f"`{argument}` of type {type(source).__name__} has the keys {shown_names(list(source))}. Give one of "
            f"them: that of a split is `{argument}[{first!r}]`."
        )
    if type(source).__name__ == "DataFrame":  # Of pandas or polars: its items are columns.
        raise TypeError(f"`{argument}` is a table. Make a dataset of it, such as by `datasets.Dataset.from_pandas`.")


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
    samples: "Dataset | Sequence[tuple[str, str]]",
    held_out_share: float,
    seed: int = 0,
    *,
    client_column: str = "client_id",
) -> tuple["Dataset", "Dataset"]:
    """Set a random fraction of the clients aside, with all of their texts, such as for an evaluation.

    Args:
        samples (`datasets.Dataset` or `Sequence[tuple[str, str]]`):
            A dataset that says whose each row is, or client and text of each sample.
        held_out_share (`float`): Fraction of the clients that are set aside, between 0 and 1.
        seed (`int`, *optional*, defaults to `0`): Seed of the split.
        client_column (`str`, *optional*, defaults to `"client_id"`): Column of a dataset that says whose a row is.

    Returns:
        `tuple` of two `datasets.Dataset`: The other clients' rows and those of the clients set aside, with the columns
        of the dataset. Of samples, columns `client_id` (`str`) and `text` (`str`).

    Raises:
        ValueError: There is no such column, a row has no id, or one of the two would be empty.
    """
    from datasets import Dataset

    rows = samples if isinstance(samples, Dataset) else Dataset.from_list(_as_rows(samples))
    if client_column not in rows.column_names:
        raise ValueError(f"`client_column`={client_column!r} is not one of {shown_names(rows.column_names)}.")
    owners = rows.with_format(None)[client_column][:]
    if number := sum(look_of(owner) in NO_IDS for owner in owners):
        raise ValueError(
            f"`client_column`={client_column!r} is missing in {number} of {len(owners)} rows, or a word such as "
            "'null', so whose they are is not known. Leave them out, or give each an id of its own."
        )
    clients = sorted(set(owners))
    order = np.random.default_rng(seed).permutation(len(clients))
    number = round(held_out_share * len(clients))
    if not 0 < number < len(clients):
        raise ValueError(
            f"`held_out_share`={held_out_share} sets {number} of {len(clients)} clients aside. Choose a fraction by "
            "which both sides have at least one."
        )
    held_out = {clients[index] for index in order[:number]}
    kept, aside = (
        rows.select([index for index, who in enumerate(owners) if (who in held_out) == is_held])
        for is_held in (False, True)
    )
    return kept, aside


def look_of(client: object) -> str:
    """Return what ids that look alike have in common.

    Compatible characters count as one (NFKC), and so do cases. Blanks around an id and characters without a width are
    left out. `7`, `7.0` and `"07"` are one number. Letters of different alphabets stay different.
    """
    look = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", str(client)).casefold())
    if not look.isascii():
        look = "".join(each for each in look if unicodedata.category(each) != "Cf")
    look = look.strip()
    number = _WHOLE_NUMBER.fullmatch(look)
    return number[1].replace("+", "") + (number[2].lstrip("0") or "0") if number else look


def _as_rows(samples: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"client_id": who, "text": text} for who, text in samples]
