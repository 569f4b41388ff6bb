"""The question for a mean: where in the space of embeddings are your samples, relative to a public mean?"""

from dataclasses import dataclass

import numpy as np

from ...privacy.plan import MEAN_CLIP, MEAN_EMBEDDING
from ..clipping import Answers
from ..samples import EMBEDDING_UNITS, Samples, check_quantized, quantize_embeddings
from .question import Question


def check_center(center: np.ndarray) -> None:
    """Raise a `ValueError` if this is not one quantized embedding."""
    check_quantized("center", center)
    if len(center) != 1:
        raise ValueError(f"`center` of shape {center.shape} must have one row.")


@dataclass(frozen=True, eq=False)
class MeanEmbedding(Question):
    """The mean of a client's embeddings minus a public mean, divided by `MEAN_CLIP`.

    *Released*: one noisy sum of such vectors to the server. *Unit*: the client. *Sensitivity*: a vector is clipped to
    an L2 norm of at most 1 (`clients.clipping.quantize`), and has signs. So it is 1 under `"add_or_remove_one"`, and 2
    under `"replace_one"`, where one client's vector can be the opposite of another's. *Proof that a vector depends on
    its client only*: the embeddings are integers, their sum over a client's samples is exact, and everything after it
    is computed entry by entry.

    The public mean matters. Relative to it, clients point to where their text differs from public text, and little of
    the norm is spent on what all text has in common.

    Args:
        center (`np.ndarray` of shape `(1, d)`): The public mean as a quantized embedding, int16.
    """

    center: np.ndarray

    name, is_signed = MEAN_EMBEDDING

    def __post_init__(self) -> None:
        check_center(self.center)

    @classmethod
    def of(cls, embeddings: np.ndarray) -> "MeanEmbedding":
        """Ask relative to the mean of public embeddings of shape `(n, d)`, of length at most one."""
        return cls(quantize_embeddings(embeddings.mean(axis=0, keepdims=True)))

    @property
    def num_bins(self) -> int:
        """Number of dimensions."""
        return int(self.center.shape[1])

    def answer(self, samples: Samples) -> np.ndarray:
        """Compute the vector of one client. See `Question`."""
        return self._scaled(samples.embeddings.sum(axis=0, dtype=np.int64), np.array(len(samples.owners)))

    def answers(self, samples: Samples) -> Answers:
        """Compute the vectors of several clients."""
        clients, counts = np.unique(samples.owners, return_counts=True)
        starts = np.cumsum(counts) - counts
        sums = np.add.reduceat(samples.embeddings, starts, axis=0, dtype=np.int64)
        vectors = self._scaled(sums, counts[:, None])
        bins = np.broadcast_to(np.arange(self.num_bins), vectors.shape)
        return Answers(np.repeat(clients, self.num_bins), bins.ravel(), vectors.ravel())

    def _scaled(self, sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
        return (sums / counts - self.center[0]) / (MEAN_CLIP * EMBEDDING_UNITS)
