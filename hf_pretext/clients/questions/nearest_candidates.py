"""The paper's question: which candidates are nearest to your samples? (Algorithm 2)."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...privacy.plan import VOTES
from ..clipping import Answers
from ..samples import Samples, check_quantized, quantize_embeddings
from .question import Question

SAMPLES_PER_PRODUCT = 1024
"""Samples per matrix product. Their scores stay in the cache while the largest is found."""


@dataclass(frozen=True, eq=False)
class NearestCandidates(Question):
    """Votes for candidates: how many of a client's samples have each candidate as (one of) their nearest.

    *Released*: per round, one noisy sum of such vectors to the server. *Unit*: the client. *Sensitivity*: a vector has
    no negative entries, and is scaled to an L2 norm of at most the clipping norm (`clients.clipping.quantize`). So it
    is that norm under `"add_or_remove_one"`, and `sqrt(2)` times it under `"replace_one"`. *Proof that a vector
    depends on its client only*: on quantized embeddings the scores `2 <p, c> - |c|^2` are exact integers, so no batch
    changes which candidate has the largest one. Among equally near candidates the first one wins.

    A vector of a given norm that is spread over `k` candidates has `sqrt(k)` times the votes in total. That is why
    several votes per sample stand out better from the same noise.

    Args:
        candidates (`np.ndarray` of shape `(m, d)`): Quantized embeddings of the candidates, int16.
        votes_per_sample (`int`, *optional*, defaults to `1`): Nearest candidates that a sample votes for.
    """

    candidates: np.ndarray
    votes_per_sample: int = 1

    name, is_signed = VOTES

    def __post_init__(self) -> None:
        check_quantized("candidates", self.candidates)
        if type(self.votes_per_sample) is not int or self.votes_per_sample < 1:
            raise ValueError(f"`votes_per_sample`={self.votes_per_sample!r} must be a positive integer.")

    @classmethod
    def of(cls, embeddings: np.ndarray, votes_per_sample: int = 1) -> "NearestCandidates":
        """Ask about candidates with these embeddings, of length at most one."""
        return cls(quantize_embeddings(embeddings), votes_per_sample)

    @property
    def num_bins(self) -> int:
        """Number of candidates."""
        return len(self.candidates)

    def answer(self, samples: Samples) -> np.ndarray:
        """Count the votes of one client. See `Question`."""
        return np.bincount(self.nearest(samples.embeddings).ravel(), minlength=self.num_bins).astype(np.float64)

    def answers(self, samples: Samples) -> Answers:
        """Count the votes of several clients."""
        nearest = self.nearest(samples.embeddings)
        pairs, counts = np.unique(samples.owners[:, None] * self.num_bins + nearest, return_counts=True)
        return Answers(pairs // self.num_bins, pairs % self.num_bins, counts.astype(np.float64))

    def nearest(self, embeddings: np.ndarray) -> np.ndarray:
        """Find the nearest candidates of samples by L2 distance.

        The nearest candidate `c` of a sample `p` has the largest `2 <p, c> - |c|^2`, which is exact integer
        arithmetic.

        Args:
            embeddings (`np.ndarray` of shape `(n, d)`): Quantized embeddings of samples.

        Returns:
            `np.ndarray` of shape `(n, k)`: Indices of the `k` candidates that each sample votes for (all, if there are
            fewer), the nearest first, int64.
        """
        right = self._right
        block_size = max(1, min(SAMPLES_PER_PRODUCT, len(embeddings)))
        left = np.ones((block_size, len(right)), dtype=np.float32)
        scores = np.empty((block_size, self.num_bins), dtype=np.float32)
        nearest = np.empty((len(embeddings), min(self.votes_per_sample, self.num_bins)), dtype=np.int64)
        for start in range(0, len(embeddings), block_size):
            block = embeddings[start : start + block_size]
            filled = scores[: len(block)]
            left[: len(block), :-1] = block
            np.matmul(left[: len(block)], right, out=filled)
            for column in nearest[start : start + len(block)].T:
                column[:] = filled.argmax(axis=1)
                filled[np.arange(len(block)), column] = -np.inf  # The next column is the next nearest.
        return nearest

    @cached_property
    def _right(self) -> np.ndarray:
        """The right side of the product: a row of ones on the left takes the norms in, which saves a pass."""
        points = self.candidates.astype(np.float32)
        return np.concatenate([2 * points.T, -np.einsum("md,md->m", points, points)[None]])
