"""Selection of candidates by their noisy votes: post-processing on arrays."""

import logging
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from ..configuration import PrivateEvolutionConfig
from .evidence import VotesReading
from .smoothing import check_finite

logger = logging.getLogger(__name__)

FALLBACK_FRACTION = 1 / 16
"""Fraction of the candidates that is kept if no bin passes the threshold: those with the largest noisy counts."""


@runtime_checkable
class SelectionRule(Protocol):
    """Turns noisy votes into weights. It is post-processing, so any rule keeps the guarantee."""

    def select(self, reading: VotesReading) -> np.ndarray:
        """Weigh the candidates of a round.

        Args:
            reading (`VotesReading`):
                The noisy `votes`, their `noise_std`, the `embeddings` of the candidates, and `smoothed` votes.

        Returns:
            `np.ndarray` of shape `(m,)`: A weight per candidate, not negative and not all zero.
        """
        ...


class ThresholdRule:
    """The paper's rule: votes above this many standard deviations of the noise (Algorithm 2)."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold

    def select(self, reading: VotesReading) -> np.ndarray:
        """Weigh the candidates. See `SelectionRule`."""
        return threshold_votes(reading.votes, self._threshold * reading.noise_std)


class SmoothedRule:
    """The default rule: smoothed votes above this many standard deviations of the noise that is left in them."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold

    def select(self, reading: VotesReading) -> np.ndarray:
        """Weigh the candidates. See `SelectionRule`."""
        return threshold_votes(reading.smoothed.votes, self._threshold * reading.smoothed.std)


def selection_rule(given: SelectionRule | None, config: PrivateEvolutionConfig) -> SelectionRule:
    """Return a rule that the caller gave, or the one that the configuration asks for.

    Raises:
        TypeError: The object is not a rule.
    """
    if given is None:
        return (SmoothedRule if config.smooth_votes else ThresholdRule)(config.threshold)
    if not isinstance(given, SelectionRule):
        raise TypeError(f"`selection` of type {type(given).__name__} needs a method `select` (see `SelectionRule`).")
    return given


def threshold_votes(votes: np.ndarray, threshold: float | np.ndarray) -> np.ndarray:
    """Subtract the threshold `H` from a noisy histogram and cut it off at zero (Algorithm 2).

    If that leaves nothing, the largest noisy counts are kept with equal weight instead, and a warning is logged: the
    run continues, on little evidence.

    Args:
        votes (`np.ndarray` of shape `(m,)`): Noisy histogram, in votes.
        threshold (`float` or `np.ndarray` of shape `(m,)`): Threshold in votes, of all bins or of each.

    Returns:
        `np.ndarray` of shape `(m,)`: Weights, not negative and not all zero.

    Raises:
        ValueError: Some votes are not finite.
    """
    check_finite(votes)
    weights = np.maximum(votes - threshold, 0.0)
    if weights.any():
        return weights
    keep = max(1, int(len(votes) * FALLBACK_FRACTION))
    logger.warning(
        "No candidate has more votes than the threshold of %.4g: the %d with the most votes are kept instead. The "
        "noise drowns the votes. A larger `epsilon`, fewer `num_rounds`, a smaller `population_size` or more clients "
        "help.",
        np.mean(threshold),
        keep,
    )
    weights[np.argsort(-votes, kind="stable")[:keep]] = 1.0
    return weights


def resample(weights: np.ndarray, num_parents: int, rng: np.random.Generator) -> np.ndarray:
    """Draw parents with replacement, in proportion to their weights (`P_t` of Algorithm 1).

    Args:
        weights (`np.ndarray` of shape `(m,)`): Weights that are not negative and not all zero.
        num_parents (`int`): Number of draws `N_syn`.
        rng (`np.random.Generator`): Source of randomness. It is public.

    Returns:
        `np.ndarray` of shape `(num_parents,)`: Sorted indices of the parents. Their set is the round's survivors.
    """
    return np.sort(rng.choice(len(weights), size=num_parents, p=weights / weights.sum()))


def resample_parts(
    weights: np.ndarray, parts: Sequence[slice], sizes: Sequence[int], rng: np.random.Generator
) -> np.ndarray:
    """Draw parents of each part among the candidates of that part. See `resample`.

    Args:
        weights (`np.ndarray` of shape `(m,)`): Weights, in each part not all zero.
        parts (`Sequence` of `slice`): Where the parts are.
        sizes (`Sequence[int]`): Number of draws of each.
        rng (`np.random.Generator`): Source of randomness.

    Returns:
        `np.ndarray` of shape `(sum(sizes),)`: Sorted indices of the parents.
    """
    drawn = [part.start + resample(weights[part], size, rng) for part, size in zip(parts, sizes, strict=True)]
    return np.concatenate(drawn)
