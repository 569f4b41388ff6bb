"""Rows of public datasets as texts, and texts as rows of datasets."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cleaning import valid_unicode
from ..forms import Form, Plain, mended, read_rows
from .reading import read_dataset
from .texts import list_texts

if TYPE_CHECKING:
    from datasets import Dataset


def read_form(path: str | Path, form: Form, client_column: str | None = None) -> "Dataset":
    """Read the columns of a form, and whose rows they are, from a local file or folder. See `read_dataset`."""
    if isinstance(form, Plain):
        return read_dataset(path, form.column, client_column)
    return read_dataset(path, None, client_column, other_columns=form.source)


def list_rows(
    source: "Dataset | Sequence[str]", form: Form, argument: str, columns: Sequence[str] | None = None
) -> list[str]:
    """List public rows, or texts, as texts of a form.

    Args:
        source (`datasets.Dataset` or `Sequence[str]`): A dataset with the columns of the form, or texts.
        form (`Form`): What a row is.
        argument (`str`): What errors call `source`.
        columns (`Sequence[str]`, *optional*): Columns of the dataset, by default those that rows are read from.

    Returns:
        `list` of `str`: The texts. Those of blank rows are empty.

    Raises:
        ValueError: The dataset lacks a column, or rows or texts are broken. The message has the number of the first.
        TypeError: Some texts are not strings.
    """
    from datasets import Dataset

    names = form.source if columns is None else tuple(columns)
    if isinstance(form, Plain):
        return list_texts(source, names[0], argument)
    if isinstance(source, Dataset):
        lacking = [name for name in names if name not in source.column_names]
        if lacking:
            raise ValueError(f"`{argument}` has no column {lacking[0]!r}, but {source.column_names}.")
        plain = source.with_format(None)
        texts = read_rows(argument, form, zip(*(plain[name] for name in names), strict=True))
        texts = list(map(valid_unicode, texts))
    else:
        texts = list_texts(source, "", argument)
    whole = [mended(form, text) for text in texts]
    broken = [index for index, text in enumerate(whole) if not text and texts[index].strip()]
    if broken:
        raise ValueError(
            f"`{argument}` has {len(broken)} rows, such as row {broken[0]}, that are not a whole {form.name}. Mend or "
            f"drop them. A text that stands for a {form.name} looks like this: {form.layout}."
        )
    return whole


def as_rows(form: Form, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Turn the `text` of each row into the columns of its form. Other columns stay as they are."""
    return [{**columns_of(form, row["text"]), **{k: v for k, v in row.items() if k != "text"}} for row in rows]


def columns_of(form: Form, text: str) -> dict[str, Any]:
    """Return the columns of a text that is whole."""
    row = form.parse(text)
    assert row is not None  # It was looked at before it was kept.
    return dict(zip(form.columns, row, strict=True))
