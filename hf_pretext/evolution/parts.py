"""The parts of a population, one for each label: their public texts, and the evidence about them.

A run without labels has one part. Labels are numbers here, and a part is found by its number.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np

from .evidence import Evidence


class Reserve:
    """Public texts that were no candidates yet, and how many times as many of each there should be.

    Args:
        texts (`Sequence[str]`): The texts.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)
        self.embeddings: np.ndarray | None = None
        self.ratios = np.ones(len(self.texts))
        self._is_new = np.ones(len(self.texts), dtype=bool)

    def draw(self, number: int, rng: np.random.Generator) -> list[str]:
        """Draw this many texts without replacement, or all that are left, in proportion to their ratios."""
        weights = np.where(self._is_new, self.ratios, 0)
        number = min(number, int(np.count_nonzero(weights)))
        if number < 1:
            return []
        chosen = rng.choice(len(self.texts), number, replace=False, p=weights / weights.sum())
        return [self.texts[index] for index in np.sort(chosen)]

    def leave_out(self, candidates: Sequence[str]) -> None:
        """Never draw these texts again."""
        known = set(candidates)
        self._is_new &= np.array([text not in known for text in self.texts], dtype=bool)


class Part:
    """The candidates of one label, and what is known about texts with it.

    Args:
        size (`int`): Most candidates of a round.
        public (`Sequence[str]`, *optional*): Public texts that may be its candidates, in a random order.
    """

    def __init__(self, size: int, public: Sequence[str] = ()) -> None:
        self.size, self.public = size, list(public)
        self.reserve = Reserve([])
        self.evidence = Evidence()

    def begin(self, drawn: Sequence[str]) -> None:
        """Keep the public texts that are not among the first candidates for later rounds."""
        chosen = set(drawn)
        self.reserve = Reserve([text for text in self.public if text not in chosen])


def divide_public(texts: Sequence[str], sizes: Sequence[int]) -> list[list[str]]:
    """Give each part all public texts, so that the parts begin with different ones if there are enough.

    Args:
        texts (`Sequence[str]`): Public texts in a random order. A part draws its first candidates from the beginning.
        sizes (`Sequence[int]`): Number of first candidates of each part.
    """
    starts = np.cumsum([0, *sizes[:-1]]) % max(len(texts), 1)
    return [[*texts[start:], *texts[:start]] for start in starts.tolist()]


def parts_of(numbers: Sequence[int]) -> list[slice]:
    """Return where the parts are in one sequence that holds this many items of each."""
    ends = np.cumsum(numbers).tolist()
    return [slice(end - number, end) for end, number in zip(ends, numbers, strict=True)]


def joined(texts: Sequence[Sequence[str]]) -> list[str]:
    """Join the texts of all parts, each as often as it is there."""
    return list(chain(*texts))


def is_texts(value: object) -> bool:
    """Return whether a value is a list of strings."""
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def is_texts_of(num_parts: int, value: object) -> bool:
    """Return whether a value is a list of this many lists of strings, none of them empty."""
    return isinstance(value, list) and len(value) == num_parts and all(is_texts(part) and part for part in value)


def is_weights(value: object, number: int) -> bool:
    """Return whether a value is a list of this many numbers that are finite and not negative."""
    return (
        isinstance(value, list)
        and len(value) == number
        and all(isinstance(each, (int, float)) and 0 <= each < float("inf") for each in value)
    )
