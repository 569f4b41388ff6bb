"""Seeds as the expansion reads them: texts, and what the run found out about each."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .configuration import PrivateEvolutionConfig
from .data import list_rows
from .data.labels import read_labels
from .evolution.label_scores import ScoredSeeds, is_scores, margins
from .evolution.seeds import bounded_weights
from .forms import Form, Plain, form_of, texts_in
from .labels import split_by_shares

if TYPE_CHECKING:
    from datasets import Dataset

EFFECTIVE_SEEDS = 0.1
"""Least effective sample size of the weights of seeds, as a fraction of them. Else texts get alike."""

EFFECTIVE_SEEDS_OF_LABELS = 0.5
"""The same for the seeds of a label, if a mean for each label says how well a seed fits."""

SCORES = "label_scores"
"""Column of what a mean by label says of a seed under each label."""


class SeedTexts:
    """Seeds as the expansion reads them.

    Args:
        seeds (`datasets.Dataset` or `Sequence[str]`):
            Column `text` (`str`), or the columns of another form, and `votes`, `preference` and `share` (`float`) and
            `label_scores` (`list` of `float`) if they are known. Or a list of texts.
        form (`Form`, *optional*): What a row is. By default a plain text.
        label_column (`str`, *optional*): Column of labels. A text may be a seed of several.
        label_names (`Sequence[str]`, *optional*): The labels that there are.

    Raises:
        ValueError: There is no text, some are broken, a column does not hold a number per seed, or a label is not
            valid.
    """

    def __init__(
        self,
        seeds: "Dataset | Sequence[str]",
        form: Form | None = None,
        label_column: str | None = None,
        label_names: Sequence[str] = (),
    ) -> None:
        from datasets import Dataset

        self._seeds, self._form = seeds, form or Plain("text")
        self.texts = list_rows(seeds, self._form, "seeds", self._form.columns)
        if not self.texts:
            raise ValueError("`seeds` holds no text to expand.")
        seeds = seeds.with_format(None) if isinstance(seeds, Dataset) else seeds
        columns = seeds.column_names if isinstance(seeds, Dataset) else []
        self.votes, self.preference, self.share = (
            _numbers(seeds, name) if name in columns else None for name in ("votes", "preference", "share")
        )
        if self.preference is not None and (self.preference == 0).any():
            raise ValueError("`seeds` holds a `preference` of zero. It must be above.")
        self._label_column, self._label_names = label_column, list(label_names)
        self.labels: np.ndarray | None = None
        if label_column is not None:
            self.labels = np.array(_read_labels(seeds, label_column, label_names))
        self.scored: ScoredSeeds | None = None
        if self.labels is not None and SCORES in columns:
            self.scored = ScoredSeeds(self.texts, _read_scores(seeds, len(label_names)))

    @classmethod
    def of(cls, seeds: "Dataset | Sequence[str]", config: PrivateEvolutionConfig) -> "SeedTexts":
        """Read seeds, with labels if the settings have any."""
        return cls(seeds, form_of(config), config.label_column, config.label_names)

    @property
    def weights(self) -> np.ndarray | None:
        """How often to show each seed. None if all are shown equally often.

        Votes alone would show seeds as often as clients hold text like them. But a language model falls back to text
        of its own kind, and the preferences counteract that. They are so large at times that a few seeds would stand
        for all, so they are bounded (`EFFECTIVE_SEEDS`).
        """
        if self.votes is None or self.preference is None:
            return self.votes
        fraction = EFFECTIVE_SEEDS if self.scored is None else EFFECTIVE_SEEDS_OF_LABELS
        return bounded_weights(self.votes, self.preference, fraction)

    def with_label(self, label: int) -> "SeedTexts":
        """Return the seeds with a label, as seeds without one.

        If a mean by label says that some of them fit another label better, they are left out, unless all are so.
        """
        from datasets import Dataset

        own = np.flatnonzero(self.labels == label)
        if self.scored is not None:
            fits = margins(self.scored.scores[own])[:, label] > 0
            own = own[fits] if fits.any() else own
        columns = {"text": self.texts, "votes": self.votes, "preference": self.preference}
        chosen = {name: [column[row] for row in own] for name, column in columns.items() if column is not None}
        seeds = SeedTexts(Dataset.from_dict(chosen))
        seeds.scored = self.scored
        return seeds

    def numbers(self, num_samples: int, shares: Mapping[str, float] | None) -> list[int]:
        """Divide a number of texts among the labels, by given shares or those that come with the seeds.

        Raises:
            ValueError: A label is to get texts, but has no seeds. Or its share is not known.
        """
        assert self.labels is not None  # Labels are what this is about.
        names, present = self._label_names, np.unique(self.labels)
        if shares is None and self.share is None:
            raise ValueError(
                "`seeds` has no column 'share' that says how common each label is. Give `label_shares`, which maps "
                f"each of {names} to its fraction of the texts."
            )
        wanted = np.zeros(len(names))
        if shares is not None:
            wanted[:] = [shares[name] for name in names]
        else:
            # The share of a label whose seeds were left out goes to the others.
            wanted[present] = [self.share[self.labels == label].mean() for label in present]  # type: ignore[index]
        if not wanted.any():
            raise ValueError("`seeds` holds only labels with a `share` of zero. Give `label_shares`.")
        numbers = split_by_shares(num_samples, wanted.tolist())
        missing = [name for label, name in enumerate(names) if numbers[label] and label not in present]
        if missing:
            raise ValueError(f"`seeds` has no seed with the labels {missing}, whose `label_shares` are not zero.")
        return numbers

    def are_among(self, known: "Dataset | None") -> bool:
        """Return whether these are rows of a dataset, with the same numbers and label: each once, or all in order.

        A seed that is there twice has another weight, and so would one with votes or preferences from elsewhere. If
        two rows of the dataset are alike, they are given as they are there.
        """
        columns: dict[str, Any] = {"votes": self.votes, "preference": self.preference, "share": self.share}
        own = {name: column.tolist() for name, column in columns.items() if column is not None}
        if self.scored is not None:
            own[SCORES] = [tuple(row) for row in self.scored.scores.tolist()]
        if self._label_column is not None and self.labels is not None:
            own[self._label_column] = self.labels.tolist()
        if known is None or not set(own) <= set(known.column_names):
            return False
        rows = list(zip(self.texts, *own.values(), strict=True))
        values = {name: map(tuple, known[name]) if name == SCORES else known[name] for name in own}
        there = list(zip(texts_in(known, self._form), *values.values(), strict=True))
        labels = [0] * len(rows) if self.labels is None else self.labels.tolist()
        are_different = len(set(zip(self.texts, labels, strict=True))) == len(rows)
        return rows == there or (are_different and set(rows) <= set(there))

    def are_all_of(self, known: "Dataset | None") -> bool:
        """Return whether these are the rows of a dataset, all of them, in their order."""
        from datasets import Dataset

        is_dataset = known is not None and isinstance(self._seeds, Dataset)
        return is_dataset and self._seeds.to_dict() == known.to_dict()  # type: ignore[union-attr]


def _numbers(seeds: Any, column: str) -> np.ndarray:
    """Read a column of seeds that holds a number for each."""
    values = seeds[column][:]
    if not all(isinstance(each, (int, float)) and 0 <= each < 1e100 for each in values):
        raise ValueError(
            f"`seeds` has a column {column!r} that does not hold a finite number, zero or above, per row."
        )
    return np.array(values, dtype=np.float64)


def _read_labels(seeds: Any, column: str, names: Sequence[str]) -> list[int]:
    """Read the number of each seed's label, which must be one of the settings."""
    from datasets import Dataset

    if not isinstance(seeds, Dataset):
        raise TypeError(
            f"`seeds` is a list of texts, but the settings have labels. Give a dataset with the column {column!r}, as "
            "`evolve` returns it."
        )
    return read_labels("seeds", seeds, column, names)


def _read_scores(seeds: Any, num_labels: int) -> np.ndarray:
    """Read what a mean by label says of each seed."""
    scores = seeds[SCORES][:]
    if not is_scores((len(scores), num_labels), scores):
        raise ValueError(
            f"`seeds` has a column {SCORES!r} that does not hold a list of {num_labels} finite numbers per row, one "
            "for each label. Leave the column out, or give the seeds as `evolve` returned them."
        )
    return np.array(scores, dtype=np.float64)
