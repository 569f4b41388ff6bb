"""Records: rows of several columns, put together by a public template."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any

from ..settings import as_text, shortened
from .form import Row

_COLUMN = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class Record:
    r"""A row has several columns of text, which a template puts together.

    Reading finds the words between two columns at their first place. A value that has these words in it gets a
    backslash before them. A value that ends before them, or has them, with backslashes of its own has each of these
    doubled. Other backslashes stay as they are. So every row is read back as it was.

    Numbers and missing values are written, and read back, as strings. A missing value is an empty one, and 5.0 is
    written as 5 (`as_text`).

    Args:
        columns (`tuple` of `str`): The columns.
        template (`str`): Text with each column once, in braces.
    """

    columns: tuple[str, ...]
    template: str

    name = "record"

    @property
    def source(self) -> tuple[str, ...]:
        """Columns that rows are read from."""
        return self.columns

    @cached_property
    def _parts(self) -> tuple[list[str], list[int]]:
        """The words around the columns, and the index of each column in the order of the template."""
        parts = _COLUMN.split(self.template)
        return parts[::2], [self.columns.index(name) for name in parts[1::2]]

    @property
    def beginning(self) -> str:
        """What stands before the first column."""
        return self._parts[0][0]

    @property
    def has_lines(self) -> bool:
        """Whether every text has several lines."""
        return "\n" in self.template

    @property
    def pieces(self) -> tuple[tuple[str, str | None], ...]:
        """How a record can be written column by column."""
        words = self._parts[0]
        last = words[-1] or (None if self.has_lines else "\n")
        ends = ["\n" if each.startswith("\n") else each for each in words[1:-1]]
        # A model writes the blank after "Subject:" itself.
        before = [each if each.endswith("\n") else each.rstrip() for each in words[:-1]]
        return tuple(zip(before, [*ends, last], strict=True))

    @property
    def layout(self) -> str:
        """What a text looks like."""
        return f"as the template {shortened(self.template)} says"

    def problem(self, row: Row) -> str | None:
        """Say what is wrong with a row. See `Form`."""
        is_flat = all(value is None or isinstance(value, (str, int, float, Decimal)) for value in row)
        return None if is_flat else f"one of {shortened(list(self.columns))} is neither a string nor a number"

    def read(self, row: Row) -> str:
        """Write a row by the template. It is empty if all values are blank."""
        words, order = self._parts
        values = [as_text(row[index]) for index in order]
        if not any(value.strip() for value in values):
            return ""
        inner = [_escaped(value, end) for value, end in zip(values[:-1], words[1:-1], strict=True)]
        return words[0] + "".join(inner) + values[-1] + words[-1]

    def parse(self, text: str) -> Row | None:
        """Read a row from a text. None if the words between the columns are not all there, in their order."""
        row = self._parse(text)
        last = self._parts[0][-2]
        if row is None and last.strip() and text.endswith(last.rstrip()):
            # A blank last value may have lost the blank before it.
            return self._parse(text + last[len(last.rstrip()) :])
        return row

    def _parse(self, text: str) -> Row | None:
        words, order = self._parts
        is_whole = text.startswith(words[0]) and text.endswith(words[-1])
        if not is_whole or len(text) < len(words[0]) + len(words[-1]):
            return None
        rest = text[len(words[0]) : len(text) - len(words[-1])]
        values = []
        for end in words[1:-1]:
            found = _first_part(rest, end)
            if found is None:
                return None
            value, rest = found
            values.append(value)
        row = dict(zip(order, [*values, rest], strict=True))
        return tuple(row[index] for index in range(len(row))) if any(map(str.strip, row.values())) else None

    def features(self) -> dict[str, Any]:
        """Return the features of the columns."""
        from datasets import Value

        return {name: Value("string") for name in self.columns}


def _escaped(value: str, end: str) -> str:
    """Write a value, and the words that end it, so that these are found at its end first.

    Backslashes directly before these words are doubled, and one more stands before words that are part of the value.
    It goes from back to front, because a backslash before the words may part others that begin before them.
    """
    if not value.endswith("\\") and (value + end).find(end) == len(value):
        return value + end
    reverse = list(reversed(end))
    written, is_before_words = reverse.copy(), True
    for character in reversed(value):
        if character == "\\" and is_before_words:
            written += "\\\\"
            continue
        written.append(character)
        is_before_words = written[-len(end) :] == reverse
        if is_before_words:
            written.append("\\")
    return "".join(reversed(written))


def _first_part(text: str, end: str) -> tuple[str, str] | None:
    """Read a value up to the words that end it, and return it with the rest. None if they are not there."""
    value, start = "", 0
    place = text.find(end)
    while place >= 0:
        before = text[start:place]
        kept = before.rstrip("\\")
        num_backslashes = len(before) - len(kept)
        value += kept + "\\" * (num_backslashes // 2)
        if num_backslashes % 2 == 0:
            return value, text[place + len(end) :]
        value, start = value + text[place], place + 1
        place = text.find(end, start)
    return None


def default_template(columns: Sequence[str]) -> str:
    """Return the template of records if there is no other: a line `name: value` per column."""
    return "\n".join(f"{name}: {{{name}}}" for name in columns)


def check_template(columns: Sequence[str], template: str) -> None:
    """Raise a `ValueError` if records that are written by a template cannot be read back."""

    def refuse(reason: str) -> None:
        raise ValueError(f"`template`={shortened(template)} cannot be parsed back: {reason}")

    words, found = _COLUMN.split(template)[::2], _COLUMN.split(template)[1::2]
    if sorted(found) != sorted(columns):
        refuse(f"it must hold each of {shortened(list(columns))} once, in braces, such as '{{{columns[0]}}}'.")
    for before, after, between in zip(found[:-1], found[1:], words[1:-1], strict=True):
        if not between:
            refuse(f"nothing stands between '{{{before}}}' and '{{{after}}}' that says where one ends.")
    if "\\" in template:
        refuse("a backslash marks words of the template in a value. Leave it out.")
    is_tidy = template == template.strip() and not re.search(r"[^\S\n ]", template)
    if not is_tidy or ("\n" not in template and "  " in template):
        refuse(
            "blanks at its beginning or end, tabs, and runs of blanks in a line do not survive in a text. Use single "
            "spaces and line breaks."
        )
