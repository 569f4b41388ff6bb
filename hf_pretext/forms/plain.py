"""Plain texts."""

from dataclasses import dataclass
from typing import Any

from .form import Row


@dataclass(frozen=True)
class Plain:
    """A row is a text.

    Args:
        column (`str`): Column of texts.
    """

    column: str

    columns = ("text",)
    beginning = ""
    has_lines = False
    pieces = (("", "\n"),)
    name = "text"
    layout = "any text"

    @property
    def source(self) -> tuple[str, ...]:
        """Columns that rows are read from."""
        return (self.column,)

    def problem(self, row: Row) -> str | None:
        """Say what is wrong with a row. See `Form`."""
        return None if isinstance(row[0], str) else "it is not a string"

    def read(self, row: Row) -> str:
        """Return the text."""
        return str(row[0])

    def parse(self, text: str) -> Row | None:
        """Return the text as a row. Every text is one."""
        return (text,)

    def features(self) -> dict[str, Any]:
        """Return the features of the columns."""
        from datasets import Value

        return {"text": Value("string")}
