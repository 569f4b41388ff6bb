"""How different written texts are from one another, and how many of them are copies of public texts.

Pure functions of texts and embeddings. They read no private text.
"""

import re
from collections.abc import Iterator, Sequence

import numpy as np

from hf_pretext.evaluation.measures import distinct_n
from hf_pretext.segmentation import words

ALIKE = 0.9
"""Cosine similarity from which on two texts are near-duplicates."""

DIVERSITY = ("distinct_2", "near_duplicates", "copies_of_public")
"""What `diversity` measures."""

_NO_LETTER = re.compile(r"\W")

RUN = 5
"""Words in a run, by which copies are found."""


def runs_of_words(texts: Sequence[str]) -> set[int]:
    """Collect the runs of `RUN` words of texts, as hashes that this process alone knows."""
    return {run for text in texts for run in _runs(text)}


def share_of_copies(texts: Sequence[str], public_runs: set[int]) -> float:
    """Compute the fraction of texts that are copied from public ones, whole or for the most part.

    Args:
        texts (`Sequence[str]`): Written texts.
        public_runs (`set` of `int`): What `runs_of_words` returned for the public texts.

    Returns:
        `float`: Fraction of the texts of which at least half of the runs of `RUN` words, in lower case and without
        punctuation, are in public texts. A text with fewer words is no copy.
    """
    of_texts = (list(_runs(text)) for text in texts)
    return float(np.mean([2 * sum(run in public_runs for run in runs) >= max(len(runs), 1) for runs in of_texts]))


def share_of_near_duplicates(embeddings: np.ndarray, block: int = 1024) -> float:
    """Compute the fraction of texts that have a near-duplicate among the others (see `ALIKE`).

    Args:
        embeddings (`np.ndarray` of shape `(n, d)`): Unit embeddings of the texts.
        block (`int`, *optional*, defaults to `1024`): Texts that are compared with all at a time.
    """
    found = 0
    for start in range(0, len(embeddings), block):
        similarities = embeddings[start : start + block] @ embeddings.T
        rows = np.arange(len(similarities))
        similarities[rows, start + rows] = -1
        found += int((similarities.max(axis=1) >= ALIKE).sum())
    return found / len(embeddings)


def diversity(texts: Sequence[str], embeddings: np.ndarray, public_runs: set[int]) -> dict[str, float]:
    """Measure texts: `distinct_2`, `near_duplicates` and `copies_of_public`, each between 0 and 1."""
    measured = distinct_n(texts, 2), share_of_near_duplicates(embeddings), share_of_copies(texts, public_runs)
    return dict(zip(DIVERSITY, measured, strict=True))


def _runs(text: str) -> Iterator[int]:
    found = [word for each in words(text.lower()) if (word := _NO_LETTER.sub("", each))]
    return (hash(tuple(found[start : start + RUN])) for start in range(len(found) - RUN + 1))
