"""The token tilt: how much likelier a language model has to find each token to write as the clients do.

A release says how often the clients use each of some public tokens. How often the language model writes them by itself
is public. The tilt is a number per token that is added to the model's logits. It is estimated from the two by
empirical Bayes: the logarithms of the ratios have a normal prior, whose width the release itself says. So a token
whose count is mostly noise gets next to no tilt.
"""

import numpy as np

MOST_TILT = 2.0
"""Largest logarithm of how many times as often, or as seldom, a token is to be written."""

MOST_BIAS = 3.0
"""Most that is added to a logit, or subtracted."""

WIDTHS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.2, 1.5)
"""Standard deviations of the prior of the logarithms of ratios, of which the likeliest is taken."""

SCALES = tuple(np.exp(np.linspace(-0.8, 0.8, 17)).tolist())
"""Scales of the counts that are tried, as multiples of the one that the commonest tokens suggest."""

GRID_END, GRID_POINTS = 3.0, 121
"""Largest logarithm of a ratio that the posterior considers, and how many of them."""

PUBLIC_TOKENS = 2000
"""Tokens of public text that count beside those which the model wrote, because it wrote few of most tokens."""


def with_public(
    means: np.ndarray, variances: np.ndarray, num_tokens: float, public: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Make fractions of tokens more precise by public text, which a model writes much like.

    Args:
        means (`np.ndarray` of shape `(n,)`): Fractions of tokens among all that a model wrote.
        variances (`np.ndarray` of shape `(n,)`): Their variances.
        num_tokens (`float`): Number of tokens that it wrote.
        public (`np.ndarray` of shape `(n,)`): How often public texts hold each of these, on any scale.

    Returns:
        `tuple` of two `np.ndarray`: Fractions and their variances.
    """
    share = num_tokens / (num_tokens + PUBLIC_TOKENS)
    # The fractions of these tokens together stay as they are.
    others = means.sum() * public / public.sum()
    return share * means + (1 - share) * others, share**2 * variances


def fit_tilt(
    counts: np.ndarray, noise_std: float, weights: np.ndarray, usual: np.ndarray, variances: np.ndarray
) -> np.ndarray:
    """Find the tilt with which a language model writes each token as often as the clients do.

    Args:
        counts (`np.ndarray` of shape `(n,)`): Noisy sums over the clients, of weighted counts.
        noise_std (`float`): Standard deviation of the noise in each.
        weights (`np.ndarray` of shape `(n,)`): The weights.
        usual (`np.ndarray` of shape `(n,)`): Fractions of the tokens without a tilt, above zero.
        variances (`np.ndarray` of shape `(n,)`): Their variances.

    Returns:
        `np.ndarray` of shape `(n,)`: What is added to the logits, between `-MOST_TILT` and `MOST_TILT`.
    """
    tilt = estimate_tilt(counts, noise_std, weights * usual, weights**2 * variances)
    # Other tokens stay as frequent as they are. The end of a line is one of them, and so texts do not grow or shrink.
    change = np.log((usual * np.exp(tilt)).sum() / usual.sum())
    return np.clip(tilt - change, -MOST_TILT, MOST_TILT)


def estimate_tilt(counts: np.ndarray, noise_std: float, expected: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """Estimate the logarithm of how many times as often the clients use each token as a language model does.

    Args:
        counts (`np.ndarray` of shape `(n,)`): Noisy sums over the clients, of weighted counts.
        noise_std (`float`): Standard deviation of the noise in each.
        expected (`np.ndarray` of shape `(n,)`):
            How often the model writes each token, with the same weights, above zero. On any scale.
        variances (`np.ndarray` of shape `(n,)`): Variances of that, on this scale squared.

    Returns:
        `np.ndarray` of shape `(n,)`: Posterior means, between `-MOST_TILT` and `MOST_TILT`.
    """
    # The clients' numbers of texts are not released. The commonest tokens, which noise does not hide, set the scale
    # about right. Which of the scales near it, and which width of the prior, the counts themselves say.
    scale = float(counts @ expected) / float(expected @ expected)
    if scale <= 0:  # Noise alone.
        return np.zeros(len(counts))
    grid = np.linspace(-GRID_END, GRID_END, GRID_POINTS)
    # A ratio is one on average.
    priors = [np.exp(-(((grid + width**2 / 2) / width) ** 2) / 2) for width in WIDTHS]
    columns = np.array([prior / prior.sum() for prior in priors]).T
    best, means = -np.inf, np.zeros(len(counts))
    for factor in SCALES:
        sums = factor * scale * np.exp(grid)
        spread = noise_std**2 + sums**2 * variances[:, None]
        logarithms = -((counts[:, None] - sums * expected[:, None]) ** 2 / spread + np.log(spread)) / 2
        largest = logarithms.max(axis=1, keepdims=True)
        likelihoods = np.exp(logarithms - largest)
        evidence = np.maximum(likelihoods @ columns, 1e-300)
        totals = np.log(evidence).sum(axis=0) + largest.sum()
        width = int(totals.argmax())
        if totals[width] > best:
            best, means = totals[width], (likelihoods * columns[:, width]) @ grid / evidence[:, width]
    return np.clip(means, -MOST_TILT, MOST_TILT)
