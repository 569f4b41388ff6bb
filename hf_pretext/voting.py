"""Votes of clients for candidates, as pure array functions that see one client's data at a time in effect.

What a client contributes to a round is the integer vector that `quantize_votes` returns for it. Two properties make
its L2 norm a sensitivity, and both are exact, not up to rounding:

1. *Bounded.* The norm of a client's integer vector is at most `clip_norm * VOTE_UNITS` (`quantize_votes`).
2. *Local.* A client's vector depends on that client's own samples and on the candidates, never on who else takes part.
   A floating-point matrix product does not promise this: the sum behind one entry may be ordered differently in a
   larger batch, and a near tie may flip. So embeddings are rounded to integers small enough that every product and
   every partial sum is an integer below 2^24, which float32 holds exactly in any order (`quantize_embeddings`).
"""

import numpy as np

VOTE_UNITS = 2**20
"""Integer units that make one vote. Fine enough that the discrete Gaussian is accounted as the continuous one."""

VOTE_UNITS_OF_A_FEDERATION = 2**14
"""The same where sums of many clients have to fit into the 32 bits of secure aggregation."""

MAX_CLIP_NORM = 2**10
"""Largest clipping norm, in votes, for which the squares of integer votes fit into 64 bits."""

EMBEDDING_UNITS = 2**11
"""Integer units that make length one in the space of embeddings."""


def quantize_embeddings(embeddings: np.ndarray) -> np.ndarray:
    """Round unit-length embeddings to whole multiples of `1 / EMBEDDING_UNITS`.

    A row of `d` entries and of length `r` rounds to a vector of norm at most `r * EMBEDDING_UNITS + sqrt(d) / 2`. By
    Cauchy-Schwarz every partial sum of the dot product of two such rows is an integer of at most its square, and
    `2 <p, c> - |c|^2` of at most three times that: below 2^24 for every `d` up to 65,536.

    Args:
        embeddings (`np.ndarray` of shape `(n, d)`): Rows of length at most one, give or take a thousandth.

    Returns:
        `np.ndarray` of shape `(n, d)`: Integers, held as float32 for fast matrix products.

    Raises:
        ValueError: An entry is not finite, a row is longer than one, or `d` is above 65,536.
    """
    embeddings = np.asarray(embeddings)
    if embeddings.ndim != 2 or embeddings.shape[1] > 2**16:
        raise ValueError(
            f"`embeddings` of shape {embeddings.shape} must be two-dimensional, with at most 65,536 columns."
        )
    if not np.isfinite(embeddings).all():
        raise ValueError("`embeddings` holds NaN or infinite entries: check the embedding model and its dtype.")
    if len(embeddings) and np.linalg.norm(embeddings.astype(np.float64), axis=1).max() > 1 + 1e-3:
        raise ValueError("`embeddings` holds rows longer than 1; normalise them to unit length first.")
    return np.rint(embeddings * np.float32(EMBEDDING_UNITS)).astype(np.float32)


def nearest_candidates(
    samples: np.ndarray, candidates: np.ndarray, number: int = 1, block_size: int = 1024
) -> np.ndarray:
    """Find each sample's nearest candidates by L2 distance (Algorithm 2, which takes one).

    The nearest candidate `c` of a sample `p` has the largest `2 <p, c> - |c|^2`. On quantised embeddings this is exact
    integer arithmetic; among equally near candidates the first wins. At most `block_size` times the number of
    candidates scores are in memory at a time.

    Args:
        samples (`np.ndarray` of shape `(n, d)`): Quantised embeddings of samples.
        candidates (`np.ndarray` of shape `(m, d)`): Quantised embeddings of candidates.
        number (`int`, *optional*, defaults to `1`): Candidates of a sample; all, if there are fewer.
        block_size (`int`, *optional*, defaults to `1024`):
            Samples per matrix product. Their scores then stay in the cache while the largest is found.

    Returns:
        `np.ndarray` of shape `(n, number)`: Indices of each sample's candidates, the nearest first, int64.
    """
    squared_norms = np.einsum("md,md->m", candidates, candidates)
    # A column of ones on the left takes the norms into the product, which saves a pass over the scores.
    right = np.concatenate([2 * candidates.T, -squared_norms[None]])
    block_size = max(1, min(block_size, len(samples)))
    left = np.ones((block_size, len(right)), dtype=np.float32)
    scores = np.empty((block_size, len(candidates)), dtype=np.float32)
    nearest = np.empty((len(samples), min(number, len(candidates))), dtype=np.int64)
    for start in range(0, len(samples), block_size):
        block = samples[start : start + block_size]
        filled = scores[: len(block)]
        left[: len(block), :-1] = block
        np.matmul(left[: len(block)], right, out=filled)
        for column in nearest[start : start + len(block)].T:
            column[:] = filled.argmax(axis=1)
            filled[np.arange(len(block)), column] = -np.inf  # the next column is the next nearest
    return nearest


def count_votes(clients: np.ndarray, nearest: np.ndarray, num_candidates: int) -> tuple[np.ndarray, ...]:
    """Count each client's votes as a sparse matrix.

    Args:
        clients (`np.ndarray` of shape `(n,)`): Index of the client of each sample.
        nearest (`np.ndarray` of shape `(n, k)`): Indices of the candidates that each sample votes for.
        num_candidates (`int`): Number of candidates.

    Returns:
        `tuple` of three int64 `np.ndarray` of one length: client, candidate, and that client's number of votes for it.
    """
    pairs, counts = np.unique(clients.astype(np.int64)[:, None] * num_candidates + nearest, return_counts=True)
    return pairs // num_candidates, pairs % num_candidates, counts.astype(np.int64)


def quantize_votes(
    clients: np.ndarray, counts: np.ndarray, clip_norm: float, vote_units: int = VOTE_UNITS
) -> np.ndarray:
    """Clip each client's vote vector to an L2 norm and round it to integer units.

    *Claim.* For every client, the returned integers `q` satisfy `|q|_2 <= clip_norm * vote_units`, exactly.
    *Proof.* A client's counts `v >= 0` are scaled by `min(1, clip_norm / |v|)` and then rounded towards zero, which
    makes no entry larger, so the norm of the result is at most the norm before, up to floating-point error in the
    scaling. That error is removed by checking the claim in integer arithmetic and subtracting one unit from each entry
    of a client that breaks it: the error is far below one unit, so each entry is then below its exact value. (One
    client may so lose one unit in a million: the private side says no.)

    Args:
        clients (`np.ndarray` of shape `(k,)`): Index of the client of each count.
        counts (`np.ndarray` of shape `(k,)`): Positive numbers of votes.
        clip_norm (`float`): Largest L2 norm of a client's votes, in votes; at most `MAX_CLIP_NORM`.
        vote_units (`int`, *optional*, defaults to `VOTE_UNITS`): Integer units that make one vote.

    Returns:
        `np.ndarray` of shape `(k,)`: Each count, clipped, in units of `1 / vote_units` votes, int64.

    Raises:
        ValueError: `clip_norm` is not positive, or so large that squares would not fit into 64 bits.
    """
    if not 0 < clip_norm <= MAX_CLIP_NORM:
        raise ValueError(f"`clip_norm`={clip_norm} must be above 0 and at most {MAX_CLIP_NORM}.")
    if not len(counts):
        return np.zeros(0, dtype=np.int64)
    _, owner = np.unique(clients, return_inverse=True)
    norms = np.sqrt(np.bincount(owner, weights=counts.astype(np.float64) ** 2))
    scale = vote_units * np.minimum(1.0, clip_norm / norms)
    quantized = np.floor(counts * scale[owner]).astype(np.int64)
    limit = int(np.floor(clip_norm * vote_units))
    squares = np.zeros(len(norms), dtype=np.int64)
    np.add.at(squares, owner, quantized**2)
    return np.maximum(quantized - (squares > limit**2)[owner], 0)


def sum_votes(candidates: np.ndarray, quantized: np.ndarray, num_candidates: int) -> np.ndarray:
    """Sum all clients' integer votes into one histogram of shape `(num_candidates,)`, int64."""
    histogram = np.zeros(num_candidates, dtype=np.int64)
    np.add.at(histogram, candidates, quantized)
    return histogram


def cast_votes(
    clients: np.ndarray,
    samples: np.ndarray,
    candidates: np.ndarray,
    clip_norm: float,
    vote_units: int = VOTE_UNITS,
    votes_per_sample: int = 1,
) -> np.ndarray:
    """Sum the votes of some clients, or of one: what the private side computes before any noise (Algorithm 2).

    Released to nobody. Unit: the client; each one's part of the sum has an L2 norm of at most
    `clip_norm * vote_units`, for however many candidates it votes, and depends on its own samples only. A vector of a
    given norm that is spread over `k` candidates has `sqrt(k)` times the votes in all, which is why more than one vote
    of a sample says more under the same noise.

    Args:
        clients (`np.ndarray` of shape `(n,)`): Index of the client of each sample.
        samples (`np.ndarray` of shape `(n, d)`): Quantised embeddings of the samples.
        candidates (`np.ndarray` of shape `(m, d)`): Quantised embeddings of the candidates.
        clip_norm (`float`): Largest L2 norm of a client's votes, in votes.
        vote_units (`int`, *optional*, defaults to `VOTE_UNITS`): Integer units that make one vote.
        votes_per_sample (`int`, *optional*, defaults to `1`): Candidates that a sample votes for, the nearest to it.

    Returns:
        `np.ndarray` of shape `(m,)`: The clean histogram, in units of `1 / vote_units` votes, int64.
    """
    nearest = nearest_candidates(samples, candidates, votes_per_sample)
    voters, choices, counts = count_votes(clients, nearest, len(candidates))
    return sum_votes(choices, quantize_votes(voters, counts, clip_norm, vote_units), len(candidates))
