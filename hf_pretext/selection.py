"""Selection of candidates by a noisy histogram, and the record of it: post-processing on pure arrays."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

FALLBACK_SHARE = 16
"""Where no bin passes the threshold, one candidate in this many is kept: those with the largest noisy counts."""


MAX_CHANGE = 10.0
"""Most that one round's votes change how likely a text is drawn; they are noisy."""

LANDMARKS = 768
"""Most candidates that the kernel of `smooth_votes` is spanned by; its time grows with the square of this."""

LENGTHS = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Length scales that `smooth_votes` chooses among, in units of one minus the cosine of two embeddings."""


@dataclass(frozen=True)
class SmoothedVotes:
    """What a noisy histogram tells about the votes, given that candidates that are alike get votes that are alike.

    Args:
        votes (`np.ndarray` of shape `(m,)`): Expected votes of each candidate.
        std (`np.ndarray` of shape `(m,)`): Standard deviation that is left in them, at most the noise's.
        predict (`Callable`):
            Maps unit embeddings of shape `(n, d)` to the votes, shape `(n,)`, that candidates there would have got.
    """

    votes: np.ndarray
    std: np.ndarray
    predict: Callable[[np.ndarray], np.ndarray]


def smooth_votes(votes: np.ndarray, noise_std: float, embeddings: np.ndarray) -> SmoothedVotes:
    """Take noise out of a histogram by Gaussian process regression over the candidates' embeddings.

    Post-processing: it reads the noisy histogram, the noise's standard deviation, and public embeddings. The votes are
    modelled as a mean, plus a smooth function of the embedding with covariance `a exp((cos - 1) / length)`, plus each
    candidate's own deviation of variance `b`, plus noise of the known variance; the result is the posterior mean and
    standard deviation of the first three (Rasmussen and Williams 2006, chapter 2). `a`, `b` and `length` have the
    largest marginal likelihood on a grid. The kernel is spanned by at most `LANDMARKS` candidates (Nyström, Williams
    and Seeger 2001).

    Args:
        votes (`np.ndarray` of shape `(m,)`): Noisy histogram, in votes.
        noise_std (`float`): Standard deviation of the noise in a bin, in votes.
        embeddings (`np.ndarray` of shape `(m, d)`): Embeddings of the candidates, of length about one.

    Raises:
        ValueError: Some votes are not finite.
    """
    _check_finite(votes)
    noise = noise_std**2
    mean = votes.mean()
    centered = votes - mean
    signal = max(float(centered.var()) - noise, 0.01 * noise)
    landmarks = embeddings[np.unique(np.linspace(0, len(votes) - 1, min(LANDMARKS, len(votes))).astype(int))]
    best: tuple[Any, ...] = (-np.inf,)
    for length in LENGTHS:
        values, vectors = np.linalg.eigh(_kernel(landmarks, landmarks, length))
        kept = values > 1e-5 * values.max()
        whiten = vectors[:, kept] / np.sqrt(values[kept])
        features = _kernel(embeddings, landmarks, length) @ whiten
        # In the directions of its eigenvectors the covariance of the features is diagonal.
        spread, directions = np.linalg.eigh(features.T @ features)
        spread = np.maximum(spread, 1e-9)
        basis = (features @ directions) / np.sqrt(spread)
        coordinates = basis.T @ centered
        rest = max(float(centered @ centered - coordinates @ coordinates), 0.0)
        for smooth in signal * np.geomspace(0.03, 30, 16):
            for own in signal * np.array([0, 0.03, 0.1, 0.3, 0.6, 1]):
                variance = smooth * spread + own + noise
                outside = rest / (own + noise) + (len(votes) - len(spread)) * np.log(own + noise)
                likelihood = -0.5 * float((coordinates**2 / variance + np.log(variance)).sum() + outside)
                if likelihood > best[0]:
                    best = likelihood, length, smooth, own, spread, whiten @ directions, basis, coordinates
    _, length, smooth, own, spread, to_coordinates, basis, coordinates = best
    prior = smooth * spread + own
    alone = own / (own + noise)
    expected = mean + basis @ (prior / (prior + noise) * coordinates) + alone * (centered - basis @ coordinates)
    inside = (basis**2) @ (prior * noise / (prior + noise))
    variance = inside + alone * noise * np.maximum(1 - (basis**2).sum(axis=1), 0)
    weights = to_coordinates @ (smooth * np.sqrt(spread) / (prior + noise) * coordinates)

    def predict(points: np.ndarray) -> np.ndarray:
        return mean + _kernel(points, landmarks, length) @ weights

    return SmoothedVotes(expected, np.sqrt(variance), predict)


def preferences(rounds: Sequence[SmoothedVotes], embeddings: np.ndarray) -> np.ndarray:
    """Put together what the votes of all rounds say of texts: how many times as many there should be of each.

    Post-processing, as `smooth_votes`. A round compares its candidates with each other, and those of a later round
    were chosen by the rounds before; so a text's votes, in units of its round's mean, are multiplied over rounds.

    Args:
        rounds (`Sequence[SmoothedVotes]`): The rounds.
        embeddings (`np.ndarray` of shape `(n, d)`): Unit embeddings of the texts.

    Returns:
        `np.ndarray` of shape `(n,)`: Factors above zero.
    """
    factors = np.ones(len(embeddings))
    for smoothed in rounds:
        usual = max(float(np.maximum(smoothed.votes, 0).mean()), np.finfo(float).tiny)
        factors *= np.clip(smoothed.predict(embeddings) / usual, 1 / MAX_CHANGE, MAX_CHANGE)
    return factors


NEIGHBORHOOD = 0.1
"""How far `judge_texts` looks around a text, in units of one minus the cosine of two embeddings."""


def judge_texts(embeddings: np.ndarray, seeds: np.ndarray, preferences_of_seeds: np.ndarray) -> np.ndarray:
    """Tell how much the votes speak for texts that nobody voted on, by the seeds around them.

    Args:
        embeddings (`np.ndarray` of shape `(n, d)`): Unit embeddings of the texts.
        seeds (`np.ndarray` of shape `(m, d)`): Unit embeddings of the seeds.
        preferences_of_seeds (`np.ndarray` of shape `(m,)`): Their `preferences`.

    Returns:
        `np.ndarray` of shape `(n,)`: Mean logarithm of the seeds' preferences, weighted by nearness (Nadaraya 1964).
    """
    judged = np.empty(len(embeddings))
    for start in range(0, len(embeddings), 256):  # However many seeds there are, the kernel stays small.
        nearness = _kernel(embeddings[start : start + 256], seeds, NEIGHBORHOOD)
        judged[start : start + 256] = nearness @ np.log(preferences_of_seeds) / nearness.sum(axis=1)
    return judged


def _kernel(left: np.ndarray, right: np.ndarray, length: float) -> np.ndarray:
    return np.exp((left.astype(np.float64) @ right.T.astype(np.float64) - 1) / length)


def _check_finite(votes: np.ndarray) -> None:
    if not np.isfinite(votes).all():
        raise ValueError("`votes` holds NaN or infinite counts: check the pool of clients that released them.")


def threshold_votes(votes: np.ndarray, threshold: float | np.ndarray) -> np.ndarray:
    """Subtract the threshold `H` from a noisy histogram and cut it off at zero (Algorithm 2).

    Where that leaves nothing, the largest noisy counts are kept with equal weight instead, and a warning is logged:
    the run goes on, on little evidence.

    Args:
        votes (`np.ndarray` of shape `(m,)`): Noisy histogram, in votes.
        threshold (`float` or `np.ndarray` of shape `(m,)`): Threshold in votes, of all bins or of each.

    Returns:
        `np.ndarray` of shape `(m,)`: Weights, not negative and not all zero.

    Raises:
        ValueError: Some votes are not finite.
    """
    _check_finite(votes)
    weights = np.maximum(votes - threshold, 0.0)
    if weights.any():
        return weights
    keep = max(1, len(votes) // FALLBACK_SHARE)
    logger.warning(
        "No candidate has more votes than the threshold of %.4g: the %d with the most go on instead. The noise "
        "drowns the votes; a larger `epsilon`, fewer `num_rounds`, a smaller `population_size` or more clients help.",
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
        num_above_threshold (`int`): Candidates whose votes, smoothed or not, passed the threshold.
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
