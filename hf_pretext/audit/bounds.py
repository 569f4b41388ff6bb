"""From the scores of an attack to a lower bound on epsilon."""

import math
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np

GUESSED_FRACTIONS = (0.125, 0.25, 0.5, 1.0)
"""Fractions of the targets that an attack guesses. Each is tried, and the confidence pays for all of them."""


@dataclass(frozen=True)
class AuditReading:
    """What one attack achieved.

    Args:
        attack (`str`): Its name.
        epsilon_lower_bound (`float`): With this confidence, the mechanism's epsilon is not below it.
        confidence (`float`): The confidence, which pays for all numbers of guesses that were tried.
        num_targets (`int`): Number of targets.
        num_guesses (`int`): Number of guesses that gave the bound.
        num_correct (`int`): How many of these were right.
        auc (`float`): Probability that a member scores higher than another target. 0.5 is chance.
        auc_low (`float`): Lower end of its 95 % interval.
        auc_high (`float`): Upper end.
    """

    attack: str
    epsilon_lower_bound: float
    confidence: float
    num_targets: int
    num_guesses: int
    num_correct: int
    auc: float
    auc_low: float
    auc_high: float

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as a dictionary that JSON can hold."""
        return asdict(self)


def read_scores(
    attack: str, scores: np.ndarray, is_member: np.ndarray, delta: float, confidence: float = 0.95
) -> AuditReading:
    """Turn the scores of an attack into a lower bound on epsilon.

    The scores are split into a higher and a lower group. The higher one is guessed to be members, and no guess is made
    about those nearest to the border. This does not use who is a member. Of several numbers of guesses the best bound
    counts, at a confidence that pays for all of them (Bonferroni).

    Args:
        attack (`str`): Its name.
        scores (`np.ndarray` of shape `(n,)`): Higher for those that seem to be members.
        is_member (`np.ndarray` of shape `(n,)`): The results of fair and independent coins.
        delta (`float`): The delta of the claim.
        confidence (`float`, *optional*, defaults to `0.95`): Probability with which the bound holds.

    Raises:
        ValueError: All targets are members, or none is. An attack needs both.
    """
    if is_member.all() or not is_member.any():
        raise ValueError("`is_member` is the same for all targets: use more of them, so that both sides occur.")
    each = 1 - (1 - confidence) / len(GUESSED_FRACTIONS)
    border = _border(scores)
    is_right = (scores > border) == is_member
    # Ties are broken without looking at who is a member.
    order = np.lexsort((np.random.default_rng(0).random(len(scores)), -np.abs(scores - border)))
    results = []
    for num_guesses in sorted({max(1, int(fraction * len(scores))) for fraction in GUESSED_FRACTIONS}):
        correct = int(is_right[order[:num_guesses]].sum())
        results.append((epsilon_lower_bound(correct, num_guesses, len(scores), delta, each), num_guesses, correct))
    bound, num_guesses, num_correct = max(results)
    auc, low, high = _auc(scores[is_member], scores[~is_member])
    return AuditReading(attack, bound, confidence, len(scores), num_guesses, num_correct, auc, low, high)


@cache  # It takes a while, and attacks of an audit often have the same result.
def epsilon_lower_bound(
    num_correct: int, num_guesses: int, num_targets: int, delta: float, confidence: float = 0.95
) -> float:
    """Compute the largest epsilon that this many right guesses refute (Steinke et al. 2023, theorem 5.2).

    Under `(epsilon, delta)`-DP the number of right guesses is at most binomial with success probability
    `e^epsilon / (1 + e^epsilon)`, but for `delta`: the probability of `v` or more is at most
    `f(v) + 2 m delta max_i (f(v - i) - f(v)) / i`, with `f` the binomial's upper tail and `m` the number of targets.

    Args:
        num_correct (`int`): Right guesses `v`.
        num_guesses (`int`): Guesses `r`.
        num_targets (`int`): Targets `m`, each with a fair coin of its own.
        delta (`float`): The delta of the claim.
        confidence (`float`, *optional*, defaults to `0.95`): Probability with which the bound holds.

    Returns:
        `float`: The bound, or 0 if nothing is refuted.
    """
    if not 0 <= num_correct <= num_guesses <= num_targets:
        raise ValueError(
            f"`num_correct`={num_correct}, `num_guesses`={num_guesses} and `num_targets`={num_targets} must not "
            "exceed one another, in this order."
        )
    from scipy.stats import binom

    def p_value(epsilon: float) -> float:
        success = 1 / (1 + math.exp(-epsilon))
        tail = binom.sf(num_correct - 1, num_guesses, success)
        steps = np.arange(1, num_correct + 1)
        gains = (binom.sf(num_correct - 1 - steps, num_guesses, success) - tail) / steps
        return float(tail + 2 * num_targets * delta * gains.max(initial=0.0))

    low, high = 0.0, 30.0
    if p_value(low) > 1 - confidence:
        return 0.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(middle) <= 1 - confidence else (low, middle)
    return low


def mu_lower_bound(scores_with: np.ndarray, scores_without: np.ndarray, confidence: float = 0.95) -> float:
    """Bound the mu of Gaussian differential privacy from below by many runs with one client, and many without.

    A test with false-positive rate `a` and true-positive rate `b` refutes every `mu < z(b) - z(a)`, with `z` the
    normal quantile (Dong, Roth and Su 2022, arXiv 1905.02383). The threshold is chosen on one half of the runs, where
    it separates best, and the rates are bounded on the other half (Clopper-Pearson).

    Args:
        scores_with (`np.ndarray` of shape `(n,)`): An attack's score of each run with the client.
        scores_without (`np.ndarray` of shape `(m,)`): Its score of each run without.
        confidence (`float`, *optional*, defaults to `0.95`): Probability with which the bound holds.

    Returns:
        `float`: The bound, or 0 if nothing is refuted.
    """
    from scipy.stats import beta, norm

    def bound(with_client: np.ndarray, without: np.ndarray, threshold: float, miss: float) -> float:
        hits, alarms = int((with_client > threshold).sum()), int((without > threshold).sum())
        power = beta.ppf(miss, hits, len(with_client) - hits + 1) if hits else 0.0
        alarm = beta.ppf(1 - miss, alarms + 1, len(without) - alarms) if alarms < len(without) else 1.0
        return float(norm.ppf(power) - norm.ppf(alarm))

    miss = (1 - confidence) / 2
    choosing, bounding = ((scores_with[half::2], scores_without[half::2]) for half in (0, 1))
    thresholds = np.linspace(np.median(choosing[1]), np.median(choosing[0]), 9)
    best = max(thresholds, key=lambda threshold: bound(*choosing, threshold, miss))
    return max(0.0, bound(*bounding, best, miss))


def _border(scores: np.ndarray) -> float:
    """Find the border between two groups of scores: the split with the least variance within the groups."""
    ordered = np.sort(scores)
    sizes, sums = np.arange(1, len(ordered)), ordered.cumsum()[:-1]
    low, high = sums / sizes, (ordered.sum() - sums) / (len(ordered) - sizes)
    best = int(np.argmax(sizes * (len(ordered) - sizes) * (high - low) ** 2))
    return float((ordered[best] + ordered[best + 1]) / 2)


def _auc(members: np.ndarray, others: np.ndarray) -> tuple[float, float, float]:
    """Compute the area under the ROC curve and its 95 % interval (DeLong et al. 1988)."""
    wins = (members[:, None] > others).astype(float) + 0.5 * (members[:, None] == others)
    of_members, of_others = wins.mean(axis=1), wins.mean(axis=0)
    variance = sum(part.var(ddof=1) / len(part) if len(part) > 1 else 0.25 for part in (of_members, of_others))
    area, reach = float(wins.mean()), 1.96 * math.sqrt(variance)
    return area, max(0.0, area - reach), min(1.0, area + reach)
