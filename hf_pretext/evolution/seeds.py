"""The seeds of a run: the survivors of all rounds, and how often each is shown."""

from typing import Any

import numpy as np

from .candidates import Candidates


class Seeds:
    """The survivors of all rounds, each once for a label, with the votes above the threshold that they got.

    Args:
        label_column (`str`, *optional*): Name of the labels in the rows. By default they have none.
    """

    def __init__(self, label_column: str | None = None) -> None:
        self._rows: dict[tuple[str, int], dict[str, Any]] = {}
        self._label_column = label_column

    def add(self, candidates: Candidates, weights: np.ndarray, parents: np.ndarray) -> None:
        """Add the survivors of a round: the candidates that are a parent at least once."""
        labels = candidates.labels
        for index in np.unique(parents):
            text, label = candidates.texts[index], int(labels[index])
            named = {} if self._label_column is None else {self._label_column: label}
            new = {"text": text, **named, "round": candidates.round, "votes": 0.0}
            seed = self._rows.setdefault((text, label), new)
            seed["votes"] += float(weights[index])

    def check(self, num_rounds: int) -> None:
        """Raise a `RuntimeError` if no round of the run made seeds."""
        if not self._rows:
            raise RuntimeError(
                f"All {num_rounds} rounds of this run were lost, in crashes or as too few clients answered, and are "
                "counted as spent. A new run needs a new budget and another `run_dir`."
            )

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows: columns `text`, that of labels, `round` and `votes`."""
        return list(self._rows.values())

    def texts_of(self, label: int) -> list[str]:
        """List the texts of the seeds with a label. Without labels it is 0."""
        return [text for text, own in self._rows if own == label]

    @property
    def labels(self) -> list[int]:
        """List the label of each row."""
        return [label for _, label in self._rows]


def bounded_weights(votes: np.ndarray, preference: np.ndarray, fraction: float) -> np.ndarray:
    """Weigh seeds by votes and preference, but let no few of them stand for all.

    Args:
        votes (`np.ndarray` of shape `(m,)`): Votes, not negative.
        preference (`np.ndarray` of shape `(m,)`): How many times as many texts like each there should be.
        fraction (`float`): Least effective sample size `(sum w)^2 / sum w^2`, as a fraction of the seeds with votes.

    Returns:
        `np.ndarray` of shape `(m,)`: Votes times the highest power of the preferences, at most one, that leaves this
        effective sample size. The votes alone, if they do not.
    """
    logarithms = np.log(preference) - np.log(preference).max()
    wanted = fraction * np.count_nonzero(votes)

    def weigh(power: float) -> np.ndarray:
        return votes * np.exp(power * logarithms)

    def is_wide(power: float) -> bool:
        weights = weigh(power)
        return bool(weights.sum() ** 2 >= wanted * (weights**2).sum())

    if is_wide(1.0) or not votes.any():
        return weigh(1.0)
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if is_wide(middle) else (low, middle)
    return weigh(low)
