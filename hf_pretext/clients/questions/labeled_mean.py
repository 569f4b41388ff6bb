"""The question for a mean by label: where are your samples of each label, relative to a public mean?"""

from dataclasses import dataclass

import numpy as np

from ...privacy.plan import LABELED_MEAN, MEAN_CLIP
from ..clipping import Answers
from ..samples import EMBEDDING_UNITS, Samples
from .mean_embedding import MeanEmbedding, check_center
from .question import Question


@dataclass(frozen=True, eq=False)
class LabeledMeanEmbedding(Question):
    """For each label, the sum of a client's embeddings minus a public mean, over the number of all its samples.

    The blocks of the labels are the bins of one vector, so no budget is divided by label. The block of a label is the
    mean of the client's samples with it, times the fraction of its samples that have it. All of it is divided by
    `MEAN_CLIP`.

    *Released*: one noisy sum of such vectors to the server. *Unit*: the client. *Sensitivity*: a vector of all blocks
    together is clipped to an L2 norm of at most 1 (`clients.clipping.quantize`), and has signs. So it is 1 under
    `"add_or_remove_one"`, and 2 under `"replace_one"`. *Proof that a vector depends on its client only*: the
    embeddings are integers, their sums over a client's samples are exact, and everything after that is computed entry
    by entry from the sums and the number of samples of one client.

    Args:
        center (`np.ndarray` of shape `(1, d)`): The public mean as a quantized embedding, int16.
        num_labels (`int`): Number of labels. A sample without a label is in no block.
    """

    center: np.ndarray
    num_labels: int

    name, is_signed = LABELED_MEAN

    def __post_init__(self) -> None:
        check_center(self.center)
        if type(self.num_labels) is not int or self.num_labels < 2:
            raise ValueError(f"`num_labels`={self.num_labels!r} must be an integer of at least 2.")

    @classmethod
    def of(cls, embeddings: np.ndarray, num_labels: int) -> "LabeledMeanEmbedding":
        """Ask relative to the mean of public embeddings of shape `(n, d)`, of length at most one."""
        return cls(MeanEmbedding.of(embeddings).center, num_labels)

    @property
    def num_bins(self) -> int:
        """Number of labels times number of dimensions."""
        return self.num_labels * int(self.center.shape[1])

    def answer(self, samples: Samples) -> np.ndarray:
        """Compute the vector of one client. See `Question`."""
        return self.answers(samples).values

    def answers(self, samples: Samples) -> Answers:
        """Compute the vectors of several clients."""
        clients, owners, counts = np.unique(samples.owners, return_inverse=True, return_counts=True)
        sums = np.zeros((len(clients), self.num_labels, self.center.shape[1]), dtype=np.int64)
        has_label = (samples.labels >= 0) & (samples.labels < self.num_labels)
        relative = samples.embeddings[has_label].astype(np.int64) - self.center[0]
        np.add.at(sums, (owners[has_label], samples.labels[has_label]), relative)
        vectors = (sums / counts[:, None, None] / (MEAN_CLIP * EMBEDDING_UNITS)).reshape(len(clients), -1)
        bins = np.broadcast_to(np.arange(self.num_bins), vectors.shape)
        return Answers(np.repeat(clients, self.num_bins), bins.ravel(), vectors.ravel())
