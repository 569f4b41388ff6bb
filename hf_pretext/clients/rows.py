"""The private rows: which are whose is kept in memory, and their texts are read from Arrow when they are needed."""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from os import urandom
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from ..configuration import PrivateEvolutionConfig
from ..data.columns import Columns, MissingColumnError, has_transform, shown_names
from ..data.labels import read_labels
from ..forms import Plain, each_text, form_of
from ..processes import ALONE, Group
from .guard import tell_owner
from .identity import check_clients, check_one_value

if TYPE_CHECKING:
    from datasets import Dataset

ROWS_AT_ONCE = 2**12
"""Rows whose texts are in memory at a time."""


class LabeledText(NamedTuple):
    """A private text and its label. Two samples with one text and different labels are two samples.

    Args:
        text (`str`): The text.
        label (`int`): Number of its label, in the order of `config.labels`.
    """

    text: str
    label: int


Sample = TypeVar("Sample", str, LabeledText)


@dataclass(frozen=True, repr=False)
class Ids:
    """The ids of clients, each once.

    Args:
        values (`pyarrow.Array` or `list`): The ids. Strings in Arrow take a fifth of the memory of those of Python.
    """

    values: Any

    def __len__(self) -> int:
        """Number of clients."""
        return len(self.values)

    def between(self, start: int, end: int) -> list[Any]:
        """Return some of the ids."""
        part = self.values[start:end]
        return part if isinstance(part, list) else list(part.to_pylist())

    def all(self) -> Iterator[Any]:
        """Yield all of the ids."""
        for start in range(0, len(self), ROWS_AT_ONCE):
            yield from self.between(start, start + ROWS_AT_ONCE)

    def select(self, numbers: np.ndarray) -> "Ids":
        """Select ids by their numbers."""
        if len(numbers) == len(self):
            return self
        is_list = isinstance(self.values, list)
        return Ids([self.values[each] for each in numbers] if is_list else self.values.take(numbers))


class PrivateRows:
    """The samples of the clients of this process, a few at a time.

    All rows are checked first, in every process. In memory is whose they are: some 16 bytes per row, and the ids of
    the clients of this process. Texts are read again whenever `items` passes them.

    *What crosses to other processes of the group* (`processes.Group`): the number of rows and of clients, and the sum
    of hashes of all ids under a random key, by which processes see that they hold the same clients. The hash of an id
    also says which process its client belongs to, with all of its rows. So a client is in one process only, wherever
    its rows lie.

    Args:
        private (`datasets.Dataset`): The private rows.
        config (`PrivateEvolutionConfig`): Names of the columns, and the labels.
        group (`Group`, *optional*): The processes among which clients are divided.

    Raises:
        ValueError: A column is missing, rows are not whole, have no client or a label that is not public, a transform
            could mix the rows of clients, or the processes hold different rows.
        TypeError: `private` is not a `Dataset`, or rows of the text column are not strings.
    """

    def __init__(self, private: "Dataset", config: PrivateEvolutionConfig, group: Group = ALONE) -> None:
        _check_is_whole(private)
        self._form = form_of(config)
        for name in self._form.source:
            _columns(private, "text_column", name)
        clients = _columns(private, "client_column", config.client_column, _WHOSE)
        self._texts = Columns(private, self._form.source)
        has_text = self._check_rows()
        of_row, ids = _read_ids(clients, config.client_column)
        check_clients(ids.all(), config.client_column)
        is_own = _ranks(group, len(private), ids) == group.rank
        self._labels = None
        if config.labels:
            labels = read_labels("private", private, str(config.label_column), config.label_names)
            self._labels = np.array(labels, dtype=np.int32)
        if not has_text.all():
            tell_owner("`private` has blank texts. They are left out.")
        self.num_clients = len(ids)
        """Number of clients of all processes."""
        self.has_text = bool(has_text.any())
        """Whether any row of any client has a text."""
        self._ids = ids.select(np.flatnonzero(is_own))
        own = np.flatnonzero(has_text & is_own[of_row])
        number = (np.cumsum(is_own) - 1)[of_row[own]]
        self._rows = own[np.argsort(number, kind="stable")]
        self._ends = np.cumsum(np.bincount(number, minlength=len(self._ids)))

    def __len__(self) -> int:
        """Number of clients of this process."""
        return len(self._ids)

    @property
    def sizes(self) -> np.ndarray:
        """Number of samples of each client of this process."""
        return np.diff(self._ends, prepend=0)

    def items(self) -> Iterator[tuple[object, list[Any]]]:
        """Yield each client of this process, and its samples in the order of their rows."""
        first = 0
        while first < len(self):
            start = self._ends[first - 1] if first else 0
            last = max(first + 1, int(np.searchsorted(self._ends, start + ROWS_AT_ONCE, side="right")))
            last = min(last, first + ROWS_AT_ONCE)
            samples = self._read(self._rows[start : self._ends[last - 1]])
            at = 0
            for client, end in zip(self._ids.between(first, last), self._ends[first:last] - start, strict=True):
                yield client, samples[at:end]
                at = end
            first = last

    def _read(self, rows: np.ndarray) -> list[Any]:
        # Rows that follow each other are one piece of the file.
        follow = len(rows) > 0 and bool((np.diff(rows) == 1).all())
        columns = self._texts.read(slice(int(rows[0]), int(rows[-1]) + 1) if follow else rows.tolist())
        texts = [self._form.read(row) for row in zip(*columns, strict=True)]
        return texts if self._labels is None else list(map(LabeledText, texts, self._labels[rows].tolist()))

    def _check_rows(self) -> np.ndarray:
        """Check all rows, and return which of them have a text that is not blank."""

        def rows() -> Iterator[tuple[Any, ...]]:
            for start in range(0, len(self._texts), ROWS_AT_ONCE):
                columns = self._texts.read(slice(start, start + ROWS_AT_ONCE))
                if isinstance(self._form, Plain) and not all(isinstance(text, str) for text in columns[0]):
                    raise TypeError(
                        f"`private` has rows in column {self._form.column!r} that are not strings. Drop or convert "
                        "them."
                    )
                yield from zip(*columns, strict=True)

        texts = each_text("private", self._form, rows())
        return np.fromiter((bool(text.strip()) for text in texts), dtype=bool)


def group_by_client(private: "Dataset", config: PrivateEvolutionConfig) -> dict[object, list[Any]]:
    """Group the samples that are not blank: texts, or with `config.labels` texts with their labels.

    A client with blank texts only is still a client, which contributes zero.

    Raises:
        ValueError: See `PrivateRows`, which reads the rows.
        TypeError: `private` is not a `Dataset`, or rows of the text column are not strings.
    """
    return dict(PrivateRows(private, config).items())


def _check_is_whole(private: "Dataset") -> None:
    from datasets import Dataset

    if not isinstance(private, Dataset):
        raise TypeError(
            f"`private` of type {type(private).__name__} must be one `datasets.Dataset`: take a split of a "
            "`DatasetDict`, such as `private['train']`. `Dataset.from_pandas` or `Dataset.from_list` makes one, also "
            "of a stream: `Dataset.from_list(list(stream))`."
        )
    if has_transform(private):
        raise ValueError(
            "`private` has a transform (`with_transform`). It sees rows of several clients at a time, and could mix "
            "them. Apply it to each row alone, in memory, and give the result: `private.with_format(None).map("
            "transform, batched=True, batch_size=1, keep_in_memory=True)`. Or leave it out: "
            "`private.with_format(None)`."
        )


_WHOSE = (
    " The guarantee is per client, so every row needs to say whose it is. Set `client_column` to the column that "
    "does. If each row really is a different person's, say so: "
    "`private.add_column({name!r}, list(range(len(private))))`."
)


def _columns(private: "Dataset", argument: str, name: str, fix: str = "") -> Columns:
    try:
        return Columns(private, [name])
    except MissingColumnError:
        pass
    # Raised out here, so that the other error, which names columns, stays behind.
    names = shown_names(private.column_names)
    raise ValueError(f"`{argument}`={name!r} is not a column of `private`, which has {names}.{fix.format(name=name)}")


def _read_ids(column: Columns, name: str) -> tuple[np.ndarray, Ids]:
    """Read the ids. The first value is the number of each row's client, in the order of their first rows."""
    found = column.encoded()
    if found is not None:
        return found[0], Ids(found[1])
    numbers: dict[object, int] = {}

    def number(client: object) -> int:
        check_one_value(client, name)
        return numbers.setdefault(client, len(numbers))

    parts = (column.read(slice(start, start + ROWS_AT_ONCE))[0] for start in range(0, len(column), ROWS_AT_ONCE))
    of_row = np.fromiter((number(client) for part in parts for client in part), dtype=np.int64)
    return of_row, Ids(list(numbers))


def _ranks(group: Group, num_rows: int, ids: Ids) -> np.ndarray:
    """Return which process each client belongs to, by a hash of its id, in whatever order the rows are.

    Processes that hold other rows are refused: one client could be in two of them, or in none.
    """
    if group.size == 1:
        return np.zeros(len(ids), dtype=np.int64)
    # Of the main process, so that all hashes have one key, and say nothing without it.
    key = group.gather(urandom(32))[0]
    words = (repr(client).encode("utf-8", "surrogatepass") for client in ids.all())
    hashes = np.fromiter(
        (int.from_bytes(blake2b(each, digest_size=8, key=key).digest(), "big") for each in words), dtype=np.uint64
    )
    if len(set(group.gather((num_rows, len(ids), int(hashes.sum()))))) > 1:
        raise ValueError(
            f"`private` is not the same dataset in all {group.size} processes: the rows or their clients differ. Give "
            "each process the whole dataset, such as a folder of `save_to_disk`, or give None to all but the main one."
        )
    return (hashes % np.uint64(group.size)).astype(np.int64)
