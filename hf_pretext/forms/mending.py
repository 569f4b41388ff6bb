"""What is done with texts that models wrote or cut: what is broken is cut off, or the text is not used."""

from collections.abc import Callable, Sequence

from .form import Form
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
        kept = [
            mended(form, new) if _num_turns(form, new) == _num_turns(form, old) else old
            for new, old in zip(varied, texts, strict=False)
        ]
        return kept if len(varied) == len(texts) else varied

    return vary_in_form


def _num_turns(form: Form, text: str) -> list[int] | None:
    """Count the turns of conversations in a text. None if it is no row."""
    row = form.parse(text)
    return None if row is None else [len(value) for value in row if isinstance(value, list)]
