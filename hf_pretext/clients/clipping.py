"""Clipping and quantizing: what bounds the contribution of each client, for every kind of question.

A client's contribution to a release is the integer vector that `quantize` makes of its answer. Its L2 norm is at most
`clip_norm * units`, checked in integer arithmetic. That bound is the sensitivity, whatever the question is.
"""

from dataclasses import dataclass

import numpy as np

MAX_CLIP_NORM = 2**10
"""Largest clipping norm for which the squares of integer entries fit into 64 bits."""

LARGEST_ENTRY = 1e100
"""Larger entries of an answer are not numbers to compute with: their squares would overflow."""


@dataclass(frozen=True)
class Answers:
    """The vectors of some clients, as a sparse matrix.

    Args:
        clients (`np.ndarray` of shape `(k,)`): Client of each entry.
        bins (`np.ndarray` of shape `(k,)`): Bin of each entry.
        values (`np.ndarray` of shape `(k,)`): The entry. No client has two for one bin.
    """

    clients: np.ndarray
    bins: np.ndarray
    values: np.ndarray

    def sum(self, num_bins: int) -> np.ndarray:
        """Sum the vectors of all clients, as an array of shape `(num_bins,)` of the values' type."""
        total = np.zeros(num_bins, dtype=self.values.dtype)
        np.add.at(total, self.bins, self.values)
        return total


def without_malformed(answers: Answers, is_signed: bool) -> Answers:
    """Leave out the clients whose vector cannot be accounted for: it contributes zero instead.

    An entry that is not finite has no norm, and a negative one would break the sensitivity of a question that is not
    signed. To refuse the release instead would let one client decide whether it takes place.

    Args:
        answers (`Answers`): The vectors.
        is_signed (`bool`): Whether entries may be negative.
    """
    with np.errstate(invalid="ignore"):
        is_sound = np.abs(answers.values) < LARGEST_ENTRY
        if not is_signed:
            is_sound &= answers.values >= 0
    if is_sound.all():
        return answers
    kept = ~np.isin(answers.clients, answers.clients[~is_sound])
    return Answers(answers.clients[kept], answers.bins[kept], answers.values[kept])


def quantize(answers: Answers, clip_norm: float, units: int) -> Answers:
    """Clip the vector of each client to an L2 norm, and round it to integer units.

    *Claim.* For every client, the returned integers `q` satisfy `|q|_2 <= clip_norm * units`, exactly. *Proof.* A
    vector `v` is scaled by `min(1, clip_norm / |v|)` and each entry is rounded towards zero, which lengthens no entry.
    So the norm of the result is at most the norm before, up to floating-point error in the scaling. That error is
    removed by checking the claim in integer arithmetic. In the vector of a client that breaks it, each entry moves one
    unit towards zero. The error is far below one unit, so each entry is then shorter than its exact value. (One client
    may lose one unit in a million: the private choice.)

    The result of a client depends on its own entries only, bit for bit: its norm is summed over them in their order.

    Args:
        answers (`Answers`): The vectors, finite.
        clip_norm (`float`): Largest L2 norm of a client's vector, at most `MAX_CLIP_NORM`.
        units (`int`): Integer units per 1.0.

    Returns:
        `Answers`: The clipped vectors in units, int64.

    Raises:
        ValueError: `clip_norm` is not positive, or so large that squares would not fit into 64 bits.
    """
    if not 0 < clip_norm <= MAX_CLIP_NORM:
        raise ValueError(f"`clip_norm`={clip_norm} must be above 0 and at most {MAX_CLIP_NORM}.")
    if not len(answers.values):
        return Answers(answers.clients, answers.bins, np.zeros(0, dtype=np.int64))
    _, owner = np.unique(answers.clients, return_inverse=True)
    values = answers.values.astype(np.float64)
    norms = np.sqrt(np.bincount(owner, weights=values**2))
    scale = units * (clip_norm / np.maximum(norms, clip_norm))
    quantized = np.trunc(values * scale[owner]).astype(np.int64)
    limit = int(np.floor(clip_norm * units))
    squares = np.zeros(len(norms), dtype=np.int64)
    np.add.at(squares, owner, quantized**2)
    quantized -= np.sign(quantized) * (squares > limit**2)[owner]
    return Answers(answers.clients, answers.bins, quantized)
