"""What a run's file can name: a local file or folder, a dataset repository of the Hub, or a database."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..forms import Form, Plain
from .database import read_sql
from .formats import SUFFIXES
from .reading import parquet_files, read_dataset, splits_of, stream_files
from .repository import read_repository

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
# Windows has drives of one letter.
_SCHEME = re.compile(r"[\w+.-]{2,}:")


def read_private(
    source: str,
    text_column: str | Sequence[str] | None,
    client_column: str,
    *,
    other_columns: Sequence[str] = (),
    split: str | None = None,
    query: str | None = None,
) -> "Dataset":
    """Read private texts into memory, or from a folder of `save_to_disk`. Nothing of them is cached on a disk.

    Args:
        source (`str`):
            A local file or folder (`read_dataset`), a repository of the Hub (`read_repository`), or the URL of a
            database (`read_sql`).
        text_column (`str` or `Sequence[str]`, *optional*): Column of texts.
        client_column (`str`): Column of client ids.
        other_columns (`Sequence[str]`, *optional*): Other columns. Numbers of files and databases become strings.
        split (`str`, *optional*): Split of a folder or repository. `"train"` of a repository.
        query (`str`, *optional*): Query of a database.

    Raises:
        FileNotFoundError: There is nothing of that name.
        ValueError: It cannot be read.
        TypeError: Some texts are not strings.
    """
    if is_database(source):
        if split is not None:
            raise ValueError(f"A database has no splits: leave `split`={split!r} out, and let `query` choose rows.")
        return read_sql(source, query or "", text_column, client_column, other_columns=other_columns)
    if query is not None:
        raise ValueError("`query` is for a database, whose URL begins like 'postgresql+psycopg://'. Leave it out.")
    if is_repository(source):
        chosen = split or "train"
        return read_repository(source, text_column, client_column, other_columns=other_columns, split=chosen)
    return read_dataset(source, text_column, client_column, other_columns=other_columns, split=split)


def read_public(
    source: str,
    text_column: str | None,
    *,
    other_columns: Sequence[str] = (),
    label_column: str | None = None,
    name: str | None = None,
    split: str | None = None,
) -> "Dataset | IterableDataset":
    """Read public texts from a local file or folder, or stream them from a repository of the Hub.

    Args:
        source (`str`): A local file or folder, or a repository of the Hub.
        text_column (`str`, *optional*): Column of texts.
        other_columns (`Sequence[str]`, *optional*): Other columns. Numbers of files and databases become strings.
        label_column (`str`, *optional*): Column of labels, which is read if all rows have it.
        name (`str`, *optional*): Configuration of a repository, such as `"en"` of `allenai/c4`.
        split (`str`, *optional*): Split of a folder or repository. `"train"` of a repository.

    Raises:
        FileNotFoundError: There is nothing of that name.
        ValueError: It cannot be read, or is not public.
    """
    if is_database(source):
        raise ValueError("A database (its URL is not shown) is for private texts. Give public ones as a file.")
    if not is_repository(source):
        if name is not None:
            raise ValueError(f"`name`={name!r} is for a repository of the Hub, which {source!r} is not. Leave it out.")
        if label_column is not None:
            try:
                return read_dataset(source, text_column, other_columns=[*other_columns, label_column], split=split)
            except ValueError:
                pass  # If the labels are not what is missing, the error comes again.
        return read_dataset(source, text_column, other_columns=other_columns, split=split)
    from datasets import load_dataset

    try:
        return load_dataset(source, name, split=split or "train", streaming=True)
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"{source!r} is neither a file, a folder, nor a dataset repository of the Hub that can be read: {error}"
        ) from error


def stream_public(
    source: str, form: Form, *, name: str | None = None, split: str | None = None
) -> "Dataset | IterableDataset | Iterator[dict[str, Any]]":
    """Stream public rows from a repository of the Hub or a local file, so that memory does not grow with their number.

    A `.jsonl` or `.parquet` file is read row by row, and so is a folder of `.parquet` files. A folder of
    `save_to_disk` stays on the disk. Files of other types are read into memory.

    Args:
        source (`str`): A local file or folder, or a repository of the Hub.
        form (`Form`): What a row is.
        name (`str`, *optional*): Configuration of a repository.
        split (`str`, *optional*): Split of a folder or repository. `"train"` of a repository.

    Raises:
        FileNotFoundError: There is nothing of that name.
        ValueError: It cannot be read, or is not public.
    """
    path = Path(source)
    if path.is_file() and path.suffix in (".jsonl", ".parquet") and name is None and split is None:
        return stream_files([path], form.source)
    if path.is_dir() and not splits_of(path) and name is None and split is None and (files := parquet_files(path)):
        return stream_files(files, form.source)
    columns = (form.column, ()) if isinstance(form, Plain) else (None, form.source)
    return read_public(source, columns[0], other_columns=columns[1], name=name, split=split)


def is_database(source: str) -> bool:
    """Return whether this is the URL of a database, or looks like one, whose password must not be shown."""
    return _SCHEME.match(source) is not None and not os.path.exists(source)


def is_repository(source: str) -> bool:
    """Return whether this is the name of a repository, and of no local file or folder."""
    is_name = _REPOSITORY.fullmatch(source) is not None and not source.endswith(SUFFIXES)
    return is_name and not os.path.exists(source)
