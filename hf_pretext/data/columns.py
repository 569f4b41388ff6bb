"""Which columns of a dataset are read, and how: texts, client ids, and others, whose numbers become strings."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

from ..cleaning import valid_unicode
from ..settings import as_text, is_missing

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset

_KINDS_OF_IDS = (str, int, float, bytes, memoryview, Decimal, UUID, date, time, timedelta, list, dict)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,39}")


class MissingColumnError(ValueError):
    """A row lacks a column."""

    def __init__(self, name: str) -> None:
        super().__init__(f"There are rows without the column {name!r}.")
        self.name = name


@dataclass(frozen=True)
class WantedColumns:
    """The columns that are read.

    A name may be a path into nested fields: `"message.body"` is the field `body` of the column `message`. A column
    that is itself called `message.body` comes first.

    Args:
        texts (`tuple` of `str`): Columns of texts. Each value has to be a string.
        client (`str`, *optional*): Column of client ids, which are read as strings.
        others (`tuple` of `str`): Other columns, such as labels. Numbers of files and databases become strings.
    """

    texts: tuple[str, ...] = ()
    client: str | None = None
    others: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, text_column: "str | Sequence[str] | None", client_column: str | None, other_columns: Sequence[str] = ()
    ) -> "WantedColumns":
        """Make them from the arguments of a function that reads."""
        texts = [text_column] if isinstance(text_column, str) else list(text_column or ())
        return cls(tuple(texts), client_column, tuple(each for each in other_columns if each not in texts))

    @property
    def names(self) -> list[str]:
        """All of them, each once."""
        return list(dict.fromkeys([*self.texts, *([] if self.client is None else [self.client]), *self.others]))

    def role(self, name: str) -> str:
        """Name the argument that a column was given by, for errors."""
        if name in self.texts:
            return "text_column"
        return "client_column" if name == self.client else "other_columns"

    def without(self, source: str, name: str) -> str:
        """Say that a column is missing. The names of the others are not shown: without a header, they are a text."""
        return (
            f"{source} has rows without the column {name!r}. Set `{self.role(name)}` to the name of the column that "
            "all rows have. The first line of a .csv must hold the names."
        )

    def dataset(self, source: str, values: dict[str, list[Any]]) -> "Dataset":
        """Make a dataset of what `gather` returned, in memory.

        Each value is read independently of the other rows. One client's row must not change how those of the others
        are read. So numbers become strings: in a column of numbers, one 4.5 would make 5.0 of every 5.

        Args:
            source (`str`): What errors call the rows, such as the path of a file. Nothing else is quoted.
            values (`dict` of `str` to `list`): The values of each column.

        Raises:
            ValueError: An id is of a type that has no fixed form as a string.
            TypeError: Some texts are not strings, or the values of another column are of several types.
        """
        for name in self.texts:
            if not all(isinstance(text, str) for text in values[name]):
                raise TypeError(f"{source} has rows in column {name!r} that are not strings. Drop or convert them.")
        columns = {name: list(map(_valid, column)) for name, column in values.items()}
        for name in self.others:
            columns[name] = list(map(_number_as_text, columns[name]))
        if self.client is not None:
            if not all(is_id(value) for value in values[self.client]):
                raise ValueError(
                    f"{source} has ids in column {self.client!r} of a type that has no fixed form as a string. Set "
                    "`client_column` to a column of strings or numbers, or cast it to text."
                )
            columns[self.client] = list(map(read_id, values[self.client]))
        return _in_memory(source, columns)


def gather(rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> dict[str, list[Any]]:
    """Gather the values of columns.

    Raises:
        MissingColumnError: A row lacks a column.
    """
    values: dict[str, list[Any]] = {name: [] for name in names}
    for row in rows:
        for name, column in values.items():
            column.append(value_at(row, name))
    return values


def value_at(row: Mapping[str, Any], name: str) -> Any:
    """Return the value of a column, or of a field inside it if the name is a path.

    Raises:
        MissingColumnError: The row has no such column or field.
    """
    if name in row:
        return row[name]
    for dot in re.finditer(r"\.", name):
        inner = row.get(name[: dot.start()], row)
        if inner is None:
            return None  # A missing struct has missing fields.
        if inner is not row and isinstance(inner, Mapping):
            try:
                return value_at(inner, name[dot.end() :])
            except MissingColumnError:
                break
    raise MissingColumnError(name)


def roots_of(names: Iterable[str], columns: Sequence[str]) -> list[str]:
    """List the columns that hold what these names and paths lead to, as far as they exist."""
    paths = {name: [name, *(name[: dot.start()] for dot in re.finditer(r"\.", name))] for name in names}
    return [column for column in columns if any(column in each for each in paths.values())]


class Columns:
    """Some columns of a dataset, or fields inside them, that are read some rows at a time.

    A format such as `"numpy"` is left out, since it changes no text.

    Args:
        dataset (`datasets.Dataset`): The dataset. It has no transform.
        names (`Sequence[str]`): Names of columns, or paths into nested fields.

    Raises:
        MissingColumnError: There is no such column.
    """

    def __init__(self, dataset: "Dataset", names: Sequence[str]) -> None:
        plain = dataset.with_format(None)
        self._names = list(names)
        for name in names:
            if not roots_of([name], plain.column_names):
                raise MissingColumnError(name)
        self._data = plain.select_columns(roots_of(names, plain.column_names))
        self.read([0] if len(self) else [])

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._data)

    def read(self, rows: "slice | list[int]") -> list[list[Any]]:
        """Read the values of each column in these rows."""
        found: Any = self._data[rows] if rows != [] else {name: [] for name in self._names}
        if not all(name in found for name in self._names):
            found = gather(
                (dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)), self._names
            )
        return [found[name] for name in self._names]

    def encoded(self, batch_size: int = 2**16) -> "tuple[np.ndarray, pa.Array] | None":
        """Number the different values of one column of strings or whole numbers, in the order of their rows.

        Returns:
            `np.ndarray` of int64, the number of each row's value, and a `pyarrow.Array` of the values. None if the
            column is of another type, whose values Python and Arrow may compare in different ways.
        """
        import pyarrow as pa
        from datasets import Value

        (name,) = self._names
        feature = self._data.features.get(name)
        if not len(self) or not isinstance(feature, Value):
            return None
        is_text = feature.dtype in ("string", "large_string")
        if not is_text and not re.fullmatch(r"u?int\d+", feature.dtype):
            return None
        tables = self._data.with_format("arrow").iter(batch_size)
        column = pa.chunked_array([chunk for table in tables for chunk in table[name].chunks])
        if is_text:  # More than 2 GB of them fit into no array of short strings.
            column = column.cast(pa.large_string())
        found = column.dictionary_encode(null_encoding="encode").combine_chunks()
        return found.indices.to_numpy(zero_copy_only=False).astype("int64"), found.dictionary


def values_of(dataset: "Dataset", name: str) -> list[Any]:
    """Read a column of a dataset, or a field inside one.

    A format such as `"numpy"` is left out, since it changes no text. A transform (`with_transform`) is applied.

    Raises:
        MissingColumnError: There is no such column.
    """
    if has_transform(dataset):
        return gather(each_of(dataset), [name])[name]
    plain = dataset.with_format(None)
    if name in plain.column_names:
        return list(plain[name])
    roots = roots_of([name], plain.column_names)
    if not roots:
        raise MissingColumnError(name)
    return gather(plain.select_columns(roots), [name])[name]


def has_transform(dataset: "Dataset") -> bool:
    """Return whether a dataset has a transform, which makes other rows of several rows at a time."""
    return bool(dataset.format["type"] == "custom")


def each_of(dataset: "Dataset", batch_size: int = 1000) -> Iterator[dict[str, Any]]:
    """Yield the rows of a dataset, of which only a batch is in memory. A transform is applied, a format is not."""
    for batch in (dataset if has_transform(dataset) else dataset.with_format(None)).iter(batch_size):
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))


def is_id(value: Any) -> bool:
    """Return whether equal values read as equal strings. Of an object from a driver, this is not known."""
    return value is None or isinstance(value, _KINDS_OF_IDS)


def read_id(value: Any) -> str | None:
    """Read a client's id as a string. None if there is none."""
    if is_missing(value) or value == "":
        return None
    text = bytes(value).hex() if isinstance(value, (bytes, memoryview)) else str(value)
    # Unlike a question mark, an escape keeps the ids of two clients apart, if backslashes are escaped as well.
    return text.replace("\\", "\\\\").encode("utf-8", "backslashreplace").decode()


def shown_names(columns: Iterable[str]) -> str:
    """Show names of columns in an error, if all of them look like names.

    Without a header line, the first row of a file becomes the names, and that row may be private text.
    """
    names = list(columns)
    if all(isinstance(name, str) and _NAME.fullmatch(name) for name in names):
        return str(names)
    return f"{len(names)} others (not shown, since they do not look like names: is there a header line?)"


def _valid(value: Any) -> Any:
    """Write question marks for lone surrogates, wherever they are."""
    if isinstance(value, str):
        return valid_unicode(value)
    if isinstance(value, Mapping):
        return {_valid(key): _valid(each) for key, each in value.items()}
    return list(map(_valid, value)) if isinstance(value, list) else value


def _number_as_text(value: Any) -> Any:
    if is_missing(value):
        return None
    return as_text(value) if isinstance(value, (int, float, Decimal)) else value


def _in_memory(source: str, values: dict[str, list[Any]]) -> "Dataset":
    from datasets import Dataset

    try:
        return Dataset.from_dict(values)
    except Exception:
        pass
    # Raised out here, since what Arrow says of a value, and its frames, quote it.
    raise TypeError(f"{source} has columns whose rows are of several types. Give each column one type.")
