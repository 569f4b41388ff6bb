"""The variation operator: turns texts into similar texts."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable


@runtime_checkable
class Variation(Protocol):
    """Turns texts into similar texts. Give an object of your own as `variation_model`."""

    def vary(self, texts: Sequence[str], seed: int) -> list[str]:
        """Return one variation of each text, in their order. A text that cannot be varied is returned unchanged.

        Args:
            texts (`Sequence[str]`): The texts.
            seed (`int`): Seed of all choices.
        """
        ...


@runtime_checkable
class Truncates(Protocol):
    """A variation operator with a longest text."""

    def truncate(self, text: str) -> str:
        """Cut a text to the longest that is varied."""
        ...
