"""Choosing among written texts so that together they are what the clients' answers say: arrays only.

A language model that is shown seeds, or whose tokens are tilted, misses its goal in any few hundred texts. So more
texts are written than are kept, and those are kept that add up: to the frequencies of tokens, or to a mean embedding.
This is moment matching, as herding does it (Chen, Welling and Smola 2010, arXiv 1203.3472), by exchanges.
"""

import math
from collections.abc import Callable

import numpy as np

TOKENS_WEIGHT, MEAN_WEIGHT = 0.03, 0.003
"""What a standard deviation of the texts' preference is worth, in units of the distance (see `_match`)."""

AT_ONCE = 2048
"""Largest number of texts that are compared with one another at once. Their products are in memory."""

MOST_ROUNDS = 20
"""Times at most that each chosen text is compared with all others."""

TIE = 1e-9
"""Least gain for which a text is exchanged."""

RAREST = 2.0
"""A token counts as if it were written this many times at least, so that a rare one does not decide."""


def match_tokens(
    counts: np.ndarray, lengths: np.ndarray, target: np.ndarray, preference: np.ndarray, number: int
) -> np.ndarray:
    """Choose texts whose tokens together are as frequent as they should be.

    The distance is chi-squared: squared differences of the tokens' fractions, each over its fraction among all texts.

    Args:
        counts (`np.ndarray` of shape `(n, m)`): How often each text holds each token.
        lengths (`np.ndarray` of shape `(n,)`): Number of tokens of each text, also of others than these.
        target (`np.ndarray` of shape `(m,)`): Fraction that each token should have.
        preference (`np.ndarray` of shape `(n,)`): How good each text is by itself. Only the order counts.
        number (`int`): Number of texts to choose.

    Returns:
        `np.ndarray` of shape `(number,)`: Their indices, in ascending order.
    """

    def match(part: np.ndarray, wanted: int) -> np.ndarray:
        own = counts[part]
        total = max(float(lengths[part].sum()), 1.0)
        scale = 1 / np.sqrt(np.maximum(own.sum(axis=0), RAREST) / total)
        return _match(own * scale, lengths[part], target * scale, TOKENS_WEIGHT, preference[part], wanted)

    return _by_parts(match, len(counts), number)


def match_mean(embeddings: np.ndarray, mean: np.ndarray, preference: np.ndarray, number: int) -> np.ndarray:
    """Choose texts whose mean embedding is near a given one. The distance is the squared Euclidean one.

    Args:
        embeddings (`np.ndarray` of shape `(n, d)`): Unit embeddings of the texts.
        mean (`np.ndarray` of shape `(d,)`): The mean that they should have.
        preference (`np.ndarray` of shape `(n,)`): How good each text is by itself. Only the order counts.
        number (`int`): Number of texts to choose.

    Returns:
        `np.ndarray` of shape `(number,)`: Their indices, in ascending order.
    """
    points = embeddings.astype(np.float64)

    def match(part: np.ndarray, wanted: int) -> np.ndarray:
        return _match(points[part], np.ones(len(part)), mean, MEAN_WEIGHT, preference[part], wanted)

    return _by_parts(match, len(points), number)


def _by_parts(match: Callable[[np.ndarray, int], np.ndarray], count: int, number: int) -> np.ndarray:
    """Choose from each part of many texts about its share of what is wanted."""
    chosen: list[int] = []
    for part in np.array_split(np.arange(count), max(1, math.ceil(count / AT_ONCE))):
        wanted = round(number * (part[-1] + 1) / count) - len(chosen)
        chosen += part[match(part, wanted)].tolist()
    return np.array(chosen, dtype=np.int64)


def _match(
    points: np.ndarray, sizes: np.ndarray, goal: np.ndarray, weight: float, preference: np.ndarray, number: int
) -> np.ndarray:
    """Choose points whose sum, over the sum of their sizes, is near a goal.

    What is as large as possible is the mean preference of the chosen ones minus the squared distance. The search
    begins with the preferred ones, and exchanges one for another as long as that helps.
    """
    # All sums of products that the distance of any choice is made of.
    products, to_goal = points @ points.T, points @ goal
    value = weight * _standardized(preference) / number
    chosen = np.zeros(len(points), dtype=bool)
    chosen[np.argsort(-preference, kind="stable")[:number]] = True
    sums = products[:, chosen].sum(axis=1)
    for _ in range(MOST_ROUNDS):
        before = chosen.copy()
        for leaves in np.flatnonzero(before):
            chosen[leaves] = False
            sums -= products[leaves]
            enters = np.flatnonzero(~chosen)
            size = np.maximum(sizes[chosen].sum() + sizes[enters], 1)
            squares = sums[chosen].sum() + 2 * sums[enters] + products[enters, enters]
            distance = squares / size**2 - 2 * (to_goal[chosen].sum() + to_goal[enters]) / size
            # Of equally good ones, the one that was there stays.
            best = enters[np.argmin(distance - value[enters] - TIE * (enters == leaves))]
            chosen[best] = True
            sums += products[best]
        if (chosen == before).all():
            break
    return np.flatnonzero(chosen)


def _standardized(preference: np.ndarray) -> np.ndarray:
    """Return ranks with a mean of zero and a standard deviation of one. All zero if all are equally good."""
    if not np.ptp(preference):
        return np.zeros(len(preference))
    ranks = np.empty(len(preference))
    ranks[np.argsort(preference, kind="stable")] = np.arange(len(preference))
    return (ranks - ranks.mean()) / ranks.std()
