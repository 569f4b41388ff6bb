"""Selection of candidates by a noisy histogram, and the record of it: post-processing on pure arrays."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

FALLBACK_SHARE = 16
"""Where no bin passes the threshold, one candidate in this many is kept: those with the largest noisy counts."""


def threshold_votes(votes: np.ndarray, threshold: float) -> np.ndarray:
    """Subtract the threshold `H` from a noisy histogram and cut it off at zero (Algorithm 2).

    Where that leaves nothing, the largest noisy counts are kept with equal weight instead, and a warning is logged:
    the run goes on, on little evidence.

    Args:
        votes (`np.ndarray` of shape `(m,)`): Noisy histogram, in votes.
        threshold (`float`): Threshold in votes.

    Returns:
        `np.ndarray` of shape `(m,)`: Weights, not negative and not all zero.

    Raises:
        ValueError: Some votes are not finite.
    """
    if not np.isfinite(votes).all():
        raise ValueError("`votes` holds NaN or infinite counts: check the pool of clients that released them.")
    weights = np.maximum(votes - threshold, 0.0)
    if weights.any():
        return weights
    keep = max(1, len(votes) // FALLBACK_SHARE)
    logger.warning(
        "No candidate has more noisy votes than the threshold of %.4g: the %d with the most go on instead. The noise "
        "drowns the votes; a larger `epsilon`, fewer `num_rounds`, a smaller `population_size` or more clients help.",
        threshold,
        keep,
    )
    weights[np.argsort(-votes, kind="stable")[:keep]] = 1.0
    return weights


def resample(weights: np.ndarray, num_parents: int, rng: np.random.Generator) -> np.ndarray:
    """Draw parents with replacement, in proportion to their weights (`P_t` of Algorithm 1).

    Args:
        weights (`np.ndarray` of shape `(m,)`): Weights that are not negative and not all zero.
        num_parents (`int`): Number of draws `N_syn`.
        rng (`np.random.Generator`): Source of randomness; it is public.

    Returns:
        `np.ndarray` of shape `(num_parents,)`: Sorted indices of the parents. Their set is the round's survivors.
    """
    return np.sort(rng.choice(len(weights), size=num_parents, p=weights / weights.sum()))


@dataclass(frozen=True)
class RoundRecord:
    """What a round did, as far as everybody may know.

    Args:
        round (`int`): Number of the round, from 1.
        num_candidates (`int`): Candidates that the clients voted for.
        num_above_threshold (`int`): Candidates whose noisy votes passed the threshold.
        num_survivors (`int`): Different candidates that were drawn as parents.
        votes (`tuple` of `float`): The noisy histogram, sorted from most to fewest votes.
        seconds (`float`): Time that the round's public work took. (The clients' time depends on what they hold.)
    """

    round: int
    num_candidates: int
    num_above_threshold: int
    num_survivors: int
    votes: tuple[float, ...]
    seconds: float

    @classmethod
    def of(
        cls, number: int, votes: np.ndarray, weights: np.ndarray, survivors: np.ndarray, seconds: float
    ) -> "RoundRecord":
        """Sum up a round by its noisy histogram, the weights after the threshold, and the survivors."""
        ordered = tuple(float(count) for count in np.sort(votes)[::-1])
        return cls(number, len(votes), int((weights > 0).sum()), len(survivors), ordered, seconds)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RoundRecord":
        """Read what `dataclasses.asdict` and JSON made of a record."""
        return cls(**{**values, "votes": tuple(values["votes"])})

    @classmethod
    def is_valid(cls, values: Any) -> bool:
        """Tell whether a value from a file has the fields of a record, with numbers in them."""
        if not isinstance(values, dict) or set(values) != {each.name for each in fields(cls)}:
            return False
        votes = values["votes"]
        return isinstance(votes, list) and all(
            isinstance(number, (int, float))
            for number in [*votes, *(values[name] for name in values if name != "votes")]
        )
