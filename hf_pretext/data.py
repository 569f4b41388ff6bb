"""Reading of datasets and lists of texts, without a copy in any cache."""

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from .cleaning import valid_unicode

if TYPE_CHECKING:
    from datasets import Dataset

SUFFIXES = (".csv", ".json", ".jsonl", ".parquet")


def read_dataset(path: str | Path, text_column: str, client_column: str | None = None) -> "Dataset":
    """Read texts, and whose they are, from a local file or folder.

    `datasets.load_dataset` copies what it reads into the cache of the Hugging Face libraries, where private text must
    not be. And each value is read independently: a reader that infers a column's type from all rows would let one
    client's row change how the ids of the others are read.

    Args:
        path (`str` or `Path`): A `.csv`, `.json`, `.jsonl` or `.parquet` file, or a folder of `Dataset.save_to_disk`.
        text_column (`str`): Column of texts. A lone surrogate in them becomes a question mark.
        client_column (`str`, *optional*): Column of client ids, for private texts. They are read as strings.

    Returns:
        `datasets.Dataset`: These columns (`str`). In memory if they are from a file, mapped to the disk if they are
        from a folder.

    Raises:
        FileNotFoundError: There is nothing at `path`.
        ValueError: The file is of another type, cannot be read, or lacks a column. A row of a `.csv` has too many or
            too few fields, or a stray quotation mark: the message has the number of its line.
        TypeError: Some texts are not strings.
    """
    from datasets import Dataset

    path = Path(path)
    # Unlike `Path.exists`, this accepts every name. A name that no file system allows is the name of nothing.
    if not os.path.exists(path):
        raise FileNotFoundError(f"There is no file or folder {str(path)!r}.")
    columns = [text_column] if client_column is None else [text_column, client_column]
    if path.is_dir():
        return _read_folder(path, columns)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{str(path)!r} must be a folder of `save_to_disk` or end in one of {list(SUFFIXES)}.")
    rows = _read_rows(path)
    for role, column in zip(("text_column", "client_column"), columns, strict=False):
        if any(column not in row for row in rows):
            # The names are not shown: if a file has no header, they are its first text.
            raise ValueError(
                f"{str(path)!r} has rows without the column {column!r}. Set `{role}` to the name of the column that "
                "all rows have. The first line of a .csv must hold the names."
            )
    if not all(isinstance(row[text_column], str) for row in rows):
        raise TypeError(
            f"{str(path)!r} has rows in column {text_column!r} that are not strings. Drop or convert them."
        )
    texts = {text_column: [valid_unicode(row[text_column]) for row in rows]}
    if client_column is None:
        return Dataset.from_dict(texts)
    return Dataset.from_dict({**texts, client_column: [_read_id(row[client_column]) for row in rows]})


def read_texts(
    name: str | Path,
    text_column: str,
    client_column: str | None = None,
    *,
    split: str = "train",
    revision: str | None = None,
) -> "Dataset":
    """Read texts from a local file or folder, as `read_dataset` does, or from a dataset repository of the Hub.

    Args:
        name (`str` or `Path`): Path, or name of a repository.
        text_column (`str`): Column of texts.
        client_column (`str`, *optional*): Column of client ids.
        split (`str`, *optional*, defaults to `"train"`): Split of the repository.
        revision (`str`, *optional*): Branch, tag or commit of the repository.

    Raises:
        FileNotFoundError: There is neither a file nor a repository of that name.
        ValueError: It cannot be read, or lacks a column.
    """
    if os.path.exists(name):
        return read_dataset(name, text_column, client_column)
    dataset = open_dataset(name, split=split, revision=revision)
    for column in (text_column, client_column):
        if column is not None and column not in dataset.column_names:
            raise ValueError(f"{str(name)!r} has no column {column!r}, but {dataset.column_names}.")
    return dataset


def open_dataset(name: str | Path, *, split: str = "train", revision: str | None = None) -> "Dataset":
    """Open a folder of `save_to_disk`, or a dataset repository of the Hub, with all of its columns.

    Args:
        name (`str` or `Path`): Path, or name of a repository.
        split (`str`, *optional*, defaults to `"train"`): Split of the repository.
        revision (`str`, *optional*): Branch, tag or commit of the repository.

    Raises:
        FileNotFoundError: There is neither a folder nor a repository of that name.
        ValueError: It cannot be read.
    """
    if os.path.exists(name):
        return _read_folder(Path(name), [])
    from datasets import load_dataset

    try:
        return load_dataset(str(name), split=split, revision=revision)
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"{str(name)!r} is neither a file, a folder, nor a dataset repository of the Hub that can be read: {error}"
        ) from error


def _read_folder(path: Path, columns: Sequence[str]) -> "Dataset":
    from datasets import load_from_disk

    try:
        dataset = load_from_disk(str(path))
    except FileNotFoundError:
        raise
    except Exception:
        raise ValueError(f"{str(path)!r} cannot be read as a folder of `save_to_disk`.") from None
    for column in columns:
        if column not in dataset.column_names:
            raise ValueError(f"{str(path)!r} has no column {column!r}.")
    return dataset


def _read_id(value: Any) -> str | None:
    # NaN, which some programs write for a missing id, is not equal to itself.
    if value is None or value == "" or value != value:
        return None
    # Unlike a question mark, an escape keeps the ids of two clients apart, if backslashes are escaped as well.
    return str(value).replace("\\", "\\\\").encode("utf-8", "backslashreplace").decode()


def _read_rows(path: Path) -> list[dict[str, Any]]:
    try:
        return _parse(path)
    except MalformedError as error:
        trouble = str(error)
    except Exception:
        trouble = "It cannot be read. Is it one record per line or row?"
    # Raised out here, since what a parser says of a line, and its frames, may quote it.
    raise ValueError(f"{str(path)!r} is not valid {path.suffix}. {trouble}")


def _parse(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        import pyarrow.parquet

        # `read_table` would take a folder's name such as `client_id=5` for a column.
        return pyarrow.parquet.ParquetFile(path).read().to_pylist()
    # Some programs mark UTF-8 by a byte order mark, which is not part of the first column's name.
    with path.open(encoding="utf-8-sig", newline="") as file:
        if path.suffix == ".csv":
            return _read_csv(file)
        rows = json.load(file) if path.suffix == ".json" else [json.loads(line) for line in file if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError
    return list(rows)


class MalformedError(ValueError):
    """What is wrong with a file, where, and how to mend it. It quotes nothing of the file."""


def _read_csv(file: TextIO) -> list[dict[str, Any]]:
    """Read rows that have exactly the fields that the first line names.

    A comma or quotation mark that is not quoted moves a part of a text into the next column, or the next rows into a
    text. Rows would then count as other clients than they are, and the cap on samples per client would be void. So
    nothing is guessed.
    """
    limit = csv.field_size_limit(2**31 - 1)  # The standard library refuses texts of more than 128 KB.
    reader, start = csv.reader(file, strict=True), 1
    names: list[str] = []
    rows = []
    try:
        for row in reader:
            if not row:
                pass  # A blank line is no row.
            elif not names:
                names = row
            elif len(row) == len(names):
                rows.append(dict(zip(names, row, strict=True)))
            else:
                raise MalformedError(
                    f"The row that begins in line {start} has {len(row)} fields, but the first line names "
                    f"{len(names)} columns. A text with a comma in it needs quotation marks around it, and those in "
                    "it are doubled. Programs that write .csv do that, such as `pandas.DataFrame.to_csv`."
                )
            start = reader.line_num + 1
    except csv.Error:
        raise MalformedError(
            f"The row that begins in line {start} has a quotation mark that is not closed, or that text follows. A "
            "text that begins with a quotation mark needs others around it, and those in it are doubled. Programs "
            "that write .csv do that, such as `pandas.DataFrame.to_csv`."
        ) from None
    finally:
        csv.field_size_limit(limit)
    named = list(filter(None, names))
    if len(set(named)) < len(named):
        raise MalformedError("The first line names a column twice. Give each column a name of its own.")
    return rows


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
