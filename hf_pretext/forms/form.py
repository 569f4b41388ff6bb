"""What a form does, and rows as texts."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from datasets import Dataset

Row = tuple[Any, ...]
"""The values of a row, in the order of the columns of its form."""


class Form(Protocol):
    """What a row is.

    Attributes:
        source (`tuple` of `str`): Columns that rows are read from, in the private and in the public dataset.
        columns (`tuple` of `str`): The same columns as the synthetic dataset calls them.
        beginning (`str`): What every text begins with. It may be empty.
        has_lines (`bool`): Whether every text has several lines.
        pieces (`tuple` of `tuple`):
            How a text can be written piece by piece: for each piece the words that stand before it, and what ends it,
            which is None for the end of the text.
        name (`str`): What errors call a row.
        layout (`str`): What a text looks like, for errors.
    """

    @property
    def source(self) -> tuple[str, ...]:
        """Columns that rows are read from."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the synthetic dataset."""
        ...

    @property
    def beginning(self) -> str:
        """What every text begins with."""
        ...

    @property
    def has_lines(self) -> bool:
        """Whether every text has several lines."""
        ...

    @property
    def pieces(self) -> tuple[tuple[str, str | None], ...]:
        """How a text can be written piece by piece."""
        ...

    @property
    def name(self) -> str:
        """What errors call a row."""
        ...

    @property
    def layout(self) -> str:
        """What a text looks like, for errors."""
        ...

    def problem(self, row: Row) -> str | None:
        """Say what is wrong with a row, quoting nothing of it, or return None if it can be written as a text."""
        ...

    def read(self, row: Row) -> str:
        """Write a row as a text. It is empty if the row holds nothing."""
        ...

    def parse(self, text: str) -> Row | None:
        """Read a row from a text, or return None if the text is broken."""
        ...

    def features(self) -> dict[str, Any]:
        """Return the features of the columns, for `datasets.Features`."""
        ...


def each_text(argument: str, form: Form, rows: Iterable[Row]) -> Iterator[str]:
    """Write rows as texts, one after another.

    It may read private rows. *Released*: nothing. The error goes to the owner of the data, at the console of the
    trusted side.

    Args:
        argument (`str`): What the rows were given as, for the message.
        form (`Form`): What a row is.
        rows (`Iterable` of `tuple`): The values of each row.

    Raises:
        ValueError: At the end, if rows are broken. The message has their number and the first of them, and quotes
            nothing.
    """
    first, num_broken = None, 0
    for number, row in enumerate(rows):
        problem = form.problem(row)
        if problem is None:
            yield form.read(row)
        else:
            first, num_broken = first or (number, problem), num_broken + 1
    if first is not None:
        number, problem = first
        many = "1 row that is" if num_broken == 1 else f"{num_broken} rows that are"
        raise ValueError(
            f"`{argument}` has {many} not a whole {form.name}, such as row {number}: {problem}. Mend or drop such "
            "rows."
        )


def read_rows(argument: str, form: Form, rows: Iterable[Row]) -> list[str]:
    """Write rows as texts. See `each_text`."""
    return list(each_text(argument, form, rows))


def texts_in(dataset: "Dataset", form: Form) -> list[str]:
    """Write the rows of a synthetic dataset, or of seeds, as texts."""
    plain = dataset.with_format(None)
    return read_rows("dataset", form, zip(*(plain[name] for name in form.columns), strict=True))
