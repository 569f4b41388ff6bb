"""Reading of datasets and lists of texts, without a copy in any cache."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

READERS = {
    ".csv": "read_csv",
    ".json": "read_json",
    ".jsonl": "read_json",
    ".parquet": "read_parquet",
}


def read_dataset(path: str | Path) -> "Dataset":
    """Read a dataset from a local file or folder.

    `datasets.load_dataset` copies what it reads into the cache of the Hugging Face libraries; private text must not
    come to lie there.

    Args:
        path (`str` or `Path`): A `.csv`, `.json`, `.jsonl` or `.parquet` file, or a folder of `Dataset.save_to_disk`.

    Returns:
        `datasets.Dataset`: The rows; from a file in memory, from a folder mapped to where they lie.

    Raises:
        FileNotFoundError: There is nothing at `path`.
        ValueError: The file is of another type.
    """
    from datasets import Dataset, load_from_disk

    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file or folder {str(path)!r}.")
    if path.is_dir():
        return load_from_disk(str(path))
    if path.suffix not in READERS:
        raise ValueError(f"{str(path)!r} must be a folder of `save_to_disk` or end in one of {sorted(READERS)}.")
    import pandas

    options = {"lines": True} if path.suffix == ".jsonl" else {}
    frame = getattr(pandas, READERS[path.suffix])(path, **options)
    return Dataset.from_pandas(frame, preserve_index=False)


def list_texts(source: "Dataset | Sequence[str]", column: str, argument: str) -> list[str]:
    """List public texts.

    Args:
        source (`datasets.Dataset` or `Sequence[str]`): The texts, or a dataset with a column of them.
        column (`str`): Name of that column.
        argument (`str`): What errors call `source`.

    Raises:
        ValueError: The dataset has no such column.
        TypeError: Some texts are not strings, or `source` is one string.
    """
    columns = getattr(source, "column_names", None)
    if columns is not None and column not in columns:
        raise ValueError(f"`{argument}` has no column {column!r} of texts, but {list(columns)}.")
    if isinstance(source, str):
        raise TypeError(f"`{argument}` is one string; give a list of texts or a dataset.")
    rows: Any = source
    texts = list(rows if columns is None else rows[column])
    wrong = sorted({type(text).__name__ for text in texts if not isinstance(text, str)})
    if wrong:
        raise TypeError(f"`{argument}` must hold strings only, but some are of type {', '.join(wrong)}.")
    return texts
