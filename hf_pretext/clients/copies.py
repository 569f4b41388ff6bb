"""Public texts that are private ones: refused or warned of, where the private text is."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..data.columns import Columns, MissingColumnError, has_transform, value_at, values_of
from ..forms import Form, Row
from ..processes import is_main_process
from .guard import tell_owner
from .rows import ROWS_AT_ONCE

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

NUM_COMPARED = 1000
"""Texts of a stream that are compared. If it is a stream of the private texts, these are private ones too."""


def check_public_texts(private: Any, public: "Dataset | IterableDataset | Sequence[str]", form: Form) -> None:
    """Refuse public texts that are the private dataset itself, and warn if most of them are in it word for word.

    Of records and conversations, the longest column or turn is what is looked for.

    This reads private text, and so only in the process that holds it. *Released*: nothing. The warning goes to the
    owner of the private text, at the console of the trusted side. It says neither which texts nor how many they are,
    and nothing else depends on whether it was given. In a federation no one has both sides, and nothing is compared.

    Args:
        private (`Any`): What was given as private texts. Anything but a dataset of such rows is not compared.
        public (`datasets.Dataset`, `datasets.IterableDataset` or `Sequence[str]`):
            Public texts. Of a stream, the first are compared.
        form (`Form`): What a row is, in both.

    Raises:
        ValueError: They are the same object.
    """
    from datasets import Dataset, IterableDataset

    if public is private:
        raise ValueError("`initial_population` is the private dataset itself, whose texts would be published.")
    if not (is_main_process() and isinstance(private, Dataset)) or has_transform(private):
        return
    rows: Any = public.take(NUM_COMPARED) if isinstance(public, IterableDataset) else public
    try:
        others = set(_what_is_said(rows, form))
        found = {each for each in _what_is_said(private, form) if each in others}
    except MissingColumnError:
        return
    if 2 * len(found) > len(others):
        tell_owner(
            "Most texts of `initial_population` are in `private` too, word for word. The initial population is "
            "published as it is, and the guarantee does not cover it. Take public texts from elsewhere, or describe "
            "them by `config.domain`. (This warning was made from private text. Do not pass it on.)",
            stacklevel=5,
        )


def _what_is_said(source: Any, form: Form) -> Iterator[str]:
    """Yield what each row says, a few rows in memory at a time."""
    from datasets import Dataset, IterableDataset

    texts = source
    if isinstance(source, Dataset) and has_transform(source):
        texts = _texts(zip(*(values_of(source, name) for name in form.source), strict=True), form)
    elif isinstance(source, Dataset):
        columns = Columns(source, form.source)
        parts = (columns.read(slice(start, start + ROWS_AT_ONCE)) for start in range(0, len(source), ROWS_AT_ONCE))
        texts = _texts((row for part in parts for row in zip(*part, strict=True)), form)
    elif isinstance(source, IterableDataset):
        texts = _texts((tuple(value_at(row, name) for name in form.source) for row in source), form)
    for text in texts:
        # As it would be published, without what is cut off.
        row = form.parse(text) if isinstance(text, str) else None
        if row is not None and (part := _longest_part(row).strip()):
            yield part


def _texts(rows: Iterable[Row], form: Form) -> Iterator[str]:
    return (form.read(row) for row in rows if form.problem(row) is None)


def _longest_part(row: Row) -> str:
    """Return the longest column of a record, or turn of a conversation. What was changed beside it hides no text."""
    (first, *others) = row
    parts = [turn["content"] for turn in first] if isinstance(first, list) else [first, *others]
    return max(parts, key=len, default="")
