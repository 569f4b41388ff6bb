"""The token tilt: how much likelier a language model has to find each token to write as the clients do.

A release says how often the clients use each of some public tokens. How often the language model writes them by itself
is public. The tilt is a number per token that is added to the model's logits. It is estimated from the two by
empirical Bayes: the logarithms of the ratios have a normal prior, whose width the release itself says. So a token
whose count is mostly noise gets next to no tilt.
"""

from collections.abc import Callable

import numpy as np

MOST_TILT = 2.0
"""Most that is added to a logit, or subtracted."""

WIDTHS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.2, 1.5)
"""Standard deviations of the prior of the logarithms of ratios, of which the likeliest is taken."""

GRID_END = 3.0
"""Largest logarithm of a ratio that the posterior considers."""

PSEUDO_FRACTION = 5e-5
"""Added to what a tilt reached and should reach. A rarer token is not written often enough to correct its tilt."""


def fit_tilt(
    counts: np.ndarray,
    noise_std: float,
    weights: np.ndarray,
    fractions: Callable[[np.ndarray], np.ndarray],
    num_fits: int,
) -> np.ndarray:
    """Find the tilt with which a language model writes each token as often as the clients do.

    Args:
        counts (`np.ndarray` of shape `(n,)`): Noisy sums over the clients, of weighted counts.
        noise_std (`float`): Standard deviation of the noise in each.
        weights (`np.ndarray` of shape `(n,)`): The weights.
        fractions (`Callable`):
            `fractions(tilt)` returns how often the model writes each token with a tilt, as fractions of all that it
            writes.
        num_fits (`int`):
            Number of fits. The first is the estimate of what is to be reached. The others correct the tilt by what the
            one before reached, because a tilted model writes in other contexts.

    Returns:
        `np.ndarray` of shape `(n,)`: What is added to the logits, between `-MOST_TILT` and `MOST_TILT`.
    """
    usual = fractions(np.zeros(len(counts))) + 1e-7
    tilt = estimate_tilt(counts, noise_std, weights * usual)
    goal = usual * np.exp(tilt)
    # Other tokens stay as frequent as they are. The end of a line is one of them, and so texts do not grow or shrink.
    change = float(np.log(goal.sum() / usual.sum()))
    goal *= np.exp(-change)
    tilt = np.clip(tilt - change, -MOST_TILT, MOST_TILT)
    for _ in range(num_fits - 1):
        missing = np.log((goal + PSEUDO_FRACTION) / (fractions(tilt) + PSEUDO_FRACTION))
        tilt = np.clip(tilt + missing, -MOST_TILT, MOST_TILT)
    return tilt


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
    grid = np.linspace(-GRID_END, GRID_END, 121)
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
