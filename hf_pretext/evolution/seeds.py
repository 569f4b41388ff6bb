"""The seeds of a run: the survivors of all rounds."""

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
