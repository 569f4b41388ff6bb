"""Public texts that are private ones: refused or warned of, where the private text is."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..processes import is_main_process

if TYPE_CHECKING:
    from datasets import Dataset


def check_public_texts(private: Any, public: "Dataset | Sequence[str]", column: str) -> None:
    """Refuse public texts that are the private dataset itself, and warn if most of them are in it word for word.

    This reads private text, and so only in the process that holds it. *Released*: nothing. The warning goes to the
    owner of the private text, at the console of the trusted side. It says neither which texts nor how many they are,
    and nothing else depends on whether it was given. In a federation no one has both sides, and nothing is compared.

    Args:
        private (`Any`): What was given as private texts. Anything but a dataset with that column is not compared.
        public (`datasets.Dataset` or `Sequence[str]`): Public texts.
        column (`str`): Column of texts, in both.

    Raises:
        ValueError: They are the same object.
    """
    from datasets import Dataset

    if public is private:
        raise ValueError("`initial_population` is the private dataset itself, whose texts would be published.")
    if not (is_main_process() and isinstance(private, Dataset) and column in private.column_names):
        return
    if isinstance(public, Dataset) and column not in public.column_names:
        return
    own = _different_texts(private.with_format(None)[column])
    others = _different_texts(public.with_format(None)[column] if isinstance(public, Dataset) else public)
    if 2 * len(own & others) > len(others):
        warnings.warn(
            "Most texts of `initial_population` are in `private` too, word for word. The initial population is "
            "published as it is, and the guarantee does not cover it. Take public texts from elsewhere, or describe "
            "them by `config.domain`. (This warning was made from private text. Do not pass it on.)",
            stacklevel=4,
        )


def _different_texts(texts: Any) -> set[str]:
    return {text.strip() for text in texts if isinstance(text, str) and text.strip()}
