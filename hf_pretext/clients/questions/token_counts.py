"""The question for tokens: how often do your samples hold each of these?"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...privacy.plan import LABELED_TOKEN_COUNTS, TOKEN_COUNTS
from ..clipping import Answers
from ..samples import Samples
from .question import Question

LARGEST_WEIGHT = 1e6
"""Weights lie between one over this and this, so that no square of a weighted count overflows or vanishes."""


@dataclass(frozen=True, eq=False)
class TokenCounts(Question):
    """How often a client's samples hold each of some public tokens, times public weights, scaled to L2 norm 1.

    *Released*: one noisy sum of such vectors to the server. *Unit*: the client. *Sensitivity*: a vector has no
    negative entries, and an L2 norm of at most 1 (`clients.clipping.quantize`). So it is 1 under
    `"add_or_remove_one"`, and `sqrt(2)` under `"replace_one"`. *Proof that a vector depends on its client only*: a
    tokenizer reads one text at a time, and counts are whole numbers, exact in any order. The weighted counts are
    computed entry by entry. The sum of their squares, which the vector is scaled by, is added up over the entries of
    one client in the order of the bins, alone or among others. So it is the same bit for bit.

    All of a client's samples together make one vector, whatever their number. A client that writes one word a thousand
    times reaches a norm of 1, and no more. Tokens that are not public count for nothing, and neither does a client
    without any public token. The embeddings of samples are not read, so a client can answer without them.

    Args:
        tokens (`np.ndarray` of shape `(m,)`): Different tokens of the language model's tokenizer, int64.
        weights (`np.ndarray` of shape `(m,)`): Weight of each token, above zero, float64.
        tokenizer (`str`): Fingerprint of the tokenizer. Clients with another one do not answer.
    """

    tokens: np.ndarray
    weights: np.ndarray
    tokenizer: str

    name, is_signed = TOKEN_COUNTS

    def __post_init__(self) -> None:
        tokens, weights = self.tokens, self.weights
        if not isinstance(tokens, np.ndarray) or tokens.dtype != np.int64 or tokens.ndim != 1 or not len(tokens):
            raise ValueError("`tokens` must be a one-dimensional array of int64 with at least one token.")
        if tokens.min() < 0 or len(np.unique(tokens)) < len(tokens):
            raise ValueError("`tokens` must be different tokens, whose numbers are not negative.")
        is_array = isinstance(weights, np.ndarray) and weights.dtype == np.float64
        if not is_array or weights.shape != tokens.shape:
            raise ValueError("`weights` must be an array of float64 with one weight per token.")
        if not ((weights >= 1 / LARGEST_WEIGHT) & (weights <= LARGEST_WEIGHT)).all():
            raise ValueError(f"`weights` must lie between {1 / LARGEST_WEIGHT:g} and {LARGEST_WEIGHT:g}.")
        if not isinstance(self.tokenizer, str) or not self.tokenizer:
            raise ValueError(f"`tokenizer`={self.tokenizer!r} must be the fingerprint of a tokenizer.")

    @property
    def num_bins(self) -> int:
        """Number of tokens."""
        return len(self.tokens)

    def check_tokenizer(self, fingerprint: str) -> None:
        """Raise a `ValueError` if the clients have no tokenizer, which an empty fingerprint says, or another one."""
        if not fingerprint:
            raise ValueError(
                f"The question {self.name!r} is about tokens, but these clients have no tokenizer. Give the pool that "
                "of the language model, or set `token_fraction`=0."
            )
        if fingerprint != self.tokenizer:
            raise ValueError(
                f"The question {self.name!r} is about tokens of a tokenizer with the fingerprint {self.tokenizer!r}, "
                f"but the clients have one with {fingerprint!r}. Give both sides the tokenizer of `expansion_model`."
            )

    def answer(self, samples: Samples) -> np.ndarray:
        """Compute the vector of one client. See `Question`."""
        return self.answers(samples).sum(self.num_bins)

    def answers(self, samples: Samples) -> Answers:
        """Compute the vectors of several clients."""
        clients, owners = np.unique(samples.owners, return_inverse=True)
        rows, indices = self._found(samples)
        starts = self._starts(samples)[rows]
        rows, bins = rows[starts >= 0], (starts + indices)[starts >= 0]
        pairs, counts = np.unique(owners[rows] * self.num_bins + bins, return_counts=True)
        own, bins = np.divmod(pairs, self.num_bins)
        values = counts * self.weights[bins % len(self.tokens)]
        # Added up in the order of the entries, which is that of the bins for each client.
        norms = np.sqrt(np.bincount(own, weights=values**2, minlength=len(clients)))
        return Answers(clients[own], bins, values / norms[own])

    def _found(self, samples: Samples) -> tuple[np.ndarray, np.ndarray]:
        """Find the public tokens in samples: the sample of each, and its index among the public ones."""
        tokens = np.concatenate([np.zeros(0, dtype=np.int64), *samples.tokens])
        rows = np.repeat(np.arange(len(samples.owners)), list(map(len, samples.tokens)))
        indices = np.searchsorted(self.tokens, tokens, sorter=self._order)
        indices = self._order[np.minimum(indices, len(self._order) - 1)]
        is_public = self.tokens[indices] == tokens
        return rows[is_public], indices[is_public]

    def _starts(self, samples: Samples) -> np.ndarray:
        """Return the first bin of the block of each sample, or -1 if it is in none."""
        return np.zeros(len(samples.owners), dtype=np.int64)

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self.tokens)


@dataclass(frozen=True, eq=False)
class LabeledTokenCounts(TokenCounts):
    """The same for the samples of each label.

    The blocks of the labels are the bins of one vector, which is scaled to L2 norm 1 as a whole. So no budget is
    divided by label, and *unit*, *sensitivity* and *proof* are those of `TokenCounts`. A sample without a label is in
    no block.

    Args:
        tokens (`np.ndarray` of shape `(m,)`): See `TokenCounts`.
        weights (`np.ndarray` of shape `(m,)`): See `TokenCounts`.
        tokenizer (`str`): See `TokenCounts`.
        num_labels (`int`): Number of labels.
    """

    num_labels: int

    name, is_signed = LABELED_TOKEN_COUNTS

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.num_labels) is not int or self.num_labels < 2:
            raise ValueError(f"`num_labels`={self.num_labels!r} must be an integer of at least 2.")

    @property
    def num_bins(self) -> int:
        """Number of labels times number of tokens."""
        return self.num_labels * len(self.tokens)

    def _starts(self, samples: Samples) -> np.ndarray:
        has_label = (samples.labels >= 0) & (samples.labels < self.num_labels)
        return np.where(has_label, samples.labels * len(self.tokens), -1)
