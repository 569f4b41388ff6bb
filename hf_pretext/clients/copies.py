"""Public texts that are private ones: refused or warned of, where the private text is."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..forms import Form
from ..processes import is_main_process

if TYPE_CHECKING:
    from datasets import Dataset


def check_public_texts(private: Any, public: "Dataset | Sequence[str]", form: Form) -> None:
    """Refuse public texts that are the private dataset itself, and warn if most of them are in it word for word.

    This reads private text, and so only in the process that holds it. *Released*: nothing. The warning goes to the
    owner of the private text, at the console of the trusted side. It says neither which texts nor how many they are,
    and nothing else depends on whether it was given. In a federation no one has both sides, and nothing is compared.

    Args:
        private (`Any`): What was given as private texts. Anything but a dataset of such rows is not compared.
        public (`datasets.Dataset` or `Sequence[str]`): Public texts.
        form (`Form`): What a row is, in both.

    Raises:
        ValueError: They are the same object.
    """
    from datasets import Dataset

    if public is private:
        raise ValueError("`initial_population` is the private dataset itself, whose texts would be published.")
    if not (is_main_process() and isinstance(private, Dataset)):
        return
    own = _different_texts(_texts(private, form))
    others = _different_texts(_texts(public, form) if isinstance(public, Dataset) else public)
    if 2 * len(own & others) > len(others):
        warnings.warn(
            "Most texts of `initial_population` are in `private` too, word for word. The initial population is "
            "published as it is, and the guarantee does not cover it. Take public texts from elsewhere, or describe "
            "them by `config.domain`. (This warning was made from private text. Do not pass it on.)",
            stacklevel=4,
        )


def _texts(dataset: "Dataset", form: Form) -> list[str]:
    """List the texts of rows that are whole. None of them if there is no such column."""
    if not set(form.source) <= set(dataset.column_names):
        return []
    plain = dataset.with_format(None)
    rows = zip(*(plain[name] for name in form.source), strict=True)
    return [form.read(row) for row in rows if form.problem(row) is None]


def _different_texts(texts: Any) -> set[str]:
    return {text.strip() for text in texts if isinstance(text, str) and text.strip()}
