"""Reading of local files and folders, and of public dataset repositories of the Hub."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from .columns import MissingColumnError, WantedColumns, gather, roots_of, shown_names
from .formats import SUFFIXES, MalformedError, rows_of, stream_rows

if TYPE_CHECKING:
    from datasets import Dataset

_PART_OF_SPLIT = re.compile(r"(?P<split>\w+(?:\.\w+)*)-\d{5}-of-\d{5}(?:-\w+)?\.parquet")


def read_dataset(
    path: str | Path,
    text_column: str | Sequence[str] | None,
    client_column: str | None = None,
    *,
    other_columns: Sequence[str] = (),
    split: str | None = None,
) -> "Dataset":
    """Read texts, and whose they are, from a local file or folder.

    `datasets.load_dataset` copies what it reads into the cache of the Hugging Face libraries, where private text must
    not be. And each value is read independently: a reader that infers a column's type from all rows would let one
    client's row change how the ids of the others are read.

    A name may be a path into nested fields of JSON and Parquet: `"message.body"` is the field `body` of the column
    `message`. The dataset then has a column of that name.

    Args:
        path (`str` or `Path`):
            A `.csv`, `.json`, `.jsonl` or `.parquet` file, a folder of `.parquet` files, or a folder of
            `Dataset.save_to_disk` or `DatasetDict.save_to_disk`. Text files are in UTF-8, or say by a byte order mark
            what else they are in. Names of folders, such as `client_id=5`, are not read as columns.
        text_column (`str` or `Sequence[str]`, *optional*):
            Column of texts, or several. A lone surrogate in them becomes a question mark.
        client_column (`str`, *optional*): Column of client ids, for private texts. They are read as strings.
        other_columns (`Sequence[str]`, *optional*): Other columns. Numbers of files and databases become strings.
        split (`str`, *optional*): Split of a folder that has splits. It is needed if there are several.

    Returns:
        `datasets.Dataset`: These columns. In memory if they are from files, mapped to the disk if they are from a
        folder of `save_to_disk`.

    Raises:
        FileNotFoundError: There is nothing at `path`.
        ValueError: The file is of another type, cannot be read, or lacks a column. A row of a `.csv` has too many or
            too few fields, or a stray quotation mark: the message has the number of its line. Or there are several
            splits, which the message lists.
        TypeError: Some texts are not strings.
    """
    path = Path(path)
    wanted = WantedColumns.of(text_column, client_column, other_columns)
    # Unlike `Path.exists`, this accepts every name. A name that no file system allows is the name of nothing.
    if not os.path.exists(path):
        raise FileNotFoundError(f"There is no file or folder {str(path)!r}.")
    splits = splits_of(path)
    if split is None and len(splits) == 1:
        split = splits[0]
    if split not in splits and (splits or split is not None):
        raise ValueError(_which_split(path, splits, split))
    if not path.is_dir():
        if path.suffix not in SUFFIXES:
            raise ValueError(
                f"{str(path)!r} must be a folder of `save_to_disk` or of .parquet files, or end in one of "
                f"{list(SUFFIXES)}."
            )
        return _collect(str(path), [path], wanted)
    if _is_saved(path) or (path / "dataset_dict.json").is_file():
        return _read_saved(path if split is None else path / split, wanted)
    files = parquet_files(path)
    if split is not None:
        files = [each for each in files if split_of(each) == split]
    return _collect(str(path), files, wanted)


def read_texts(
    name: str | Path,
    text_column: str | Sequence[str] | None,
    client_column: str | None = None,
    *,
    other_columns: Sequence[str] = (),
    split: str = "train",
    revision: str | None = None,
    token: str | None = None,
) -> "Dataset":
    """Read texts from a local file or folder, as `read_dataset` does, or from a dataset repository of the Hub.

    A repository is copied into the cache of the Hugging Face libraries. For private ones, see `read_repository`.

    Args:
        name (`str` or `Path`): Path, or name of a repository.
        text_column (`str` or `Sequence[str]`, *optional*): Column of texts, or several.
        client_column (`str`, *optional*): Column of client ids.
        other_columns (`Sequence[str]`, *optional*): Other columns. Numbers of files and databases become strings.
        split (`str`, *optional*, defaults to `"train"`): Split of the repository, or of a folder that has splits.
        revision (`str`, *optional*): Branch, tag or commit of the repository.
        token (`str`, *optional*): Token of the Hub, by default that of a login.

    Raises:
        FileNotFoundError: There is neither a file nor a repository of that name.
        ValueError: It cannot be read, or lacks a column.
    """
    if os.path.exists(name):
        chosen = split if splits_of(Path(name)) else None
        return read_dataset(name, text_column, client_column, other_columns=other_columns, split=chosen)
    dataset = open_dataset(name, split=split, revision=revision, token=token)
    return with_columns(repr(str(name)), dataset, WantedColumns.of(text_column, client_column, other_columns))


def open_dataset(
    name: str | Path, *, split: str = "train", revision: str | None = None, token: str | None = None
) -> "Dataset":
    """Open a folder of `save_to_disk`, or a dataset repository of the Hub, with all of its columns.

    Args:
        name (`str` or `Path`): Path, or name of a repository.
        split (`str`, *optional*, defaults to `"train"`): Split of the repository, or of a folder that has splits.
        revision (`str`, *optional*): Branch, tag or commit of the repository.
        token (`str`, *optional*): Token of the Hub, by default that of a login.

    Raises:
        FileNotFoundError: There is neither a folder nor a repository of that name.
        ValueError: It cannot be read, or has no such split.
    """
    if os.path.exists(name):
        path = Path(name)
        splits = splits_of(path) if (path / "dataset_dict.json").is_file() else []
        if splits and split not in splits:
            raise ValueError(_which_split(path, splits, split))
        return _read_saved(path / split if splits else path, WantedColumns())
    from datasets import load_dataset

    try:
        return load_dataset(str(name), split=split, revision=revision, token=token)
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"{str(name)!r} is neither a file, a folder, nor a dataset repository of the Hub that can be read: {error}"
        ) from error


def splits_of(path: Path) -> list[str]:
    """List the splits of a local folder: of a `DatasetDict`, or of files as `push_to_hub` names them.

    A file or a folder of one dataset has none.
    """
    if not path.is_dir() or _is_saved(path):
        return []
    if (path / "dataset_dict.json").is_file():
        return sorted(each.name for each in path.iterdir() if each.is_dir() and _is_saved(each))
    splits = sorted({split for file in parquet_files(path) if (split := split_of(file))})
    return splits if len(splits) > 1 else []


def _which_split(path: Path, splits: list[str], split: str | None) -> str:
    if not splits:
        return f"{str(path)!r} has no splits, so there is no `split`={split!r} of it. Leave that out."
    if split is None:
        folder = path / splits[-1]
        other = f", or name its folder: {str(folder)!r}" if folder.is_dir() else ""
        return (
            f"{str(path)!r} holds the splits {splits}. Choose one by `split`, such as `split`={splits[-1]!r}{other}."
        )
    return f"`split`={split!r} is not a split of {str(path)!r}, which has {splits}."


def _is_saved(path: Path) -> bool:
    return (path / "state.json").is_file() and (path / "dataset_info.json").is_file()


def parquet_files(path: Path) -> list[Path]:
    """List the Parquet files of a folder and its folders. Programs hide what is not data by a first `_` or `.`."""
    files = (each.relative_to(path) for each in path.rglob("*.parquet") if each.is_file())
    return sorted(path / each for each in files if not any(part[0] in "._" for part in each.parts))


def stream_files(files: Sequence[Path], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of `.jsonl` or `.parquet` files, one after another.

    Args:
        files (`Sequence` of `Path`): The files.
        columns (`Sequence[str]`): Columns that are wanted. Others may be left out.

    Raises:
        ValueError: A file is not what its suffix says.
    """
    for path in files:
        try:
            with path.open("rb") as file:
                yield from stream_rows(file, path.suffix, columns)
        except MalformedError as error:
            raise ValueError(f"{str(path)!r} is not valid {path.suffix}. {error}") from None
        except ValueError as error:  # Of the decoder of UTF-8, or of Arrow.
            raise ValueError(f"{str(path)!r} cannot be read as {path.suffix}: {error}. Is it whole?") from None


def split_of(file: PurePosixPath | Path) -> str | None:
    """Return the split that a file's name says, as `push_to_hub` writes it."""
    match = _PART_OF_SPLIT.fullmatch(PurePosixPath(file).name)
    return match["split"] if match else None


def _collect(source: str, files: Sequence[Path], wanted: WantedColumns) -> "Dataset":
    """Read columns of files into memory."""
    if not files:
        raise ValueError(
            f"{source!r} is a folder, but not one of `save_to_disk`, and it has no .parquet files. Name a file, or "
            "save the dataset by `dataset.save_to_disk`."
        )

    def rows() -> Iterator[dict[str, Any]]:
        for path in files:
            with path.open("rb") as file:
                yield from rows_of(file, path.suffix, wanted.names)

    return collected(source, rows(), wanted, files[0].suffix)


def collected(source: str, rows: Iterator[dict[str, Any]], wanted: WantedColumns, suffix: str) -> "Dataset":
    """Collect the wanted columns, and say of a file that cannot be read only what may be said."""
    values, problem = None, ""
    try:
        values = gather(rows, wanted.names)
    except MissingColumnError as error:
        problem = wanted.without(repr(source), error.name)
    except MalformedError as error:
        problem = f"{source!r} is not valid {suffix}. {error}"
    except Exception as error:
        problem = f"{source!r} cannot be read as {suffix}, with the error {type(error).__name__}. Is it whole?"
    if values is None:
        # Raised out here, since what a parser says of a line, and its frames, may quote it.
        raise ValueError(problem)
    return wanted.dataset(repr(source), values)


def _read_saved(path: Path, wanted: WantedColumns) -> "Dataset":
    from datasets import load_from_disk

    dataset = None
    try:
        dataset = load_from_disk(str(path))
    except FileNotFoundError:
        raise
    except Exception:
        pass
    if dataset is None:
        raise ValueError(f"{str(path)!r} cannot be read as a folder of `save_to_disk`.")
    return with_columns(repr(str(path)), dataset, wanted)


def with_columns(source: str, dataset: "Dataset", wanted: WantedColumns) -> "Dataset":
    """Return a dataset as it is if it has the wanted columns, else read those that are nested into memory."""
    if set(wanted.names) <= set(dataset.column_names):
        return dataset
    columns = dataset.column_names
    missing = next((name for name in wanted.names if not roots_of([name], columns)), None)
    values: dict[str, list[Any]] = {}
    try:
        if missing is None:
            nested = dataset.with_format(None).select_columns(roots_of(wanted.names, columns))
            values = gather(nested, wanted.names)
    except MissingColumnError as error:
        missing = error.name
    if missing is not None:
        raise ValueError(f"{source} has no column {missing!r}, but {shown_names(columns)}.")
    return wanted.dataset(source, values)
