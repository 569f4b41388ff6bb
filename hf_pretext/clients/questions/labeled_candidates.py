"""The question of a run with labels: which candidates of its own label are nearest to a sample?"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...privacy.plan import LABELED_VOTES
from ..clipping import Answers
from ..samples import Samples, check_quantized, quantize_embeddings
from .nearest_candidates import NearestCandidates
from .question import Question


@dataclass(frozen=True, eq=False)
class NearestLabeledCandidates(Question):
    """Votes of samples for the nearest candidates of their own label and, beside them, how common each label is.

    The candidates of all labels are the bins of one vector, so no budget is divided by label. After these bins come
    those of the labels. There a client adds `share_weight` times its number of samples of each label, over the most
    samples that a client answers with. One bin for a label has the noise of one bin, where a sum over the votes for
    its candidates would have the noise of all of them. The client's votes are scaled to the norm that this leaves. A
    client with few samples keeps nearly all of it, and one with the most samples of one label keeps `sqrt(1 -
    share_weight^2)`.

    *Released*: per round, one noisy sum of such vectors to the server. *Unit*: the client. *Sensitivity*: a vector has
    no negative entries, and an L2 norm of at most the clipping norm (`clients.clipping.quantize`), its bins of labels
    included. So it is that norm under `"add_or_remove_one"`, and `sqrt(2)` times it under `"replace_one"`. *Proof that
    a vector depends on its client only*: which candidates of a label are nearest is decided in exact integers
    (`NearestCandidates`), votes and samples are counted per client, and everything after that is computed entry by
    entry from the counts of one client.

    A sample without a label, or of a label without candidates, has no vote.

    Args:
        candidates (`np.ndarray` of shape `(m, d)`): Quantized embeddings of the candidates, int16.
        labels (`np.ndarray` of shape `(m,)`): Number of the label of each candidate, from 0, int64.
        num_labels (`int`): Number of labels.
        votes_per_sample (`int`, *optional*, defaults to `1`): Nearest candidates that a sample votes for.
        share_weight (`float`, *optional*, defaults to `0.0`):
            Norm of the bins of labels, at most, between 0 and 1. With 0 there are no such bins.
        max_samples (`int`, *optional*, defaults to `1`): Most samples that a client answers with.
    """

    candidates: np.ndarray
    labels: np.ndarray
    num_labels: int
    votes_per_sample: int = 1
    share_weight: float = 0.0
    max_samples: int = 1

    name, is_signed = LABELED_VOTES

    def __post_init__(self) -> None:
        check_quantized("candidates", self.candidates)
        for name, least in (("num_labels", 2), ("votes_per_sample", 1), ("max_samples", 1)):
            value = vars(self)[name]
            if type(value) is not int or value < least:
                raise ValueError(f"`{name}`={value!r} must be an integer of at least {least}.")
        is_array = isinstance(self.labels, np.ndarray) and self.labels.dtype == np.int64
        if not is_array or self.labels.shape != (len(self.candidates),):
            raise ValueError("`labels` must be an array of int64 with one label per candidate.")
        if self.labels.min() < 0 or self.labels.max() >= self.num_labels:
            raise ValueError(f"`labels` must lie between 0 and {self.num_labels - 1}.")
        if type(self.share_weight) is not float or not 0 <= self.share_weight < 1:
            raise ValueError(f"`share_weight`={self.share_weight!r} must be a float of at least 0 and below 1.")

    @classmethod
    def of(
        cls,
        embeddings: np.ndarray,
        labels: np.ndarray,
        num_labels: int,
        votes_per_sample: int = 1,
        share_weight: float = 0.0,
        max_samples: int = 1,
    ) -> "NearestLabeledCandidates":
        """Ask about candidates with these embeddings, of length at most one, and labels."""
        points = quantize_embeddings(embeddings)
        return cls(points, labels.astype(np.int64), num_labels, votes_per_sample, share_weight, max_samples)

    @property
    def num_bins(self) -> int:
        """Number of candidates, and of labels if there are bins for them."""
        return len(self.candidates) + (self.num_labels if self.share_weight else 0)

    def answer(self, samples: Samples) -> np.ndarray:
        """Compute the vector of one client. See `Question`."""
        return self.answers(samples).sum(self.num_bins)

    def answers(self, samples: Samples) -> Answers:
        """Compute the vectors of several clients."""
        _, owners = np.unique(samples.owners, return_inverse=True)
        clients = samples.owners[np.unique(owners, return_index=True)[1]]
        rows, bins, counts = _counted(*self._votes(samples, owners), self.num_bins)
        votes = counts.astype(np.float64)
        # Sums of squares of whole numbers, which are exact in any order.
        norms = np.sqrt(np.bincount(rows, weights=votes**2, minlength=len(clients)))
        has_label = (samples.labels >= 0) & (samples.labels < self.num_labels)
        own, label_bins, numbers = _counted(
            owners[has_label], len(self.candidates) + samples.labels[has_label], self.num_bins + self.num_labels
        )
        sizes = np.maximum(np.bincount(owners, minlength=len(clients)), self.max_samples)
        of_labels = self.share_weight * numbers / sizes[own]
        squares = np.bincount(own, weights=numbers.astype(np.float64) ** 2, minlength=len(clients))
        left = np.sqrt(1 - self.share_weight**2 * squares / sizes.astype(np.float64) ** 2)
        votes *= (left / np.maximum(norms, 1))[rows]
        if not self.share_weight:
            return Answers(clients[rows], bins, votes)
        return Answers(
            clients[np.concatenate([rows, own])],
            np.concatenate([bins, label_bins]),
            np.concatenate([votes, of_labels]),
        )

    def _votes(self, samples: Samples, owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """List the owner and the bin of each vote."""
        voters, bins = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
        for label, (rows, own) in self._of_label.items():
            has_it = samples.labels == label
            if has_it.any():
                nearest = rows[own.nearest(samples.embeddings[has_it])]
                voters.append(np.repeat(owners[has_it], nearest.shape[1]))
                bins.append(nearest.ravel())
        return np.concatenate(voters), np.concatenate(bins)

    @cached_property
    def _of_label(self) -> dict[int, tuple[np.ndarray, NearestCandidates]]:
        """The candidates of each label that has any, and where they are among all."""
        found = {}
        for label in np.unique(self.labels).tolist():
            rows = np.flatnonzero(self.labels == label)
            found[label] = rows, NearestCandidates(self.candidates[rows], self.votes_per_sample)
        return found


def shares_of(totals: np.ndarray) -> np.ndarray:
    """Estimate the share of each label by the noisy bins of labels.

    *Error*: the sum over `R` rounds of a bin is `share_weight / max_samples` times the number of samples with the
    label, once per round, plus noise of `sqrt(R)` times the standard deviation of one bin. So with `n` samples in all,
    and two labels that are equally common, a share has a standard deviation of `noise_std * max_samples / (n *
    share_weight * sqrt(2 R))`.

    Args:
        totals (`np.ndarray` of shape `(num_rounds, num_labels)`): The bins of labels of each round.

    Returns:
        `np.ndarray` of shape `(num_labels,)`: Shares that are not negative. Equal ones if the noise drowned all.
    """
    sums = np.maximum(totals.sum(axis=0), 0)
    total = math.fsum(sums)
    return sums / total if total else np.full(len(sums), 1 / len(sums))


def _counted(owners: np.ndarray, bins: np.ndarray, num_bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count pairs of an owner and a bin: owners, bins and numbers."""
    pairs, counts = np.unique(owners * num_bins + bins, return_counts=True)
    return pairs // num_bins, pairs % num_bins, counts
