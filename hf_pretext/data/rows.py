"""Rows of public datasets as texts, and texts as rows of datasets."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..cleaning import valid_unicode
from ..configuration import PrivateEvolutionConfig
from ..forms import Form, Plain, form_of, mended, read_rows
from .columns import MissingColumnError, each_of, has_transform, roots_of, shown_names, value_at, values_of
from .labels import class_labels
from .texts import check_source, draw_texts, each_text, list_texts

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


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
        try:
            columns_of_rows = [values_of(source, name) for name in names]
        except MissingColumnError as error:
            raise ValueError(
                f"`{argument}` has no column {error.name!r}, but {shown_names(source.column_names)}."
            ) from None
        texts = list(map(valid_unicode, read_rows(argument, form, zip(*columns_of_rows, strict=True))))
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


def draw_rows(source: "IterableDataset", form: Form, argument: str, number: int, seed: int) -> list[str]:
    """Draw different rows of a stream at random, as texts. See `draw_texts`.

    Raises:
        ValueError: The stream lacks a column, or a row is broken. The message has its number.
        TypeError: Some texts are not strings.
    """
    column = form.column if isinstance(form, Plain) else ""
    return draw_texts(each_row(source, form, argument), column, argument, number, seed)


def each_row(source: "Dataset | IterableDataset | Iterable[Any]", form: Form, argument: str) -> Iterator[str]:
    """Yield public rows as texts, one after another. No more of them are in memory than a batch of a dataset.

    Args:
        source (`datasets.Dataset`, `datasets.IterableDataset` or `Iterable`): Rows, or texts.
        form (`Form`): What a row is.
        argument (`str`): What errors call `source`.

    Raises:
        ValueError: Rows lack a column, or a row is broken. The message has its number.
        TypeError: Some texts are not strings, or `source` is not what texts are read from.
    """
    from datasets import Dataset

    check_source(source, argument)
    if isinstance(source, Dataset):
        names = [] if has_transform(source) else roots_of(form.source, source.column_names)
        source = each_of(source.select_columns(names) if names else source)
    if isinstance(form, Plain):
        yield from each_text(source, form.column, argument)
        return
    for index, row in enumerate(source):
        if isinstance(row, Mapping):
            try:
                values = tuple(value_at(row, name) for name in form.source)
            except MissingColumnError as error:
                raise ValueError(f"`{argument}` has no column {error.name!r} in row {index}.") from None
            is_broken = form.problem(values) is not None
            text = "" if is_broken else valid_unicode(form.read(values))
        else:
            (text,), is_broken = list_texts([row], "", argument), False
        whole = mended(form, text)
        if is_broken or (text.strip() and not whole):
            raise ValueError(f"`{argument}` has a row that is not a whole {form.name}: row {index}.")
        yield whole


def first_rows(
    source: "Dataset | IterableDataset | Sequence[str]", form: Form, argument: str, number: int
) -> list[str]:
    """List the first public rows, as texts. All are checked, except of a stream. See `list_rows`."""
    from datasets import IterableDataset

    if isinstance(source, IterableDataset):
        return draw_rows(source.take(number), form, argument, number, 0)
    return list_rows(source, form, argument)[:number]


def as_rows(form: Form, rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Turn the `text` of each row into the columns of its form. Other columns stay as they are."""
    return ({**columns_of(form, row["text"]), **{k: v for k, v in row.items() if k != "text"}} for row in rows)


def output_features(config: PrivateEvolutionConfig) -> dict[str, Any]:
    """Return the features of the columns of the synthetic dataset (`config.output_columns`)."""
    return {**form_of(config).features(), **class_labels(config)}


def columns_of(form: Form, text: str) -> dict[str, Any]:
    """Return the columns of a text that is whole."""
    row = form.parse(text)
    assert row is not None  # It was looked at before it was kept.
    return dict(zip(form.columns, row, strict=True))
