"""What is done with texts that models wrote or cut: what is broken is cut off, or the text is not used."""

from collections.abc import Callable, Sequence

from .form import Form, Row
from .plain import Plain

Vary = Callable[[Sequence[str], int], list[str]]


def mended(form: Form, text: str) -> str:
    """Cut off what is broken at the end of a text. It is empty if what is left is no row."""
    row = form.parse(text)
    return "" if row is None else form.read(row)


def variations_in_form(form: Form, vary: Vary) -> Vary:
    """Let a variation that breaks the form of its text, or loses turns of it, be that text, as it was."""
    if isinstance(form, Plain):
        return vary

    def vary_in_form(texts: Sequence[str], seed: int) -> list[str]:
        varied = vary(texts, seed)
        # If there are more or fewer, the caller refuses them.
        kept = [_varied(form, old, new) for old, new in zip(texts, varied, strict=False)]
        return kept if len(varied) == len(texts) else varied

    return vary_in_form


def _varied(form: Form, old: str, new: str) -> str:
    row, before = form.parse(new), form.parse(old)
    if row is None or (before is not None and _num_turns(row) != _num_turns(before)):
        return old
    return form.read(row)


def _num_turns(row: Row) -> list[int]:
    """Count the turns of the conversations in a row."""
    return [len(value) for value in row if isinstance(value, list)]
