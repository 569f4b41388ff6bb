"""Rows of public datasets as texts, and texts as rows of datasets."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..cleaning import valid_unicode
from ..configuration import PrivateEvolutionConfig
from ..forms import Form, Plain, form_of, mended, read_rows
from .columns import MissingColumnError, shown_names, value_at, values_of
from .labels import class_labels
from .texts import draw_texts, list_texts

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
    if isinstance(form, Plain):
        return draw_texts(source, form.column, argument, number, seed)

    def texts() -> Iterator[str]:
        for index, row in enumerate(source):
            try:
                values = tuple(value_at(row, name) for name in form.source)
            except MissingColumnError as error:
                raise ValueError(f"`{argument}` has no column {error.name!r} in row {index}.") from None
            text = "" if form.problem(values) else valid_unicode(form.read(values))
            whole = mended(form, text)
            if form.problem(values) or (text.strip() and not whole):
                raise ValueError(f"`{argument}` has a row that is not a whole {form.name}: row {index}.")
            yield whole

    return draw_texts(texts(), "", argument, number, seed)


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
