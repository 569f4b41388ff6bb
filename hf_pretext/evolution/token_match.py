"""Choosing among written texts so that together they hold each token as often as the clients do: arrays only.

A tilt makes a language model write a token more often, but it misses its goal in any few hundred texts. So more texts
are written than are kept, and those are kept whose tokens add up. This is moment matching, as herding does it (Chen,
Welling and Smola 2010, arXiv 1203.3472), by exchanges.
"""

import numpy as np

PREFERENCE_WEIGHT = 0.03
"""What a standard deviation of the texts' preference is worth, in units of the distance (see `match_tokens`)."""

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
    What is as large as possible is the mean preference of the chosen texts minus this distance. The search begins with
    the preferred texts, and exchanges one for another as long as that helps.

    Args:
        counts (`np.ndarray` of shape `(n, m)`): How often each text holds each token.
        lengths (`np.ndarray` of shape `(n,)`): Number of tokens of each text, also of others than these.
        target (`np.ndarray` of shape `(m,)`): Fraction that each token should have.
        preference (`np.ndarray` of shape `(n,)`): How good each text is by itself. Only the order counts.
        number (`int`): Number of texts to choose.

    Returns:
        `np.ndarray` of shape `(number,)`: Their indices, in ascending order.
    """
    total = max(float(lengths.sum()), 1.0)
    scale = 1 / np.sqrt(np.maximum(counts.sum(axis=0), RAREST) / total)
    points, goal = counts * scale, target * scale
    # All sums of products that the distance of any choice is made of.
    products, to_goal = points @ points.T, points @ goal
    value = PREFERENCE_WEIGHT * _standardized(preference) / number
    chosen = np.zeros(len(counts), dtype=bool)
    chosen[np.argsort(-preference, kind="stable")[:number]] = True
    sums = products[:, chosen].sum(axis=1)
    for _ in range(MOST_ROUNDS):
        before = chosen.copy()
        for leaves in np.flatnonzero(before):
            chosen[leaves] = False
            sums -= products[leaves]
            enters = np.flatnonzero(~chosen)
            length = np.maximum(lengths[chosen].sum() + lengths[enters], 1)
            squares = sums[chosen].sum() + 2 * sums[enters] + products[enters, enters]
            distance = squares / length**2 - 2 * (to_goal[chosen].sum() + to_goal[enters]) / length
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
