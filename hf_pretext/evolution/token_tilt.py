"""The token tilt: how much likelier a language model has to find each token to write as the clients do.

A release says how often the clients use each of some public tokens. What the language model expects to write by itself
is public. The tilt is a number per token that is added to the model's logits. It is estimated from the two by empirical
Bayes: the logarithms of the ratios have a normal prior, whose width the release itself says. So a token whose count is
mostly noise gets next to no tilt, and with few clients or a small budget nearly all tokens do.
"""

from functools import cache

import numpy as np

MOST_TILT = 2.0
"""Most that is added to a logit, or subtracted."""

WIDTHS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.2, 1.5)
"""Standard deviations of the prior of the logarithms of ratios, of which the likeliest is taken."""


def estimate_tilt(counts: np.ndarray, noise_std: float, expected: np.ndarray) -> np.ndarray:
    """Estimate the logarithm of how many times as often the clients use each token as a language model does.

    Args:
        counts (`np.ndarray` of shape `(n,)`): Noisy sums over the clients, of weighted counts.
        noise_std (`float`): Standard deviation of the noise in each.
        expected (`np.ndarray` of shape `(n,)`):
            How often the model writes each token, with the same weights, above zero. On any scale.

    Returns:
        `np.ndarray` of shape `(n,)`: Posterior means, between `-MOST_TILT` and `MOST_TILT`.
    """
    # The clients' numbers of texts are not released. The commonest tokens, which noise does not hide, set the scale.
    scale = float(counts @ expected) / float(expected @ expected)
    if scale <= 0:  # Noise alone.
        return np.zeros(len(counts))
    grid = _grid()
    misfit = (counts[:, None] - scale * expected[:, None] * np.exp(grid)) / noise_std
    logarithms = -(misfit**2) / 2
    highest = logarithms.max(axis=1, keepdims=True)
    likelihoods = np.exp(logarithms - highest)
    best, means = -np.inf, np.zeros(len(counts))
    for width in WIDTHS:
        # A ratio is one on average.
        prior = np.exp(-(((grid + width**2 / 2) / width) ** 2) / 2)
        evidence = likelihoods @ (prior / prior.sum())
        total = float(np.log(np.maximum(evidence, 1e-300)).sum())
        if total > best:
            best, means = total, (likelihoods * prior) @ grid / np.maximum(likelihoods @ prior, 1e-300)
    return np.clip(means, -MOST_TILT, MOST_TILT)


def refine_tilt(tilt: np.ndarray, expected: np.ndarray, reached: np.ndarray, pseudo_count: float) -> np.ndarray:
    """Correct a tilt by what it reached, since a tilted model also writes in other contexts.

    Args:
        tilt (`np.ndarray` of shape `(n,)`): The estimate, which is what is to be reached.
        expected (`np.ndarray` of shape `(n,)`): Fraction of each token among what the model writes without a tilt.
        reached (`np.ndarray` of shape `(n,)`): The same with the tilt.
        pseudo_count (`float`): Added to both fractions, since rare tokens are known imprecisely.

    Returns:
        `np.ndarray` of shape `(n,)`: The corrected tilt.
    """
    target = expected * np.exp(tilt)
    target *= expected.sum() / target.sum()
    step = np.log((target + pseudo_count) / (reached + pseudo_count))
    return np.clip(tilt + step, -MOST_TILT, MOST_TILT)


@cache
def _grid() -> np.ndarray:
    return np.linspace(-3.0, 3.0, 121)
